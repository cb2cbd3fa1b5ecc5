"""Our command line as the release after this one may be: it speaks the next revision of the protocol, and this one too."""

import sys

from airflow_mqtt import protocol

protocol.PROTOCOL_VERSION += 1  # before anything else has read it

from airflow_mqtt.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
