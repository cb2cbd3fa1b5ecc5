"""What Airflow loads: `MqttExecutor`, the database manager, the log reader, the CLI group `airflow mqtt`."""
