"""The version of this distribution, as it is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("airflow-mqtt")
except PackageNotFoundError:  # run from a source tree
    VERSION = "0+source"
