"""The TUF client in its child process, against a real repository on a server that attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.delivery.repository import RepositorySettings, refresh
from shared.errors import LitefleetError, StorageFullError, UnreachableError, UntrustedError
from shared.manifest import digest
from tests.support.device_api import INSTALLATION, DeviceServer, Fault
from tests.support.file_size import file_size_limit
from tests.support.ports import free_port
from tests.support.tuf_repository import TufRepository

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from shared.ids import KeyId

MODEL = b"a small model"
PATH = f"artifacts/{digest(MODEL)}.tflite"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[DeviceServer]:
    async with DeviceServer(tmp_path) as running:
        running.repository.add(PATH, MODEL, release_counter=7)
        running.repository.publish()
        yield running


@pytest.fixture
def settings(server: DeviceServer, tmp_path: Path) -> RepositorySettings:
    state = tmp_path / "state"
    identity = server.enrol_here(state)
    return RepositorySettings(
        base_url=f"{server.url}/device/v1/tuf",
        metadata_dir=str(state / "tuf"),
        root=identity.tuf_root,
        identity_dir=str(state / "identity"),
        deadline_s=30.0,
    )


def impatient(settings: RepositorySettings) -> RepositorySettings:
    return msgspec.structs.replace(settings, grace_s=0.5)


async def test_refresh_honest_repository_vouches_for_director_and_file(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    verified = await refresh(settings, [PATH])
    key, public = server.director_key
    assert verified.director.keys == {key: public}
    assert verified.director.installation_id == INSTALLATION
    assert verified.director.expires_at == server.repository.expires
    assert verified.fresh_until == server.repository.expires
    file = verified.files[PATH]
    assert (file.length_bytes, file.sha256, file.release_counter) == (len(MODEL), digest(MODEL), 7)
    assert file.profiles == ("generic",)


async def test_refresh_again_asks_only_for_what_could_be_new(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    first = await refresh(settings, [PATH])
    server.requests.clear()
    assert await refresh(settings, [PATH]) == first
    assert [path.rpartition("/")[2] for path in server.requests] == ["2.root.json", "timestamp.json"]


async def test_refresh_new_file_is_found(server: DeviceServer, settings: RepositorySettings) -> None:
    await refresh(settings, [PATH])
    server.repository.add("releases/r2.json", b"{}")
    server.repository.publish()
    assert "releases/r2.json" in (await refresh(settings, ["releases/r2.json"])).files


async def test_refresh_unlisted_file_is_not_vouched_for(settings: RepositorySettings) -> None:
    assert (await refresh(settings, ["artifacts/never-released.tflite"])).files == {}


async def test_director_named_by_stolen_bin_key_is_not_believed(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    forged: dict[KeyId, str] = dict([server.director_key])
    note = {"keys": {"0" * 64: "f" * 64}, "min_release_counter": 0, "installation_id": INSTALLATION}
    server.repository.add_note("director.json", b"", note)
    server.repository.publish()
    assert (await refresh(settings, ["director.json"])).director.keys == forged
    server.repository.remove_director()
    server.repository.publish()
    with pytest.raises(UntrustedError, match=r"no director\.json"):
        await refresh(settings, ["director.json"])


async def test_director_key_replaced_is_seen(server: DeviceServer, settings: RepositorySettings) -> None:
    await refresh(settings, [])
    server.repository.set_director({"1" * 64: "2" * 64}, INSTALLATION, 5)
    server.repository.publish()
    director = (await refresh(settings, [])).director
    assert (director.keys, director.min_release_counter) == ({"1" * 64: "2" * 64}, 5)


async def test_director_key_that_is_none_is_untrusted(server: DeviceServer, settings: RepositorySettings) -> None:
    server.repository.set_director({"1" * 64: "not a key"}, INSTALLATION, 0)
    server.repository.publish()
    with pytest.raises(UntrustedError, match=r"director\.json.*keys"):
        await refresh(settings, [])


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "bins-"])
async def test_hostile_mirror_flipping_metadata_is_untrusted(
    server: DeviceServer, settings: RepositorySettings, name: str
) -> None:
    server.faults[name] = Fault.FLIP
    with pytest.raises(UntrustedError):
        await refresh(settings, [PATH])
    server.faults.clear()
    assert PATH in (await refresh(settings, [PATH])).files


@pytest.mark.parametrize("name", ["timestamp.json", "bins-"])
async def test_hostile_mirror_truncating_metadata_brings_nothing(
    server: DeviceServer, settings: RepositorySettings, name: str
) -> None:
    server.faults[name], server.cut_after = Fault.TRUNCATE, 100
    with pytest.raises(LitefleetError):
        await refresh(settings, [PATH])
    server.faults.clear()
    assert PATH in (await refresh(settings, [PATH])).files


async def test_hostile_mirror_redirecting_is_not_followed(server: DeviceServer, settings: RepositorySettings) -> None:
    server.faults["timestamp.json"] = Fault.REDIRECT
    with pytest.raises(UnreachableError, match="redirects are not followed"):
        await refresh(settings, [PATH])
    assert not any("/honest/" in path for path in server.requests)


async def test_endless_metadata_is_cut_at_the_signed_length(server: DeviceServer, settings: RepositorySettings) -> None:
    server.faults["snapshot.json"] = Fault.ENDLESS
    with pytest.raises(UntrustedError, match="exceeding"):
        await refresh(settings, [PATH])
    # What the sockets buffer, beyond what the client read, is all that was sent.
    assert server.sent_bytes < 16 * 1024 * 1024


@pytest.mark.parametrize("fault", [Fault.TRICKLE, Fault.STALL])
async def test_slow_retrieval_is_refused_within_two_spans(
    server: DeviceServer, settings: RepositorySettings, fault: Fault
) -> None:
    server.faults["timestamp.json"] = fault
    with pytest.raises(UnreachableError, match=r"bytes a second|cut"):
        await refresh(impatient(settings), [PATH])
    server.faults.clear()
    assert PATH in (await refresh(settings, [PATH])).files


async def test_repository_slower_than_the_deadline_is_unreachable(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    server.faults["timestamp.json"] = Fault.STALL
    with pytest.raises(UnreachableError, match="longer than 2 s"):
        await refresh(msgspec.structs.replace(settings, deadline_s=2.0), [PATH])


async def test_rollback_of_timestamp_is_untrusted(server: DeviceServer, settings: RepositorySettings) -> None:
    old = server.repository.metadata["timestamp.json"]
    server.repository.publish_timestamp()
    await refresh(settings, [PATH])
    server.repository.metadata["timestamp.json"] = old
    with pytest.raises(UntrustedError, match="version"):
        await refresh(settings, [PATH])


async def test_rollback_of_a_bin_under_a_new_snapshot_is_untrusted(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    await refresh(settings, [PATH])
    name = next(name for name in server.repository.metadata if name.startswith("2.bins-"))
    server.repository.add(PATH, MODEL, release_counter=8)
    server.repository.publish()
    newest = name.replace("2.", "3.", 1)
    server.repository.metadata[newest] = server.repository.metadata[name]
    with pytest.raises(UntrustedError, match="v3, got v2"):
        await refresh(settings, [PATH])


async def test_mix_and_match_of_snapshot_and_timestamp_is_untrusted(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    served = server.repository.metadata
    before = max(int(name.split(".")[0]) for name in served if name.endswith(".snapshot.json"))
    server.repository.add("releases/r2.json", b"{}")
    server.repository.publish()
    served[f"{before + 1}.snapshot.json"] = served[f"{before}.snapshot.json"]
    with pytest.raises(UntrustedError):
        await refresh(settings, [PATH])


async def test_frozen_repository_past_its_expiry_is_untrusted(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    server.repository.expires = server.repository.expires.replace(year=2020)
    server.repository.publish_timestamp()
    with pytest.raises(UntrustedError, match="expired"):
        await refresh(settings, [PATH])


async def test_repository_of_another_root_is_untrusted(server: DeviceServer, settings: RepositorySettings) -> None:
    server.repository = TufRepository(director_keys={"0" * 64: "f" * 64}, installation_id=INSTALLATION)
    with pytest.raises(UntrustedError, match="signed by"):
        await refresh(settings, [])


async def test_root_rotated_three_times_is_followed_by_a_device_that_missed_it(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    for _ in range(3):
        server.repository.rotate("root")
    server.repository.rotate("timestamp")
    server.repository.publish_timestamp()
    assert PATH in (await refresh(settings, [PATH])).files


async def test_metadata_by_a_replaced_key_is_untrusted(server: DeviceServer, settings: RepositorySettings) -> None:
    server.repository.rotate("timestamp")
    with pytest.raises(UntrustedError, match="signed by"):
        await refresh(settings, [])


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.MISSING])
async def test_server_in_trouble_is_unreachable_not_untrusted(
    server: DeviceServer, settings: RepositorySettings, fault: Fault
) -> None:
    server.faults["timestamp.json"] = fault
    with pytest.raises(UnreachableError, match="timestamp"):
        await refresh(settings, [])


async def test_server_absent_is_unreachable(settings: RepositorySettings) -> None:
    elsewhere = msgspec.structs.replace(settings, base_url=f"https://localhost:{free_port()}/device/v1/tuf")
    with pytest.raises(UnreachableError):
        await refresh(elsewhere, [])


async def test_server_of_another_authority_is_not_spoken_to(settings: RepositorySettings, tmp_path: Path) -> None:
    folder = tmp_path / "impostor"
    folder.mkdir()
    async with DeviceServer(folder) as impostor:
        elsewhere = msgspec.structs.replace(settings, base_url=f"{impostor.url}/device/v1/tuf")
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            await refresh(elsewhere, [])
        assert impostor.requests == []


async def test_target_with_unusable_note_is_untrusted(server: DeviceServer, settings: RepositorySettings) -> None:
    server.repository.add_note("releases/odd.json", b"{}", {"release_counter": "many"})
    server.repository.publish()
    with pytest.raises(UntrustedError, match=r"releases/odd\.json.*release_counter"):
        await refresh(settings, ["releases/odd.json"])


async def test_metadata_damaged_on_disk_is_fetched_again(
    server: DeviceServer, settings: RepositorySettings, tmp_path: Path
) -> None:
    await refresh(settings, [PATH])
    for path in (tmp_path / "state" / "tuf").glob("*.json"):
        path.write_bytes(b"\x00" * 10)
    assert PATH in (await refresh(settings, [PATH])).files
    assert server.repository.root


async def test_child_that_cannot_start_is_told_with_its_words(settings: RepositorySettings) -> None:
    broken = msgspec.structs.replace(settings, identity_dir="/nowhere")
    with pytest.raises(UnreachableError, match="No such file"):
        await refresh(broken, [])


async def test_disk_full_under_metadata_is_storage_full(settings: RepositorySettings) -> None:
    with file_size_limit(1024), pytest.raises(StorageFullError):
        await refresh(settings, [PATH])
    assert PATH in (await refresh(settings, [PATH])).files


async def test_refresh_optional_files_are_those_that_the_repository_has(
    server: DeviceServer, settings: RepositorySettings
) -> None:
    server.repository.add("deltas/a-b.delta", b"delta", profiles=())
    server.repository.publish()
    verified = await refresh(settings, [PATH], optional=["deltas/a-b.delta", "deltas/none.delta"])
    assert sorted(verified.files) == [PATH, "deltas/a-b.delta"]


@pytest.mark.parametrize("fault", [Fault.FLIP, Fault.MISSING, Fault.ERROR, Fault.TRUNCATE])
async def test_refresh_trouble_with_an_optional_file_is_none(
    server: DeviceServer, settings: RepositorySettings, fault: Fault
) -> None:
    server.repository.add("deltas/a-b.delta", b"delta", profiles=())
    server.repository.publish()
    # Once without it, so that only the bin of the optional file is still to come.
    await refresh(settings, [PATH])
    server.faults["bins-"] = fault
    assert sorted((await refresh(settings, [PATH], optional=["deltas/a-b.delta"])).files) == [PATH]
