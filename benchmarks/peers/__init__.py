"""Executors side by side, on the same work, on one machine, in one run: `make bench`.

Each *system* is an executor with all that belongs to it: an Airflow site of its own (database, api-server, scheduler,
dag-processor, with Airflow's own defaults), its helpers (Redis, Mosquitto, a bridge) and one worker. It is measured in
a virtual environment of its own, which `environments` makes, by a process that runs there (`python -m peers.measure`):
what is installed beside an executor costs its worker memory. As root the worker lives in a network namespace with one
cable to the rest: what passes there is the device's link, whatever the worker talks to.
"""
