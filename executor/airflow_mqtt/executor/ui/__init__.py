"""The HTTP API for operators, and what Airflow's page for them is made of.

`app` makes the application that Airflow's api-server mounts at `/mqtt`. `reading` and `acts` are its routes:
each asks `permissions` first, then calls `database.queries` or `acting`, as the commands do. It keeps nothing between
two requests, so that any number of api-servers may run. `static` serves the page itself, the modules in `page/`: they
run in the browser, on the React that Airflow's page shares, ask the API and show what it says as text.

Who may do what is Airflow's auth manager's to say, see `permissions`. Who dies in a request leaves a transaction that
is either committed, with its record, or not.
"""
