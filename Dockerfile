# The project's images, a target each (the broker's is mosquitto/Dockerfile):
#   docker build --target worker-thin -t airflow-mqtt/worker:thin .   a device: the base install alone
#   docker build --target worker -t airflow-mqtt/worker .             a device, with Airflow's Task SDK
#   docker build --target bridge -t airflow-mqtt/bridge .             airflow-mqtt[bridge], and no Airflow
#   docker build --target airflow -t airflow-mqtt/airflow .           Airflow with the executor
# The thin worker runs tasks with the Python that AIRFLOW_MQTT_PYTHON names: mount it, or build on top.
# BASE_IMAGE is any image of the Debian family with Python 3.11 or newer and its venv module.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# The packages of others change less often than the source, so they are layers of their own. The smaller images come first:
# a builder older than BuildKit makes all that stands before its target.

FROM ${BASE_IMAGE} AS packages
# Where a package has no wheel for the machine (arm/v7): --build-arg BUILD_PACKAGES="gcc g++ libc6-dev libpq-dev python3-dev"
ARG BUILD_PACKAGES=""
RUN [ -z "$BUILD_PACKAGES" ] || { apt-get update && apt-get install -y --no-install-recommends $BUILD_PACKAGES; }
RUN python3 -m venv /opt/airflow-mqtt
WORKDIR /source
COPY constraints.txt pyproject.toml ./
# Without any source: pip takes the names from pyproject.toml.
RUN mkdir -p protocol/airflow_mqtt config/airflow_mqtt database/airflow_mqtt bridge/airflow_mqtt worker/airflow_mqtt executor/airflow_mqtt monitor/airflow_mqtt cli/airflow_mqtt && touch README.md \
    && /opt/airflow-mqtt/bin/pip install --no-cache-dir -c constraints.txt .

FROM packages AS ours
COPY protocol protocol
COPY config config
COPY database database
COPY worker worker
COPY bridge bridge
COPY executor executor
COPY monitor monitor
COPY cli cli
COPY README.md LICENSE ./
# Laid over the packages of each image; its layer is small, and the same in all of them.
RUN /opt/airflow-mqtt/bin/pip install --no-cache-dir --no-deps --force-reinstall --prefix /ours .

FROM ${BASE_IMAGE} AS part
ARG VERSION=0.1.0
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 airflow-mqtt && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp airflow-mqtt
ENV PATH=/opt/airflow-mqtt/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

FROM part AS device
LABEL org.opencontainers.image.title="airflow-mqtt worker" \
      org.opencontainers.image.description="Runs Airflow's tasks on a device that reaches nothing but an MQTT broker"
RUN install -d -o 10001 -g 10001 -m 700 /var/lib/airflow-mqtt && install -d /dags
COPY scripts/compose/health.py /usr/local/lib/airflow-mqtt/health.py
# The journal is in the volume: what the device has promised survives the container.
ENV AIRFLOW_MQTT_STATE_DIR=/var/lib/airflow-mqtt/state AIRFLOW_HOME=/var/lib/airflow-mqtt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/dags AIRFLOW__CORE__LOAD_EXAMPLES=False
VOLUME /var/lib/airflow-mqtt
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=8s --start-period=30s --retries=3 \
    CMD ["python3", "/usr/local/lib/airflow-mqtt/health.py", "worker"]
ENTRYPOINT ["airflow-mqtt", "worker", "run"]

FROM packages AS worker-thin-packages
RUN /opt/airflow-mqtt/bin/pip uninstall --quiet --yes pip setuptools

FROM device AS worker-thin
COPY --from=worker-thin-packages /opt/airflow-mqtt /opt/airflow-mqtt
COPY --from=ours /ours /opt/airflow-mqtt

FROM packages AS worker-packages
# What the tasks need. `apache-airflow` is not it: the Task SDK and the operators' packages are.
ARG TASK_PACKAGES="apache-airflow-task-sdk apache-airflow-providers-standard"
RUN /opt/airflow-mqtt/bin/pip install --no-cache-dir -c constraints.txt $TASK_PACKAGES \
    && /opt/airflow-mqtt/bin/pip uninstall --quiet --yes pip setuptools

FROM device AS worker
COPY --from=worker-packages /opt/airflow-mqtt /opt/airflow-mqtt
COPY --from=ours /ours /opt/airflow-mqtt

FROM packages AS bridge-packages
RUN /opt/airflow-mqtt/bin/pip install --no-cache-dir -c constraints.txt '.[bridge]' \
    && /opt/airflow-mqtt/bin/pip uninstall --quiet --yes pip setuptools

FROM part AS bridge
LABEL org.opencontainers.image.title="airflow-mqtt bridge" \
      org.opencontainers.image.description="Connects Airflow's database and Execution API with an MQTT broker"
COPY scripts/compose/health.py /usr/local/lib/airflow-mqtt/health.py
COPY --from=bridge-packages /opt/airflow-mqtt /opt/airflow-mqtt
COPY --from=ours /ours /opt/airflow-mqtt
# The health check looks at its age.
ENV AIRFLOW_MQTT_HEALTH_FILE=/tmp/bridge
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=8s --start-period=30s --retries=3 \
    CMD ["python3", "/usr/local/lib/airflow-mqtt/health.py", "bridge"]
ENTRYPOINT ["airflow-mqtt", "bridge", "run"]

FROM packages AS airflow-packages
# More providers, say: --build-arg PACKAGES="apache-airflow-providers-http"
ARG PACKAGES=""
RUN /opt/airflow-mqtt/bin/pip install --no-cache-dir -c constraints.txt '.[airflow]' $PACKAGES \
    && /opt/airflow-mqtt/bin/pip uninstall --quiet --yes pip setuptools

FROM part AS airflow
LABEL org.opencontainers.image.title="Airflow with airflow-mqtt" \
      org.opencontainers.image.description="Apache Airflow with MqttExecutor"
RUN install -d -o 10001 -g 10001 /opt/airflow /opt/airflow/users && install -d /dags
COPY scripts/compose/set_up_site.py scripts/compose/airflow_health.py /usr/local/lib/airflow-mqtt/
COPY --from=airflow-packages /opt/airflow-mqtt /opt/airflow-mqtt
COPY --from=ours /ours /opt/airflow-mqtt
ENV AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__DAGS_FOLDER=/dags AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__EXECUTOR=airflow_mqtt.executor.MqttExecutor
USER 10001:10001
ENTRYPOINT ["airflow"]
