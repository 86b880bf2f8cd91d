"""Sealed documents over HTTPS, from a controller of which only parts answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.core.events import PulseReceived, TrustRefreshed
from agent.delivery.repository import DirectorTrust, RepositorySettings
from agent.documents import Documents
from agent.link.https import DeviceApi
from agent.link.identity import client_tls, identity_files
from shared.clock import SystemClock
from shared.ids import Epoch, InstallationId, KeyId, RolloutId
from shared.wire import HaltMode, Pulse
from tests.support.device_api import INSTALLATION, DeviceServer, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.core.events import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HALT = {RolloutId("r-1"): HaltMode.REVERT}


class Ear:
    """Documents of one device, and the events that came of them."""

    def __init__(self, state: Path, server: DeviceServer, api: DeviceApi) -> None:
        self.events: list[Event] = []
        identity = server.enrol_here(state)
        settings = RepositorySettings(
            base_url=api.repository_url,
            metadata_dir=str(state / "tuf"),
            root=identity.tuf_root,
            identity_dir=str(state / "identity"),
            deadline_s=30.0,
        )
        self.documents = Documents(
            api=api,
            settings=settings,
            installation_id=INSTALLATION,
            cache=state / "director.json",
            clock=SystemClock(),
            emit=self._hear,
        )

    async def _hear(self, event: Event) -> None:
        self.events.append(event)

    def pulses(self) -> list[Pulse]:
        return [event.pulse for event in self.events if isinstance(event, PulseReceived)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[DeviceServer]:
    async with DeviceServer(tmp_path) as running:
        running.repository.publish()
        pulse = Pulse(installation_id=INSTALLATION, epoch=Epoch(1), serial=1, issued_at=NOW, halted=HALT)
        running.set_pulse(pulse)
        yield running


@pytest.fixture
async def api(server: DeviceServer, tmp_path: Path) -> AsyncIterator[DeviceApi]:
    server.enrol_here(tmp_path / "state")
    tls = client_tls(identity_files(tmp_path / "state"))
    async with DeviceApi(controller_url=server.url, tls=tls) as api:
        yield api


def keep_director(state: Path, server: DeviceServer, installation: InstallationId) -> None:
    """Leave the keys that an earlier life of control has been told."""
    key, public = server.director_key
    trust = DirectorTrust(
        keys={KeyId(key): public},
        min_release_counter=0,
        installation_id=installation,
        expires_at=server.repository.expires,
    )
    (state / "director.json").write_bytes(msgspec.json.encode(trust))


async def test_halt_comes_over_https_while_the_repository_is_away(
    server: DeviceServer, api: DeviceApi, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    keep_director(state, server, INSTALLATION)
    server.faults["metadata"] = Fault.ERROR
    ear = Ear(state, server, api)
    await ear.documents.request()
    assert [pulse.halted for pulse in ear.pulses()] == [HALT]


async def test_director_of_an_installation_that_was_left_is_not_believed(
    server: DeviceServer, api: DeviceApi, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    keep_director(state, server, InstallationId("the-one-before"))
    server.faults["metadata"] = Fault.ERROR
    ear = Ear(state, server, api)
    await ear.documents.request()
    assert ear.events == []


async def test_keys_that_cannot_be_kept_are_good_all_the_same(
    server: DeviceServer, api: DeviceApi, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    # A folder stands where the file belongs: nothing can be written there.
    (state / "director.json").mkdir()
    ear = Ear(state, server, api)
    await ear.documents.request()
    assert [type(event) for event in ear.events] == [TrustRefreshed, PulseReceived]
