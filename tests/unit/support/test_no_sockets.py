"""A unit test that uses the network fails, however deep below it the socket is."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest

from tests.support.no_sockets import SocketUsedError
from tests.support.ports import free_port


def test_unit_test_binding_a_port_is_refused() -> None:
    with pytest.raises(SocketUsedError, match="tests/integration"):
        free_port()


def test_unit_test_connecting_is_refused() -> None:
    with socket.socket() as client, pytest.raises(SocketUsedError):
        client.connect(("127.0.0.1", 9))


def test_unit_test_fetching_a_url_is_refused() -> None:
    with pytest.raises(SocketUsedError):
        urllib.request.urlopen("http://localhost:9", timeout=1)


async def test_unit_test_running_a_loop_is_allowed() -> None:
    async with asyncio.timeout(5):
        await asyncio.to_thread(int)
