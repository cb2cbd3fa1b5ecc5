"""The daemon between database, MQTT broker and Airflow's Execution API. See `docs/explanation/architecture.md`."""
