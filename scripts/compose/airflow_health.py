"""Health of one of Airflow's parts, as Airflow itself judges it: `airflow_health.py metadatabase|scheduler|…`.

The api-server answers from the heartbeats in the database. A scheduler that hangs, or has lost its database, has none.
"""

import json
import sys
import urllib.error
import urllib.request

URL = "http://{host}:8080/api/v2/monitor/health"


def main() -> int:
    part = sys.argv[1]
    host = "127.0.0.1" if part == "metadatabase" else "api-server"
    try:
        with urllib.request.urlopen(URL.format(host=host), timeout=6) as answer:  # noqa: S310  a fixed http:// URL
            health = json.load(answer)
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        print(f"the api-server does not answer: {error}")
        return 1
    state = (health.get(part) or {}).get("status")
    print(f"{part}: {state}")
    return 0 if state == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main())
