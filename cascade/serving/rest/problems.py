"""Problem details (RFC 9457): the answer to a request that gets no result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

PROBLEM_TYPE = "application/problem+json"
CLIENT_LEFT = 499
"""Status in logs and metrics of a request whose client has left; no client ever sees it."""

_ESCAPES = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))


class HttpProblem(Exception):
    """A request cannot be answered as asked.

    Attributes:
        status: HTTP status code.
        detail: what was wrong and what to do, for the client.
        errors: the fields that were wrong, each with ``field`` and ``message``.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def busy(detail: str, *, seconds: float = 1.0) -> HttpProblem:
    """A 503 with the seconds after which to try again."""
    return HttpProblem(503, detail, headers={"Retry-After": str(max(1, round(seconds)))})


def problem_response(problem: HttpProblem, scope: Scope) -> Response:
    """The answer to send for a problem."""
    document: dict[str, Any] = {
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request_id(scope),
    }
    if problem.errors:
        document["errors"] = [dict(error) for error in problem.errors]
    text = json.dumps(document, ensure_ascii=False)
    return Response(
        harmless_json(text),
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_TYPE,
    )


def harmless_json(text: str) -> bytes:
    """JSON as bytes in which no character starts HTML."""
    data = text.encode("utf-8", "backslashreplace")
    for character, escape in _ESCAPES:
        data = data.replace(character, escape)
    return data


def request_id(scope: Scope) -> str:
    """The name of a request in answers and logs."""
    return str(scope.get("state", {}).get("request_id", ""))
