"""The command group `airflow mqtt`."""
