"""How the API answers: JSON with a mark of what is in it, and errors as one text."""

import hashlib
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, StringConstraints
from sqlalchemy.exc import DBAPIError

from airflow_mqtt.config.printing import plain
from airflow_mqtt.database.errors import for_operator
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import cut


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a text without NUL is wanted")
    return text


#: A name or a pattern, and what a person says.
Word = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_without_nul)]


def answer(request: Request, value: Any) -> Response:
    """Answer with `value`, or with 304 when whoever asks has it already.

    The mark is made of the answer itself, so that it cannot be wrong: a browser that looks each few seconds at a fleet
    in which nothing happens is sent nothing.
    """
    body = orjson.dumps(value)
    mark = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {"ETag": mark, "Cache-Control": "private, no-cache"}
    if mark in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def _error(status: int, text: str) -> Response:
    return Response(orjson.dumps({"detail": plain(text)}), status, media_type="application/json")


def answer_errors(app: FastAPI) -> None:
    """Make each error one text."""

    @app.exception_handler(PayloadError)
    def _unfit(_request: Request, error: Exception) -> Response:
        return _error(422, str(error))

    @app.exception_handler(RequestValidationError)
    def _malformed(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _error(
            422, "; ".join(f"{cut('.'.join(map(str, one['loc'][1:])))}: {one['msg']}" for one in error.errors())
        )

    @app.exception_handler(DBAPIError)
    def _database(_request: Request, error: Exception) -> Response:
        return _error(503, for_operator(error))
