"""The client of the device endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.link.https import DeviceApi
from agent.link.identity import client_tls, identity_files
from shared.errors import UnreachableError, UntrustedError
from shared.ids import DeviceId
from tests.support.device_api import DeviceServer, Fault
from tests.support.ports import free_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

DEVICE = DeviceId("dev-1")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[DeviceServer]:
    async with DeviceServer(tmp_path) as running:
        running.desired[DEVICE] = b"sealed desired"
        running.pulse = b"sealed pulse"
        yield running


@pytest.fixture
def tls(server: DeviceServer, tmp_path: Path) -> ssl.SSLContext:
    server.enrol_here(tmp_path / "state", DEVICE)
    return client_tls(identity_files(tmp_path / "state"))


@pytest.fixture
async def api(server: DeviceServer, tls: ssl.SSLContext) -> AsyncIterator[DeviceApi]:
    async with DeviceApi(controller_url=server.url + "/", tls=tls, timeout_s=5.0) as client:
        yield client


async def test_session_opened_again_has_a_later_boot(api: DeviceApi, server: DeviceServer) -> None:
    first, second = await api.session(), await api.session()
    assert first.boot_id < second.boot_id
    assert first.mac_key == server.mac_key


async def test_documents_are_given_as_they_were_sealed(api: DeviceApi) -> None:
    assert await api.desired() == b"sealed desired"
    assert await api.pulse() == b"sealed pulse"


async def test_desired_that_does_not_exist_yet_is_none(api: DeviceApi, server: DeviceServer) -> None:
    server.desired.clear()
    assert await api.desired() is None


async def test_device_revoked_is_told_so(api: DeviceApi, server: DeviceServer) -> None:
    server.refused_devices.add(DEVICE)
    with pytest.raises(UntrustedError, match=r"refuses this device: status 403: revoked: .*no longer"):
        await api.desired()


@pytest.mark.parametrize(
    ("fault", "problem"),
    [(Fault.ERROR, "the database is away"), (Fault.REDIRECT, "302"), (Fault.LOSE_REPLY, "pulse")],
)
async def test_controller_in_trouble_is_unreachable(
    api: DeviceApi, server: DeviceServer, fault: Fault, problem: str
) -> None:
    server.faults["pulse"] = fault
    with pytest.raises(UnreachableError, match=problem):
        await api.pulse()
    assert not any("/honest/" in path for path in server.requests)


async def test_controller_overloaded_says_when_to_come_back(api: DeviceApi, server: DeviceServer) -> None:
    server.faults["session"] = Fault.ERROR
    with pytest.raises(UnreachableError) as caught:
        await api.session()
    assert caught.value.retry_after_s == 7.0


async def test_controller_of_before_that_knows_no_request_log_may_know_it_later(
    api: DeviceApi, server: DeviceServer
) -> None:
    server.faults["request-log"] = Fault.MISSING
    with pytest.raises(UnreachableError, match="status 404"):
        await api.send_requests(b"{}\n")


async def test_endless_document_is_cut(api: DeviceApi, server: DeviceServer) -> None:
    server.faults["pulse"] = Fault.ENDLESS
    with pytest.raises(UnreachableError, match="more than 65536 bytes"):
        await api.pulse()


async def test_session_that_is_none_is_unreachable(api: DeviceApi, server: DeviceServer) -> None:
    server.faults["session"] = Fault.FLIP
    with pytest.raises(UnreachableError, match="session is not one"):
        await api.session()


async def test_controller_absent_is_unreachable(tls: ssl.SSLContext) -> None:
    async with DeviceApi(controller_url=f"https://localhost:{free_port()}", tls=tls) as client:
        with pytest.raises(UnreachableError):
            await client.session()


async def test_impostor_of_another_authority_learns_nothing(tls: ssl.SSLContext, tmp_path: Path) -> None:
    folder = tmp_path / "impostor"
    folder.mkdir()
    async with (
        DeviceServer(folder) as impostor,
        DeviceApi(controller_url=impostor.url, tls=tls) as client,
    ):
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.session()
        assert impostor.requests == []


async def test_server_certified_for_another_host_learns_nothing(
    server: DeviceServer, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    async with (
        DeviceServer(folder, authority=server.authority, certified_as="other.example") as other,
        DeviceApi(controller_url=other.url, tls=tls) as client,
    ):
        with pytest.raises(UnreachableError, match="Hostname mismatch"):
            await client.session()
        assert other.requests == []


async def test_target_url_keeps_strange_names_inside_the_path(api: DeviceApi, server: DeviceServer) -> None:
    assert api.target_url("a b/?x#y") == f"{server.url}/device/v1/tuf/targets/a%20b/%3Fx%23y"
