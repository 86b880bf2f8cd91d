"""The device listener over real TLS, called by the agent's own code and by attackers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from agent.delivery.download import DownloadLimits, fetch
from agent.delivery.repository import RepositorySettings, refresh
from agent.link.certificates import own_key, signing_request
from agent.link.enrol import Invite, enrol
from agent.link.https import DeviceApi as AgentApi
from agent.link.identity import Identity, client_tls, identity_files
from controller.blobs import Blobs
from controller.facts import PublishedFile
from controller.fleet.device_routes import Certificate, DeviceApi, add_device_routes
from controller.http.errors import problems
from controller.telemetry.requests import RequestRecords
from controller.trust.authority import Authority
from controller.trust.installation import Publisher
from controller.trust.tls import CertificateFiles, client_context, device_listener_context, peer_of
from shared.clock import SystemClock
from shared.errors import UntrustedError
from shared.ids import DeviceId, HardwareProfileId, InstallationId, RolloutId
from shared.manifest import artifact_path, digest
from shared.wire import HaltMode, TargetRef
from tests.support.database import opened_database, sqlite_url
from tests.support.fleet_world import HARDWARE, OPERATOR, FleetWorld, TestClock, intent
from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MODEL = bytes(range(256)) * 400
CALL_S = 10.0


@dataclass(frozen=True, slots=True)
class Listening:
    """A controller's device listener, and how to reach it."""

    world: FleetWorld
    blobs: Blobs
    publisher: Publisher
    url: str
    folder: Path

    async def invite(self, device: str) -> Invite:
        made = await self.world.fleet.register(device, site="north", labels={}, actor=OPERATOR)
        return Invite(
            device_id=made.device_id,
            token=made.token,
            expires_at=made.expires_at,
            controller_url=self.url,
            ca_pem=self.world.fleet.ca_pem.decode(),
        )

    async def enrolled(self, device: str) -> Identity:
        invite = await self.invite(device)
        return await enrol(invite, state_dir=self.state(device), hardware=HARDWARE)

    def state(self, device: str) -> Path:
        return self.folder / device

    def tls(self, device: str) -> ssl.SSLContext:
        return client_tls(identity_files(self.state(device)))

    def api(self, device: str) -> AgentApi:
        return AgentApi(controller_url=self.url, tls=self.tls(device))

    def anonymous(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.world.trust.authority.ca_file))


def holder_of(connection: ssl.SSLObject | ssl.SSLSocket | None) -> Certificate | None:
    peer = peer_of(connection)
    return None if peer is None else Certificate(common_name=peer.common_name, fingerprint=peer.fingerprint)


@pytest_asyncio.fixture
async def listening(tmp_path: Path) -> AsyncIterator[Listening]:
    clock = TestClock(SystemClock().now())
    async with opened_database(sqlite_url(tmp_path), clock=clock) as database, contextlib.AsyncExitStack() as stack:
        world = FleetWorld(database, clock, tmp_path)
        blobs = Blobs(tmp_path / "blobs", max_blob_bytes=2**20)
        stack.callback(blobs.close)
        publisher = Publisher(world.trust.repository)
        stack.callback(publisher.close)
        app = web.Application(middlewares=[problems])
        api = DeviceApi(
            fleet=world.fleet,
            desired=world.desired,
            pulse=world.pulse,
            targets=publisher,
            requests=RequestRecords(database=database),
            metadata_folder=world.trust.repository.metadata_folder,
            blob_path=blobs.path,
            peer=holder_of,
        )
        add_device_routes(app, api)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        files = world.trust.authority.server_files("device-listener", [LOOPBACK, "localhost"])
        site = web.TCPSite(runner, LOOPBACK, 0, ssl_context=device_listener_context(files))
        await site.start()
        port = runner.addresses[0][1]
        yield Listening(world, blobs, publisher, f"https://{LOOPBACK}:{port}", tmp_path)


async def status_of(
    url: str, tls: ssl.SSLContext, *, method: str = "GET", data: bytes | None = None
) -> tuple[int, str]:
    """Call, and return the status and the problem's reason."""
    async with (
        asyncio.timeout(CALL_S),
        aiohttp.ClientSession() as session,
        session.request(method, url, ssl=tls, data=data) as response,
    ):
        content = await response.read()
    if response.content_type != "application/problem+json":
        return response.status, ""
    return response.status, str(msgspec.json.decode(content)["reason"])


async def test_agent_enrols_opens_a_session_and_is_told_what_to_run(listening: Listening) -> None:
    identity = await listening.enrolled("cam-1")
    assert identity.site == "north"
    assert identity.broker.tls
    async with listening.api("cam-1") as api:
        session = await api.session()
        assert len(session.mac_key) == 32
        assert await api.desired() is None
        await listening.world.desire(intent(DeviceId("cam-1")))
        sealed = await api.desired()
        assert sealed is not None
        assert listening.world.opened(sealed).key_fingerprint == identity.key_fingerprint
        async with listening.world.database.unit_of_work() as uow:
            await listening.world.pulse.halt(uow, RolloutId("bad"), HaltMode.REVERT)
        assert listening.world.opened_pulse(await api.pulse()).halted == {"bad": HaltMode.REVERT}


async def test_agent_renews_its_certificate_and_goes_on_with_it(listening: Listening) -> None:
    await listening.enrolled("cam-1")
    files = identity_files(listening.state("cam-1"))
    async with listening.api("cam-1") as api:
        files.certificate.write_text(await api.renew(signing_request(own_key(files), DeviceId("cam-1"))))
    async with listening.api("cam-1") as api:
        assert (await api.session()).boot_id


