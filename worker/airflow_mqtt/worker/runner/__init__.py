"""What runs in a runner process: the only place on the device that imports Airflow.

The worker starts `host` (one warm process), which forks a `supervise` for each job; that runs the Task SDK's
supervisor with the `transport` that carries its calls to the worker.
"""
