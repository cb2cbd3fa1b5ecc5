"""`docker compose run --rm demo`: run the example Dag on the site that Compose started, and print what happened.

What `make demo` prints, by the same code; here nothing is started or stopped.
"""

import os
import sys

import httpx

from demo import example
from demo.client import AirflowClient


def main() -> int:
    teller = example.Teller()
    client = AirflowClient("http://api-server:8080", password=os.environ["AIRFLOW_ADMIN_PASSWORD"])
    try:
        good = example.run(client, teller)
    except (httpx.HTTPError, TimeoutError) as error:
        print(f"\ndemo: {error}\nSee: docker compose ps, docker compose logs", file=sys.stderr)
        return 1
    teller.end(good=good)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
