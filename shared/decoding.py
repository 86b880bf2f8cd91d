"""What msgspec raises at bytes that are not what they should be, whoever sent them."""

from __future__ import annotations

from typing import Final

import msgspec

MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Catch all of it wherever bytes come from outside: text that is no UTF-8 and brackets nested by the thousand do not
raise msgspec's own error, and whoever may publish one message must not be able to end the process that reads it."""
