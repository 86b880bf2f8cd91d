"""What the controller's repository signs is what the device's client believes: the same words on both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.delivery.repository import RepositorySettings, refresh
from controller.facts import PublishedFile
from controller.trust.keyring import KeyRing
from controller.trust.repository import Repository
from shared.clock import SystemClock
from shared.ids import HardwareProfileId, InstallationId
from shared.manifest import digest
from tests.support.device_api import DeviceServer

if TYPE_CHECKING:
    from pathlib import Path

MODEL = b"a model"
FILE = PublishedFile(
    path=f"artifacts/{digest(MODEL)}.tflite",
    sha256=digest(MODEL),
    length_bytes=len(MODEL),
    release_counter=12,
    profiles=(HardwareProfileId("generic"),),
)
INSTALLATION = InstallationId("0190a000-0000-7000-8000-0000000000ff")


def serve(server: DeviceServer, repository: Repository) -> None:
    server.repository.metadata = {path.name: path.read_bytes() for path in repository.metadata_folder.glob("*.json")}


async def test_device_believes_what_the_controller_signed(tmp_path: Path) -> None:
    keys = KeyRing(tmp_path / "keys")
    keys.make_missing()
    folder = tmp_path / "metadata"
    repository = Repository.open(
        folder=folder, keys=keys, director_key_hex="ab" * 32, installation_id=INSTALLATION, clock=SystemClock()
    )
    repository.publish([FILE])
    repository.raise_min_release_counter(11)
    async with DeviceServer(tmp_path) as server:
        identity = server.enrol_here(tmp_path / "state")
        serve(server, repository)
        settings = RepositorySettings(
            base_url=f"{identity.controller_url}/device/v1/tuf",
            metadata_dir=str(tmp_path / "state" / "tuf"),
            root=repository.bootstrap_root(),
            identity_dir=str(tmp_path / "state" / "identity"),
        )
        verified = await refresh(settings, [FILE.path])
    director = verified.director
    assert (director.installation_id, director.min_release_counter) == (INSTALLATION, 11)
    assert list(director.keys.values()) == ["ab" * 32]
    assert msgspec.structs.asdict(verified.files[FILE.path]) == {
        "length_bytes": len(MODEL),
        "sha256": digest(MODEL),
        "release_counter": 12,
        "profiles": ("generic",),
    }