async def test_agent_verifies_and_downloads_what_was_published(listening: Listening, tmp_path: Path) -> None:
    identity = await listening.enrolled("cam-1")
    sha256 = await listening.blobs.put_bytes(MODEL)
    path = artifact_path(sha256)
    profiles = (HardwareProfileId("generic"),)
    await listening.publisher.publish(
        [PublishedFile(path=path, sha256=sha256, length_bytes=len(MODEL), release_counter=3, profiles=profiles)]
    )
    settings = RepositorySettings(
        base_url=f"{listening.url}/device/v1/tuf",
        metadata_dir=str(tmp_path / "device-tuf"),
        root=identity.tuf_root,
        identity_dir=str(identity_files(listening.state("cam-1")).folder),
    )
    verified = await refresh(settings, [path])
    assert list(verified.director.keys.values()) == [listening.world.trust.director.public_hex]
    assert verified.files[path].release_counter == 3
    ref = TargetRef(path=path, length_bytes=len(MODEL), sha256=sha256)
    async with listening.api("cam-1") as api:
        await fetch(api.http, api.target_url(path), ref, tmp_path / "model.tflite", DownloadLimits(max_bytes=2**20))
    assert digest((tmp_path / "model.tflite").read_bytes()) == sha256


async def test_target_is_served_in_ranges_under_both_of_its_names(listening: Listening) -> None:
    await listening.enrolled("cam-1")
    sha256 = await listening.blobs.put_bytes(MODEL)
    manifest = PublishedFile(
        path="releases/r1.json", sha256=sha256, length_bytes=len(MODEL), release_counter=1, profiles=()
    )
    await listening.publisher.publish([manifest])
    tls = listening.tls("cam-1")
    for name in ("releases/r1.json", f"releases/{sha256}.r1.json"):
        url = f"{listening.url}/device/v1/tuf/targets/{name}"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, ssl=tls, headers={"Range": "bytes=100-"}) as response,
        ):
            assert response.status == 206
            assert response.headers["ETag"] == f'"{sha256}"'
            assert await response.read() == MODEL[100:]
    assert await status_of(f"{listening.url}/device/v1/tuf/targets/releases/{'0' * 64}.r1.json", tls) == (
        404,
        "not_found",
    )


@pytest.mark.parametrize(
    "name", ["../keys/director/director.pem", "%2e%2e/keys", "9.root.json", "bins-00.json", ".timestamp.json.partial"]
)
async def test_attack_path_out_of_the_metadata_folder_is_not_found(listening: Listening, name: str) -> None:
    await listening.enrolled("cam-1")
    status, _ = await status_of(f"{listening.url}/device/v1/tuf/metadata/{name}", listening.tls("cam-1"))
    assert status == 404


@pytest.mark.parametrize(
    "route", ["desired", "pulse", "tuf/metadata/timestamp.json", "tuf/targets/x", "session", "renew"]
)
async def test_attack_caller_without_a_certificate_is_refused(listening: Listening, route: str) -> None:
    method = "POST" if route in {"session", "renew"} else "GET"
    url = f"{listening.url}/device/v1/{route}"
    assert await status_of(url, listening.anonymous(), method=method) == (401, "unauthenticated")


async def test_attack_certificate_of_another_authority_is_refused_by_tls(listening: Listening, tmp_path: Path) -> None:
    stranger = Authority.open(tmp_path / "stranger", SystemClock())
    files = stranger.controller_files()
    own = CertificateFiles(certificate=files.certificate, key=files.key, ca=listening.world.trust.authority.ca_file)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await status_of(f"{listening.url}/device/v1/pulse", client_context(own))


async def test_attack_controllers_own_certificate_is_no_device(listening: Listening) -> None:
    tls = client_context(listening.world.trust.authority.controller_files())
    assert await status_of(f"{listening.url}/device/v1/desired", tls) == (403, "forbidden")


async def test_removed_device_is_refused_with_a_valid_certificate(listening: Listening) -> None:
    await listening.enrolled("cam-1")
    await listening.world.fleet.remove("cam-1", actor=OPERATOR)
    async with listening.api("cam-1") as api:
        with pytest.raises(UntrustedError, match="no device of the fleet"):
            await api.session()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (422, "invalid_input")),
        (b"{}", (422, "invalid_input")),
        (b"[" * 10_000, (422, "invalid_input")),
        (b"x" * 40_000, (413, "request_entity_too_large")),
    ],
    ids=["empty", "missing", "deep", "huge"],
)
async def test_enrolment_that_is_none_is_refused(listening: Listening, body: bytes, expected: tuple[int, str]) -> None:
    answer = await status_of(f"{listening.url}/device/v1/enrol", listening.anonymous(), method="POST", data=body)
    assert answer == expected


async def test_agent_may_enrol_again_after_a_lost_reply(listening: Listening) -> None:
    invite = await listening.invite("cam-1")
    first = await enrol(invite, state_dir=listening.state("cam-1"), hardware=HARDWARE)
    identity_files(listening.state("cam-1")).document.unlink()
    second = await enrol(invite, state_dir=listening.state("cam-1"), hardware=HARDWARE)
    assert first.key_fingerprint == second.key_fingerprint
    assert second.installation_id == InstallationId(listening.world.trust.installation_id)
