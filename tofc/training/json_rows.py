"""Rows of a JSON file too large to hold: where each one stands, from one pass in constant memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tofc.errors import UserError

CHUNK = 1 << 18  # bytes read at a time
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
# A value that only the end of the window cuts off is refused this near to it, or inside a string.
_NEAR = 16


@dataclass(frozen=True)
class JsonRow:
    """Row `number` (from 0) with the bytes `start` .. `start + length` of the file, and what it holds."""

    number: int
    start: int
    length: int
    value: dict[str, Any]


def scan_rows(path: Path, chunk: int = CHUNK) -> Iterator[JsonRow]:
    """Every row of `path`: a JSON array of objects, or JSON Lines; UTF-8, with or without byte order mark.

    Holds a window of a few `chunk` bytes, or a few times the longest row. Raises UserError, with row and
    byte, where the file is something else.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give the file of the annotations"
        ) from None
    with file:
        window = _Window(path, file, chunk)
        opening = window.next_mark()
        if opening not in ("[", "{"):
            raise UserError(f"{path} is no list of rows: give a JSON array of objects, or one object a line")
        is_array = opening == "["
        if is_array:
            window.take(window.position + 1)
        number = 0
        while _has_row(window, number, is_array):
            yield window.row(number)
            number += 1


def read_row(file: IO[bytes], start: int, length: int) -> dict[str, Any]:
    """The row that stands at `start`; UserError where the file has changed since it was scanned."""
    file.seek(start)
    try:
        value = json.loads(file.read(length))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(
            f"{file.name} holds no row at byte {start} any more: it has changed since this run began; leave "
            "it as it is and start the run again"
        )
    return value


def _has_row(window: _Window, number: int, is_array: bool) -> bool:
    """Moves to where row `number` begins; False at the end of the list."""
    mark = window.next_mark()
    if not is_array:
        return mark != ""
    if number and mark == ",":
        window.take(window.position + 1)
        window.next_mark()
        return True
    if mark == "]":
        window.take(window.position + 1)
        if window.next_mark():
            raise window.fault(number, "stands behind the end of the list: keep one list in the file")
        return False
    if number:
        found = f"{mark!r} stands" if mark else "the file ends"
        raise window.fault(number, f"{found} where ',' or ']' should be: the file is cut short or damaged")
    return True


class _Window:
    """A stretch of the file as text: `position` is the place in it, `offset` the same in the file's bytes."""

    def __init__(self, path: Path, file: IO[bytes], chunk: int) -> None:
        self.path, self.file, self.chunk = path, file, chunk
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.position, self.offset, self.ended = "", 0, 0, False
        if file.read(3) == codecs.BOM_UTF8:
            self.offset = 3
        else:
            file.seek(0)

    def fault(self, number: int, what: str) -> UserError:
        return UserError(f"{self.path}: row {number}, byte {self.offset}: {what}")

    def take(self, end: int) -> int:
        """Moves on to `end` in the text; returns the bytes in between."""
        length = len(self.text[self.position : end].encode())
        self.position, self.offset = end, self.offset + length
        return length

    def fill(self) -> None:
        """Reads on: twice as far each time that one row wants more, so that long rows cost no square."""
        data = self.file.read(max(self.chunk, len(self.text) - self.position))
        try:
            more = self.decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            # The decoder may hold a few bytes back from before: name the stretch, not the byte.
            place = self.file.tell() - len(data)
            raise UserError(
                f"{self.path}: not UTF-8 behind byte {place} ({error.reason}); save it as UTF-8"
            ) from error
        self.text, self.position = self.text[self.position :] + more, 0
        self.ended = not data

    def next_mark(self) -> str:
        """The next character that is no white space, "" at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.position)
            self.take(match.end() if match else self.position)
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self.fill()

    def row(self, number: int) -> JsonRow:
        """Decodes the row that begins here, reading on as far as it goes."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.position)
                break
            except RecursionError:
                raise self.fault(number, "objects are nested too deeply; a row has two levels") from None
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - _NEAR
                if self.ended or not cut:
                    place = "it ends with the file" if cut else f"{error.pos - self.position} characters on"
                    raise self.fault(number, f"no JSON ({error.msg}, {place}): repair or remove it") from None
            self.fill()
        if not isinstance(value, dict):
            raise self.fault(number, f"is a {type(value).__name__}; a row is an object, {{...}}")
        start = self.offset
        return JsonRow(number, start, self.take(end), value)
