"""Fields of a form with files, as browsers and `curl -F` send it.

Source: RFC 7578; only what is in memory already is read, and nothing is written to disk.
"""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser
from typing import Final

from agent.serving.requests import MAX_ITEMS
from shared.errors import InvalidInputError

FORM = "multipart/form-data"

_MAX_HEAD_BYTES: Final = 4096
"""Of one field: to take apart what is longer costs as its square."""


def read_field(body: bytes, content_type: str, field: str) -> bytes:
    """Return a field's content. `content_type` is the request's header, with the boundary in it.

    Raises:
        InvalidInputError: no boundary, no end, or no such field.
    """
    for name, content in read_files(body, content_type):
        if name == field:
            return content
    raise InvalidInputError(field=field, problem="the form has no such field", remedy=f"curl -F {field}=@FILE")


def read_files(body: bytes, content_type: str) -> list[tuple[object, bytes]]:
    """Return all fields' names and contents, in order. Raises InvalidInputError: no boundary, no end, or too many."""
    described = Message()
    described["Content-Type"] = content_type
    boundary = described.get_boundary()
    if not boundary:
        raise InvalidInputError(field="Content-Type", problem="names no boundary", remedy=f"{FORM}; boundary=…")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(errors="replace"), MAX_ITEMS + 2)
    if len(pieces) > MAX_ITEMS + 2:
        raise InvalidInputError(field="body", problem="the form has too many fields", remedy=f"send 1 to {MAX_ITEMS}")
    if not pieces[-1].startswith(b"--"):
        raise InvalidInputError(field="body", problem="the form has no end")
    parts = (piece.partition(b"\r\n\r\n") for piece in pieces[1:-1])
    return [(_name(head), content) for head, blank, content in parts if blank]


def _name(head: bytes) -> object:
    if len(head) > _MAX_HEAD_BYTES:
        raise InvalidInputError(field="body", problem=f"a field's head has more than {_MAX_HEAD_BYTES} bytes")
    return BytesHeaderParser().parsebytes(head.lstrip()).get_param("name", header="content-disposition")
