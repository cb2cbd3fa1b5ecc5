"""What has to be done once before Airflow starts: make or update the tables, and the user of the UI.

Ends with 0 when it is done. What a person has to mend is said in one line, with exit code 1.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg2

PASSWORDS = Path(os.environ.get("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", "/opt/airflow/users/passwords"))
DATABASE = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")

#: What PostgreSQL or Alembic says, and what to do about it.
ADVICE = {
    "password authentication failed": (
        "the database refuses the password: its volume was made with another .env. Put that .env back, or remove the"
        " volume with all it holds: docker compose down --volumes"
    ),
    "could not translate host name": (
        "the database has no address: is the service `database` running? See: docker compose logs database"
    ),
    "Connection refused": "the database does not answer: see docker compose logs database",
    "Can't locate revision": (
        "the tables in the database's volume are those of a newer Airflow or airflow-mqtt: use the newer images again,"
        " or remove the volume with all it holds: docker compose down --volumes"
    ),
}


def advice(output: str) -> str | None:
    return next((what for sign, what in ADVICE.items() if sign in output), None)


def refuse(output: str) -> int:
    last = [line for line in output.splitlines() if line.strip()][-1:] or ["no reason given"]
    print(f"set-up: {advice(output) or last[0]}", file=sys.stderr)
    return 1


def main() -> int:
    try:
        psycopg2.connect(DATABASE, connect_timeout=10).close()
    except psycopg2.OperationalError as error:
        return refuse(str(error))
    print("set-up: making or updating the tables", flush=True)
    done = subprocess.run(["airflow", "db", "migrate"], capture_output=True, text=True, check=False)
    if done.returncode:
        output = done.stdout + done.stderr
        if advice(output) is None:
            print(output, file=sys.stderr)
        return refuse(output)
    PASSWORDS.write_text(json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}) + "\n")
    PASSWORDS.chmod(0o600)
    print("set-up: done; the UI's user is admin, its password is AIRFLOW_ADMIN_PASSWORD in .env")
    return 0


if __name__ == "__main__":
    sys.exit(main())
