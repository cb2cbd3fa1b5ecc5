"""The exceptions of airflow-mqtt.

    AirflowMqttError
    ├── PayloadError    the peer's fault: a payload or topic that is not of the protocol
    ├── SettingError    the operator's fault: a setting that is missing, unknown or malformed
    ├── RefusedError    somebody refuses to go on: another bridge leads, access is denied
    │   └── NameInUseError  another living worker has the name
    └── StorageError    the disk's fault: what must be kept cannot be written or read

Expected outcomes (duplicate, stale, full, lost) are values, not exceptions: see `jobs.Verdict`.
"""


class AirflowMqttError(Exception):
    """Base of all exceptions that this project raises on purpose. Its text is one line for a person."""


class PayloadError(AirflowMqttError):
    """A peer sent something that is not of the protocol. Counted, logged once per sender and kind, dropped."""


class SettingError(AirflowMqttError):
    """A setting is missing, unknown or malformed. The text names it, where it was read, and what is allowed."""


class RefusedError(AirflowMqttError):
    """The process must stop, since somebody else holds what it needs or denies it."""


def first_of(error: BaseException) -> BaseException:
    """Return `error`, or the first that a group of tasks raised, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class NameInUseError(RefusedError):
    """Another living worker has the name. To start again does not mend that."""


class StorageError(AirflowMqttError):
    """What must not be forgotten cannot be written, or read. The text names the file and the cause."""
