"""A whole airflow-mqtt site on one machine: broker, Airflow, bridge and worker, as the processes they are.

`python -m demo` (with `examples` on the path; `make demo` does it) shows one; the tests start theirs with the same
functions, so there is one way to start a site.
"""
