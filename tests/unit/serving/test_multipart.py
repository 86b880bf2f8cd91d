from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.protocols.multipart import read_field, read_files
from agent.serving.requests import MAX_ITEMS
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
        (b"--xyz" + b"\r\n\r\n\r\n--xyz" * 100_000 + b"--", TYPE, "too many fields"),
        (b'--xyz\r\nContent-Disposition: form-data; name="' + b";" * 9000 + b'"\r\n\r\nx\r\n--xyz--', TYPE, "head"),
    ],
)
def test_form_that_lacks_something_is_refused(data: bytes, kind: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        read_field(data, kind, "image")


@given(st.binary(), st.text(max_size=20))
def test_any_bytes_are_read_or_refused(data: bytes, boundary: str) -> None:
    with contextlib.suppress(InvalidInputError):
        assert isinstance(read_field(data, f"multipart/form-data; boundary={boundary}", "image"), bytes)


@pytest.mark.parametrize("count", [1, MAX_ITEMS])
def test_form_holds_as_many_fields_as_a_request_items(count: int) -> None:
    part = b'--xyz\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n'
    assert len(read_files(part * count + b"--xyz--\r\n", TYPE)) == count
    with pytest.raises(InvalidInputError, match="too many"):
        read_files(part * (MAX_ITEMS + 1) + b"--xyz--\r\n", TYPE)
