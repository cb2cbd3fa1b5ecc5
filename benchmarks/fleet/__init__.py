"""How many jobs and workers one bridge carries, without Airflow: `make bench-fleet`.

Simulated workers (`workers`) speak the protocol over one connection to a real Mosquitto. Jobs are committed as the
executor commits them (`jobs`), the Execution API is a stub that says yes (`stub`). `site` starts and ends the
processes, `scenarios` says what is measured, `measure` does it, `report` makes table, plot and page of it.
"""
