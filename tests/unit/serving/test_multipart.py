from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.multipart import read_field
from shared.errors import InvalidInputError

TYPE = "multipart/form-data; boundary=xyz"


def body(content: bytes, name: str = "image") -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
    return head.encode() + content + b"\r\n--xyz--\r\n"


@given(st.binary().filter(lambda content: b"\r\n--xyz" not in content))
def test_field_is_returned_byte_for_byte(content: bytes) -> None:
    assert read_field(body(content), TYPE, "image") == content


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (body(b"x"), "multipart/form-data", "boundary"),
        (body(b"x")[:-6], TYPE, "no end"),
        (b"", TYPE, "no end"),
        (body(b"x", name="other"), TYPE, "no such field"),
        (b"--xyz\r\n\r\nx\r\n--xyz--", TYPE, "no such field"),
    ],
)
def test_form_that_lacks_something_is_refused(data: bytes, kind: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        read_field(data, kind, "image")


@given(st.binary(), st.text(max_size=20))
def test_any_bytes_are_read_or_refused(data: bytes, boundary: str) -> None:
    with contextlib.suppress(InvalidInputError):
        assert isinstance(read_field(data, f"multipart/form-data; boundary={boundary}", "image"), bytes)
