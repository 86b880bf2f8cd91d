"""A python-tuf client, which we did not write, judges what the repository publishes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tuf.api.exceptions import BadVersionNumberError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater
from typing_extensions import override

from controller.facts import PublishedFile
from controller.trust.files import open_signing_key
from controller.trust.keyring import KeyRing, Role
from controller.trust.metadata import BIN_NAMES, LIFETIMES, bin_of
from controller.trust.repository import Repository
from shared import manifest
from shared.clock import SystemClock
from shared.errors import ConflictError, InvalidInputError, NotFoundError, UntrustedError
from shared.ids import HardwareProfileId, InstallationId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers it here, without an `__all__`
        TargetFile,
    )

INSTALLATION = InstallationId("0190a000-0000-7000-8000-000000000000")


class SettableClock:
    """Starts at the machine's time, because python-tuf reads that; moved by tests."""

    def __init__(self) -> None:
        self.moved = timedelta()
        self._corrected = timedelta()

    def set_back(self) -> None:
        """Show the right time again; the running time of the process goes on."""
        self._corrected, self.moved = self._corrected + self.moved, timedelta()

    def now(self) -> datetime:
        return SystemClock().now() + self.moved

    def monotonic(self) -> float:
        return (self._corrected + self.moved).total_seconds()


class FolderFetcher(FetcherInterface):
    """Serves a metadata folder in the process, as a mirror would; tests tamper with its copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replaced: dict[str, bytes] = {}
        self.fetched: list[str] = []

    @override
    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rsplit("/", 1)[-1]
        self.fetched.append(name)
        if name in self.replaced:
            return iter([self.replaced[name]])
        path = self.folder / name
        if not path.exists():
            raise DownloadHTTPError("no such file", 404)
        return iter([path.read_bytes()])


class World:
    """A repository and a device that bootstrapped from it."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = SettableClock()
        self.tmp_path = tmp_path
        self.keys = KeyRing(tmp_path / "keys")
        self.director_hex = open_signing_key(self.keys.path(Role.DIRECTOR)).public_key().public_bytes_raw().hex()
        self.repository = self.opened()
        self.bootstrap = self.repository.bootstrap_root()
        self.mirror = FolderFetcher(self.repository.metadata_folder)

    def opened(self) -> Repository:
        return Repository.open(
            folder=self.tmp_path / "metadata",
            keys=self.keys,
            director_key_hex=self.director_hex,
            installation_id=INSTALLATION,
            clock=self.clock,
        )

    def target(self, path: str, device: str = "device") -> TargetFile | None:
        """Refresh a device and look a target up, as an agent does."""
        folder = self.tmp_path / device
        folder.mkdir(exist_ok=True)
        client = Updater(str(folder), "http://mirror/", fetcher=self.mirror, bootstrap=self.bootstrap)
        client.refresh()
        return client.get_targetinfo(path)

    def swap(self, name: str, before: bytes, after: bytes) -> None:
        """Change bytes of a file on the mirror."""
        data = (self.repository.metadata_folder / name).read_bytes()
        assert before in data, f"{name} does not hold {before!r}"
        self.mirror.replaced[name] = data.replace(before, after)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def artifact(text: str = "model", counter: int = 1) -> PublishedFile:
    digest = manifest.digest(text.encode())
    return PublishedFile(
        path=manifest.artifact_path(digest),
        sha256=digest,
        length_bytes=len(text),
        release_counter=counter,
        profiles=(HardwareProfileId("generic"),),
    )


def test_published_file_is_found_by_a_tuf_client(world: World) -> None:
    file = artifact()
    world.repository.publish([file])
    found = world.target(file.path)
    assert found is not None
    assert (found.length, found.hashes) == (file.length_bytes, {"sha256": file.sha256})
    assert found.custom == {"release_counter": 1, "profiles": ["generic"]}


def test_unpublished_file_is_unknown_to_a_tuf_client(world: World) -> None:
    assert world.target("artifacts/none.tflite") is None


def test_director_is_found_in_the_top_level_role(world: World) -> None:
    found = world.target("director.json")
    assert found is not None
    assert found.custom is not None
    assert list(found.custom["keys"].values()) == [world.director_hex]
    assert found.custom["min_release_counter"] == 0
    assert found.custom["installation_id"] == INSTALLATION
    assert not [name for name in world.mirror.fetched if "bins" in name]


def test_publication_touches_only_its_bin_snapshot_and_timestamp(world: World) -> None:
    before = {path.name for path in world.repository.metadata_folder.iterdir()}
    file = artifact()
    world.repository.publish([file])
    after = {path.name for path in world.repository.metadata_folder.iterdir()}
    assert after - before == {f"2.{bin_of(file.path)}.json", "2.snapshot.json"}


def test_publication_repeated_changes_nothing(world: World) -> None:
    world.repository.publish([artifact()])
    timestamp = (world.repository.metadata_folder / "timestamp.json").read_bytes()
    world.repository.publish([artifact()])
    assert (world.repository.metadata_folder / "timestamp.json").read_bytes() == timestamp


