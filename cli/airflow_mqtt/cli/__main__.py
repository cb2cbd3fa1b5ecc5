"""`python -m airflow_mqtt.cli`."""

import sys

from airflow_mqtt.cli.main import main

sys.exit(main())
