"""What Airflow learns of us when it looks for providers. It must be quick, and must not import Airflow."""

from typing import Any, Final

from airflow_mqtt.config.bridge import SETTINGS
from airflow_mqtt.config.settings import Setting

_VERSION_ADDED: Final = "0.1.0"

_SECTION: Final = """\
Settings of airflow-mqtt. The executor writes jobs into Airflow's database and never talks to the broker: of these
it reads `callback_queue`, `callback_queued_timeout`, `edge_metrics`, `start_within` and `allow`; triggerers read
`log_limit`. All but the first four are read by `airflow-mqtt bridge run` where it finds this file, unless a flag, an
environment variable `AIRFLOW_MQTT_<NAME>` or its own file says otherwise.
"""


def _executor_options() -> dict[str, dict[str, Any]]:
    return {
        "callback_queue": {
            "description": "Queue of the callbacks that run on workers (deadline alerts, Airflow 3.3 on)."
            " Where it is not set, the one to which tasks of their Dag went last; where there is none, one that workers"
            " serve: `[operators] default_queue`, or the one with the most workers.",
            "version_added": _VERSION_ADDED,
            "type": "string",
            "example": "gateways",
            "default": None,
        },
        "callback_queued_timeout": {
            "description": "Seconds after which a callback that no worker has started is failed."
            " Where it is not set, `[scheduler] task_queued_timeout`, which does the same with tasks.",
            "version_added": _VERSION_ADDED,
            "type": "float",
            "example": "3600",
            "default": None,
        },
        "edge_metrics": {
            "description": "Whether schedulers say figures of workers and jobs under the names of Airflow's Edge"
            " provider (`edge_worker.*`), where Airflow has metrics at all (`[metrics]`). Anything but true and false"
            " is an error, and counts as false.",
            "version_added": _VERSION_ADDED,
            "type": "boolean",
            "example": "false",
            "default": "true",
        },
        "start_within": {
            "description": "Seconds within which a job must have begun after it was queued, by queue, comma-separated;"
            " `*` is for the queues that are not named, 0 for no limit. A job that has not begun by then fails."
            ' A task may say otherwise: `executor_config={"mqtt": {"start_within": 60}}`.',
            "version_added": _VERSION_ADDED,
            "type": "string",
            "example": "gateways=600,*=0",
            "default": None,
        },
    }


def _bridge_option(setting: Setting) -> dict[str, Any]:
    option: dict[str, Any] = {
        "description": f"{setting.help} Allowed: {setting.allowed}.",
        "version_added": _VERSION_ADDED,
        "type": "string",
        "example": None,
        # The bridge knows its defaults; here they would look like a choice that somebody made.
        "default": None,
    }
    if setting.default:
        option["description"] += f" By default {setting.default}."
    if setting.secret:
        option["sensitive"] = True
    return option


def get_provider_info() -> dict[str, Any]:
    """Return the metadata that the entry point `apache_airflow_provider` promises.

    Its form is `airflow/provider_info.schema.json`. Airflow 3.1 knows neither `db-managers` nor `cli` and skips them.
    """
    return {
        "package-name": "airflow-mqtt",
        "name": "MQTT",
        "description": "Runs tasks on edge devices that can reach nothing but an MQTT broker.",
        "executors": ["airflow_mqtt.executor.MqttExecutor"],
        "db-managers": ["airflow_mqtt.executor.db.MqttDBManager"],
        "cli": ["airflow_mqtt.executor.cli.definition.get_mqtt_cli_commands"],
        "config": {
            "mqtt": {
                "description": _SECTION,
                "options": {
                    **_executor_options(),
                    **{setting.name: _bridge_option(setting) for setting in SETTINGS},
                },
            }
        },
    }
