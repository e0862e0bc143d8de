"""Multipart forms, read piece by piece into memory: no part ever touches the disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from cascade.serving.rest.problems import HttpProblem


@dataclass
class Part:
    """One field or file of a form.

    Attributes:
        name: of the field.
        file_name: as the client gave it; ``None`` for a field without a file.
        data: its bytes.
    """

    name: str
    file_name: str | None
    data: bytearray = field(default_factory=bytearray)


class FormReader:
    """Reads one form."""

    def __init__(
        self, content_type: str, *, most_files: int, most_fields: int, longest_value: int
    ) -> None:
        """Prepare to read.

        Args:
            content_type: the request's header, which names the boundary.
            most_files: largest number of parts with a file.
            most_fields: largest number of parts without.
            longest_value: most bytes in a part without a file.

        Raises:
            HttpProblem: 422, there is no usable boundary.
        """
        self.parts: list[Part] = []
        self._most_files = most_files
        self._most_fields = most_fields
        self._longest_value = longest_value
        self._header_name = b""
        self._header_value = b""
        self._disposition: bytes | None = None
        self._complete = False
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not boundary:
            raise _unreadable("its Content-Type names no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._on_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _unreadable(str(error)) from error

    def feed(self, chunk: bytes) -> None:
        """Read on.

        Raises:
            HttpProblem: 422, the form is damaged or has too many or too large parts.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _unreadable(str(error)) from error

    def finish(self) -> list[Part]:
        """All parts, once the whole body was read.

        Raises:
            HttpProblem: 422, the end is missing.
        """
        if not self._complete:
            raise _unreadable("its end is missing")
        return self.parts

    def _begin(self) -> None:
        self._disposition = None

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _unreadable("a part of it has no name")
        file_name = options.get(b"filename")
        part = Part(_text(options[b"name"]), None if file_name is None else _text(file_name))
        self.parts.append(part)
        files = sum(part.file_name is not None for part in self.parts)
        if files > self._most_files:
            raise _unreadable(f"it has more than {self._most_files} files")
        if len(self.parts) - files > self._most_fields:
            raise _unreadable(f"it has more than {self._most_fields} fields")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.data += data[start:end]
        if part.file_name is None and len(part.data) > self._longest_value:
            raise _unreadable(
                f"a field without a file name has more than {self._longest_value} bytes"
            )

    def _end(self) -> None:
        self._complete = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _unreadable(reason: str) -> HttpProblem:
    return HttpProblem(422, f"the multipart form cannot be read: {reason}")
