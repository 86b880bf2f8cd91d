"""How much JSON is read into values: what stands in a few bytes of text may take a hundred times the memory."""

from __future__ import annotations

from typing import Final

from shared.errors import InvalidInputError

MAX_NUMBERS: Final = 4 * 1024 * 1024
"""Values in one text: some 30 pictures of 224 x 224 as numbers. Each takes 32 bytes where two of text name it."""

MAX_NESTED: Final = 512 * 1024
"""Lists and objects in one text, which take up to 250 bytes each: ten such pictures with a list for every pixel."""


def check_json(text: bytes) -> None:
    """Refuse a text of more values than this. Raises InvalidInputError."""
    # No shorter text has as many of anything.
    if len(text) <= MAX_NESTED:
        return
    if text.count(b"[") + text.count(b"{") > MAX_NESTED:
        raise _too_many("lists or objects", MAX_NESTED)
    if text.count(b",") > MAX_NUMBERS:
        raise _too_many("values", MAX_NUMBERS)


def _too_many(what: str, most: int) -> InvalidInputError:
    remedy = "send fewer items at once, or tensors as bytes behind the JSON"
    return InvalidInputError(field="body", problem=f"holds more than {most} {what}", remedy=remedy)