def test_publication_of_other_content_under_the_same_path_is_refused(world: World) -> None:
    world.repository.publish([artifact()])
    with pytest.raises(ConflictError, match="other content"):
        world.repository.publish([replace(artifact(), length_bytes=6)])


def test_publication_of_the_same_bytes_for_another_profile_serves_both(world: World) -> None:
    world.repository.publish([artifact()])
    pi = HardwareProfileId("pi")
    world.repository.publish([replace(artifact(counter=2), profiles=(pi,))])
    found = world.target(artifact().path)
    assert found is not None
    assert found.custom == {"release_counter": 1, "profiles": ["generic", "pi"]}


def test_publication_of_many_files_needs_one_snapshot(world: World) -> None:
    files = [artifact(f"model {number}") for number in range(40)]
    world.repository.publish(files)
    assert all(world.target(file.path) for file in files)
    assert (world.repository.metadata_folder / "2.snapshot.json").exists()
    assert not (world.repository.metadata_folder / "3.snapshot.json").exists()


def test_publication_cut_before_its_timestamp_is_harmless_and_repeatable(world: World) -> None:
    folder = world.repository.metadata_folder
    timestamp = (folder / "timestamp.json").read_bytes()
    world.repository.publish([artifact()])
    (folder / "timestamp.json").write_bytes(timestamp)
    assert world.target(artifact().path) is None
    world.opened().publish([artifact()])
    assert world.target(artifact().path) is not None


def test_creation_cut_before_its_timestamp_begins_anew(world: World) -> None:
    (world.repository.metadata_folder / "timestamp.json").unlink()
    world.opened()
    world.bootstrap = world.repository.bootstrap_root()
    assert world.target("director.json", "another") is not None


def test_repository_without_its_timestamp_is_not_begun_anew_once_used(world: World) -> None:
    world.repository.publish([artifact()])
    (world.repository.metadata_folder / "timestamp.json").unlink()
    with pytest.raises(UntrustedError, match="backup"):
        world.opened()


def test_repository_opened_again_keeps_what_it_published(world: World) -> None:
    world.repository.publish([artifact()])
    again = world.opened()
    assert again.find(artifact().path).sha256 == artifact().sha256
    assert again.installation_id == INSTALLATION


