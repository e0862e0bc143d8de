"""Images and options out of a request's body; nothing of it touches the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from cascade.config import did_you_mean
from cascade.imaging import printable
from cascade.serving.rest.forms import FormReader, Part
from cascade.serving.rest.problems import HttpProblem
from cascade.serving.rest.schemas import Options

FIELD = "images"
_HOW_TO = (
    "send multipart/form-data with one or more files in the field images, or the bytes of one "
    "image with its Content-Type, such as image/jpeg"
)
_LONGEST_NAME = 255
_LONGEST_VALUE = 1024
_MOST_FIELDS = 16


@dataclass(frozen=True)
class Upload:
    """One image as it was sent.

    Attributes:
        data: the file's bytes.
        name: the file's name as the client gave it, made printable; never a path.
    """

    data: bytes
    name: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.data).hexdigest()


async def read_uploads(request: Request, *, most: int) -> tuple[list[Upload], Options]:
    """Read a whole request.

    Args:
        request: its body is read here.
        most: largest number of images.

    Raises:
        HttpProblem: 422, the body is of another kind, or a field is missing, unknown or wrong.
    """
    query = _query(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        parts = await _read_form(request, most)
        uploads = [_upload(part) for part in parts if part.name == FIELD]
        if not uploads:
            raise _wrong(FIELD, "field required", f"the field {FIELD} is missing; {_HOW_TO}")
        return uploads, _options(query, _fields(parts))
    if kind.startswith("image/") or kind == "application/octet-stream":
        data = await request.body()
        if not data:
            raise _wrong("body", "is empty", f"the body is empty; {_HOW_TO}")
        return [Upload(data)], _options(query, {})
    named = kind if kind.isprintable() and kind else "missing"
    raise _wrong("Content-Type", f"is {named}", f"the Content-Type is {named}; {_HOW_TO}")


async def _read_form(request: Request, most: int) -> list[Part]:
    reader = FormReader(
        request.headers["content-type"],
        most_files=most,
        most_fields=_MOST_FIELDS,
        longest_value=_LONGEST_VALUE,
    )
    async for chunk in request.stream():
        reader.feed(chunk)
    return reader.finish()


def _upload(part: Part) -> Upload:
    if part.file_name is None:
        raise _wrong(FIELD, "must be a file", f"the field {FIELD} is text, not a file; {_HOW_TO}")
    data = bytes(part.data)
    part.data.clear()
    return Upload(data, printable(part.file_name)[:_LONGEST_NAME])


def _fields(parts: Iterable[Part]) -> dict[str, Any]:
    texts: dict[str, list[str]] = {}
    for part in parts:
        if part.name == FIELD:
            continue
        if part.file_name is not None:
            name = printable(part.name)
            raise _wrong(
                name, "unknown field with a file",
                f"files go into the field {FIELD}, not into {name!r}",
            )  # fmt: skip
        texts.setdefault(part.name, []).append(part.data.decode("utf-8", "backslashreplace"))
    return _single(texts)


def _query(request: Request) -> dict[str, Any]:
    parameters = request.query_params
    return _single({name: parameters.getlist(name) for name in parameters})


def _single(texts: Mapping[str, list[str]]) -> dict[str, Any]:
    """Values that were given once; only ``include`` may be given several times."""
    for name, values in texts.items():
        if len(values) > 1 and name != "include":
            shown = printable(name)
            raise _wrong(shown, "given twice", f"{shown} is given twice; give it once")
    return {name: values if name == "include" else values[0] for name, values in texts.items()}


def _options(query: Mapping[str, Any], form: Mapping[str, Any]) -> Options:
    for name in query:
        if name in form:
            shown = printable(name)
            raise _wrong(shown, "given twice", f"{shown} is in the query and in the form")
    given = {name: value for name, value in {**query, **form}.items() if value not in ("", [""])}
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        errors = [_field_error(item) for item in error.errors(include_url=False)]
        detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
        raise HttpProblem(422, detail, errors=errors) from error


def _field_error(item: Mapping[str, Any]) -> dict[str, str]:
    name = printable(str(item["loc"][0]))[:_LONGEST_NAME]
    message = str(item["msg"])
    if item["type"] == "extra_forbidden":
        message = f"is unknown{did_you_mean(name, [*Options.model_fields, FIELD])}"
    return {"field": name, "message": message}


def _wrong(field: str, message: str, detail: str) -> HttpProblem:
    return HttpProblem(422, detail, errors=[{"field": field, "message": message}])
