"""Alembic migrations of our tables; see `airflow_mqtt.executor.db`."""