def test_file_not_published_is_not_found(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.repository.find("artifacts/none.tflite")


def test_find_sees_a_file_published_after_the_first_look(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.repository.find(artifact().path)
    world.repository.publish([artifact()])
    assert world.repository.find(artifact().path).length_bytes == 5


@pytest.mark.parametrize("role", ["timestamp.json", "2.snapshot.json", "1.targets.json", "bin"])
def test_attack_tampered_role_is_refused_by_the_client(world: World, role: str) -> None:
    file = artifact()
    world.repository.publish([file])
    name = f"2.{bin_of(file.path)}.json" if role == "bin" else role
    world.swap(name, b'"spec_version":"1.0.', b'"spec_version":"1.0.9')
    with pytest.raises(RepositoryError):
        world.target(file.path)


def test_attack_root_of_another_key_is_refused_by_the_client(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    world.mirror.replaced["2.root.json"] = other.bootstrap.replace(b'"version":1', b'"version":2')
    with pytest.raises(RepositoryError):
        world.target("director.json")


def test_attack_whole_repository_of_another_key_is_refused_by_the_client(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    world.mirror = FolderFetcher(other.repository.metadata_folder)
    with pytest.raises(RepositoryError):
        world.target("director.json")


def test_attack_rollback_to_an_older_timestamp_is_refused_by_the_client(world: World) -> None:
    old = (world.repository.metadata_folder / "timestamp.json").read_bytes()
    world.repository.publish([artifact()])
    world.target("director.json")
    world.mirror.replaced["timestamp.json"] = old
    with pytest.raises(BadVersionNumberError):
        world.target("director.json")


def test_attack_rollback_of_a_bin_is_refused_by_the_client(world: World) -> None:
    file = artifact()
    name = bin_of(file.path)
    old = (world.repository.metadata_folder / f"1.{name}.json").read_bytes()
    world.repository.publish([file])
    world.mirror.replaced[f"2.{name}.json"] = old
    with pytest.raises(BadVersionNumberError):
        world.target(file.path)


def test_attack_bin_served_in_place_of_another_hides_its_files(world: World) -> None:
    """All bins share one key: the pair of name and content is what the path's own hash decides."""
    file = artifact()
    world.repository.publish([file])
    other = next(name for name in BIN_NAMES if name != bin_of(file.path))
    world.mirror.replaced[f"1.{other}.json"] = (
        world.repository.metadata_folder / f"2.{bin_of(file.path)}.json"
    ).read_bytes()
    stranger = next(f"x/{n}" for n in range(10_000) if bin_of(f"x/{n}") == other)
    with pytest.raises(BadVersionNumberError):
        world.target(stranger)


def test_attack_frozen_mirror_is_noticed_after_a_day(world: World) -> None:
    world.clock.moved = -timedelta(days=1, minutes=1)
    world.repository.publish([artifact()])
    with pytest.raises(ExpiredMetadataError, match="timestamp"):
        world.target("director.json")


def test_attack_metadata_changed_on_disk_is_not_signed_again(world: World) -> None:
    file = artifact()
    world.repository.publish([file])
    path = world.repository.metadata_folder / f"2.{bin_of(file.path)}.json"
    path.write_bytes(path.read_bytes().replace(file.sha256.encode(), b"0" * 64))
    with pytest.raises(UntrustedError, match="not signed"):
        world.repository.publish([file])


def test_refresh_of_fresh_metadata_writes_nothing(world: World) -> None:
    assert world.repository.refresh_expiring().roles == ()


def test_refresh_after_half_a_day_signs_the_timestamp_only(world: World) -> None:
    world.clock.moved = timedelta(hours=13)
    assert world.repository.refresh_expiring().roles == ("timestamp",)


def test_refresh_after_four_days_signs_the_snapshot_too(world: World) -> None:
    world.clock.moved = timedelta(days=4)
    assert world.repository.refresh_expiring().roles == ("snapshot", "timestamp")


def test_refresh_after_half_a_year_signs_everything_and_devices_follow(world: World) -> None:
    world.target("director.json")
    world.clock.moved = LIFETIMES[Role.ROOT] / 2 + timedelta(days=1)
    roles = world.repository.refresh_expiring().roles
    assert set(roles) == {"root", "targets", "snapshot", "timestamp", *BIN_NAMES}
    world.clock.moved = timedelta()
    assert world.target("director.json") is not None
    assert "2.root.json" in world.mirror.fetched


def test_refresh_called_at_every_tick_looks_every_ten_minutes(world: World) -> None:
    world.repository.refresh_expiring()
    world.clock.moved = timedelta(minutes=9)
    (world.repository.metadata_folder / "timestamp.json").unlink()
    assert world.repository.refresh_expiring().roles == ()


def test_refresh_after_a_clock_far_ahead_was_set_back_shortens_what_it_signed(world: World) -> None:
    world.clock.moved = timedelta(days=4000)
    world.repository.refresh_expiring()
    world.clock.set_back()
    world.clock.moved = timedelta(minutes=11)
    assert set(world.repository.refresh_expiring().roles) == {"root", "targets", "snapshot", "timestamp", *BIN_NAMES}
    world.clock.moved = timedelta(minutes=22)
    assert world.repository.refresh_expiring().roles == ()


def test_refresh_without_the_top_level_keys_names_what_it_needs(world: World) -> None:
    for role in (Role.ROOT, Role.TARGETS):
        world.keys.path(role).unlink()
    world.clock.moved = timedelta(days=200)
    refreshed = world.repository.refresh_expiring()
    assert refreshed.needs_offline_key == (Role.ROOT, Role.TARGETS)
    assert "timestamp" in refreshed.roles


def test_lab_mode_ends_when_the_top_level_keys_are_taken_away(world: World) -> None:
    assert world.repository.lab_mode
    for role in (Role.ROOT, Role.TARGETS):
        world.keys.path(role).unlink()
    assert not world.repository.lab_mode
    world.repository.publish([artifact()])
    assert world.target(artifact().path) is not None


def test_director_lost_and_made_anew_is_told_to_the_fleet(world: World) -> None:
    world.director_hex = "11" * 32
    with pytest.raises(UntrustedError):
        replace_keys_offline(world).opened()


def replace_keys_offline(world: World) -> World:
    world.keys.path(Role.TARGETS).unlink()
    return world


def test_minimum_release_counter_reaches_devices_and_never_falls(world: World) -> None:
    world.repository.raise_min_release_counter(5)
    found = world.target("director.json")
    assert found is not None
    assert found.custom is not None
    assert found.custom["min_release_counter"] == 5
    with pytest.raises(InvalidInputError, match="may not fall"):
        world.repository.raise_min_release_counter(4)


def test_keys_are_readable_by_their_owner_only(world: World) -> None:
    for role in Role:
        assert world.keys.path(role).stat().st_mode & 0o777 == 0o600


def test_key_that_others_may_read_is_refused(world: World) -> None:
    world.keys.path(Role.BINS).chmod(0o644)
    with pytest.raises(UntrustedError, match="chmod 600"):
        world.repository.publish([artifact()])


def test_keys_of_bins_director_and_top_level_lie_apart(world: World) -> None:
    folders = {world.keys.path(role).parent for role in (Role.ROOT, Role.BINS, Role.DIRECTOR, Role.TIMESTAMP)}
    assert len(folders) == 4


def test_lifetimes_are_those_that_devices_are_promised() -> None:
    assert {role: lifetime.days for role, lifetime in LIFETIMES.items()} == {
        "timestamp": 1,
        "snapshot": 7,
        "bins": 90,
        "targets": 182,
        "root": 365,
    }
