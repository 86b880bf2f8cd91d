"""The numbers of a client's own messages: `wire_numbers.py MODULE`; prints message → field → (number, type) as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def numbers(messages: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Return every message's fields, and those of the messages within it."""
    found: dict[str, dict[str, list[int]]] = {}
    for message in messages.values():
        found[message.full_name] = {each.name: [each.number, each.type] for each in message.fields}
        found.update(numbers(message.nested_types_by_name))
    return found


if __name__ == "__main__":
    descriptor = importlib.import_module(sys.argv[1]).DESCRIPTOR
    sys.stdout.write(json.dumps(numbers(descriptor.message_types_by_name)))
