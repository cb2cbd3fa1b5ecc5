"""The application that Airflow's api-server mounts."""

from typing import Final

from fastapi import FastAPI

from airflow_mqtt.config.version import VERSION
from airflow_mqtt.executor.ui import acts, reading
from airflow_mqtt.executor.ui.answers import answer_errors
from airflow_mqtt.executor.ui.static import PageFiles

#: Below where Airflow mounts it.
API: Final = "/api/v1"
PAGE: Final = "/page/{version}"


def make_app() -> FastAPI:
    """Return it. Its pages of documentation would load scripts from elsewhere: there are none."""
    app = FastAPI(title="airflow-mqtt", version=VERSION, docs_url=None, redoc_url=None)
    for router in (reading.router, acts.router):
        app.include_router(router, prefix=API)
    app.mount(PAGE, PageFiles())
    answer_errors(app)
    return app
