"""The settings of TLS to the broker, the same for each command that connects to one."""

from collections.abc import Mapping
from typing import Any, Final

from airflow_mqtt.config.settings import Setting, existing_file
from airflow_mqtt.protocol.errors import SettingError

TLS: Final = (
    Setting("tls_ca_file", existing_file, "a PEM file", "Authorities to trust for mqtts://. Default: the system's."),
    Setting("tls_cert_file", existing_file, "a PEM file", "Client certificate for mqtts://."),
    Setting("tls_key_file", existing_file, "a PEM file", "Key of the client certificate."),
)


def raise_if_half(values: Mapping[str, Any]) -> None:
    """Raise `SettingError` where a certificate has no key, or a key no certificate."""
    if (values["tls_cert_file"] is None) != (values["tls_key_file"] is None):
        raise SettingError("tls_cert_file and tls_key_file go together: give both or none")
