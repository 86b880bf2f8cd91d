"""Keeps a test suite off the network, so that "unit" stays a fact."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# An event loop makes a socket pair for itself, so making sockets stays allowed; reaching out and listening do not.
_FORBIDDEN = frozenset({"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"})
_closed = False


class SocketUsedError(RuntimeError):
    """A test that promised to stay off the network used it."""


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if _closed and event in _FORBIDDEN:
        message = (
            f"{event}{arguments[1:]}: unit tests and simulations use no sockets; move this test to tests/integration"
        )
        raise SocketUsedError(message)


sys.addaudithook(_refuse)


@contextlib.contextmanager
def no_sockets() -> Iterator[None]:
    """Refuse to connect, bind or resolve names inside the block. The interpreter itself asks, so nothing slips by."""
    global _closed  # noqa: PLW0603 - an audit hook can never be removed, so a switch must reach it
    before, _closed = _closed, True
    try:
        yield
    finally:
        _closed = before
