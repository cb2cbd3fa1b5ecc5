"""Answers to workers that the bridge makes up itself, in the form of Airflow's."""

import orjson

from airflow_mqtt.bridge.calls.gate import Refusal
from airflow_mqtt.protocol.messages import Request, Response


def is_success(status: int) -> bool:
    return 200 <= status < 300


def empty(request: Request, status: int) -> Response:
    """Return an answer that says no more than its HTTP status."""
    return Response(id=request.id, journal=request.journal, status=status)


def refused(request: Request, refusal: Refusal) -> Response:
    """Return the answer that says why a request is not forwarded."""
    return failed(request.id, request.journal, refusal)


def failed(id_: str, journal: str, refusal: Refusal) -> Response:
    """Return as `refused` does, where no more is known of the request than this."""
    body = orjson.dumps({"detail": {"reason": refusal.reason, "message": refusal.message}}).decode()
    headers = {"content-type": "application/json"}
    return Response(id=id_, journal=journal, status=refusal.status, headers=headers, body=body)
