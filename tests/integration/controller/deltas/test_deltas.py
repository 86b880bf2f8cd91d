"""Deltas made by the real program and published, on both databases, and programs that fail."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from controller.blobs import Blobs
from controller.deltas.core.pairs import DeltaState
from controller.deltas.maker import ProgramMaker
from controller.deltas.service import DeltaService
from controller.facts import ArtifactFacts, PublishedFile, RunningRollout
from shared.clock import SystemClock
from shared.delta import delta_path
from shared.errors import ConflictError, NotFoundError
from shared.ids import HardwareProfileId, ModelName, ReleaseId, RolloutId, Sha256
from tests.support.deltas import applied, tuned, weights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork

OLD = weights(100_000)
NEW = tuned(OLD, share=0.05)
PROFILE = HardwareProfileId("generic")
REAL = (sys.executable, "-m", "converters.delta")


@dataclass
class Fleet:
    """Rollouts, desires and releases as the test says; also the repository."""

    running_rollouts: list[RunningRollout] = field(default_factory=list)
    held: list[ReleaseId] = field(default_factory=list)
    made_of: dict[str, ArtifactFacts] = field(default_factory=dict)
    published: list[PublishedFile] = field(default_factory=list)
    refuses: bool = False
    counted: int = 0

    async def running(self, _uow: UnitOfWork) -> list[RunningRollout]:
        return self.running_rollouts

    async def releases_of(self, _uow: UnitOfWork, _model: ModelName, limit: int) -> list[ReleaseId]:
        self.counted += 1
        return self.held[:limit]

    async def artifacts(self, _uow: UnitOfWork, release_id: ReleaseId) -> Mapping[HardwareProfileId, ArtifactFacts]:
        if release_id not in self.made_of:
            raise NotFoundError(kind="release", name=release_id)
        return {PROFILE: self.made_of[release_id]}

    async def publish(self, files: Sequence[PublishedFile]) -> None:
        if self.refuses:
            raise ConflictError(kind="target", name=files[0].path, problem="is published with other content")
        self.published += files


@dataclass(kw_only=True)
class World:
    fleet: Fleet
    blobs: Blobs
    database: Database
    scratch: Path

    def service(self, command: tuple[str, ...] = REAL) -> DeltaService:
        maker = ProgramMaker(
            command=command, blobs=self.blobs, scratch=self.scratch, file_bytes=64 * 1024**2, wall_s=60.0
        )
        fleet = self.fleet
        return DeltaService(
            database=self.database,
            rollouts=fleet,
            desires=fleet,
            releases=fleet,
            publisher=fleet,
            maker=maker,
            clock=SystemClock(),
        )

    async def release(self, name: str, data: bytes) -> Sha256:
        sha256 = await self.blobs.put_bytes(data)
        self.fleet.made_of[name] = ArtifactFacts(sha256=sha256, length_bytes=len(data), release_counter=7)
        return sha256

    def roll_out(self, name: str) -> None:
        rollout = RolloutId(f"rollout-{name}")
        self.fleet.running_rollouts.append(
            RunningRollout(rollout_id=rollout, model=ModelName("digits"), release_id=ReleaseId(name))
        )


@pytest_asyncio.fixture
async def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    blobs = Blobs(tmp_path / "blobs", max_blob_bytes=10_000_000)
    world = World(fleet=Fleet(), blobs=blobs, database=database, scratch=tmp_path / "scratch")
    await world.release("old", OLD)
    await world.release("new", NEW)
    world.fleet.held = [ReleaseId("new"), ReleaseId("old")]
    world.roll_out("new")
    yield world
    blobs.close()


def digests(world: World) -> tuple[Sha256, Sha256]:
    return world.fleet.made_of["old"].sha256, world.fleet.made_of["new"].sha256


async def test_delta_that_a_rollout_needs_is_made_and_published_once(world: World) -> None:
    service = world.service()
    (made,) = await service.make_due()
    assert (made.state, made.full_bytes, made.message) == (DeltaState.MADE, len(NEW), "")
    (file,) = world.fleet.published
    assert file.path == delta_path(*digests(world))
    assert (file.length_bytes, file.release_counter, file.sha256) == (made.length_bytes, 7, made.delta_sha256)
    assert applied(await world.blobs.read(file.sha256), OLD) == NEW
    assert not world.scratch.exists()
    # Neither this life of the controller nor the next makes it again.
    assert await service.make_due() == []
    assert await world.service().make_due() == []
    assert len(world.fleet.published) == 1


async def test_fleet_is_counted_once_for_a_rollout(world: World) -> None:
    service = world.service()
    await service.make_due()
    await service.make_due()
    assert world.fleet.counted == 1
    world.roll_out("old")
    await service.make_due()
    assert world.fleet.counted == 2


async def test_unrelated_artifact_is_remembered_as_not_worth_it(world: World) -> None:
    await world.release("new", weights(100_000, seed=9))
    (made,) = await world.service().make_due()
    assert (made.state, made.delta_sha256) == (DeltaState.NOT_WORTH_IT, None)
    assert world.fleet.published == []
    assert await world.service().make_due() == []


async def test_release_that_was_deleted_since_makes_no_delta(world: World) -> None:
    world.fleet.held.append(ReleaseId("gone"))
    assert len(await world.service().make_due()) == 1


async def test_no_rollout_makes_no_delta(world: World) -> None:
    world.fleet.running_rollouts.clear()
    assert await world.service().make_due() == []


async def test_repository_that_refuses_is_a_failure_of_the_pair_alone(world: World) -> None:
    world.fleet.refuses = True
    (made,) = await world.service().make_due()
    assert (made.state, made.delta_sha256) == (DeltaState.FAILED, None)
    assert "other content" in made.message


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.exit('no numpy here')", "no numpy here"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
        ("print('hello')", "does not speak its protocol"),
        ("print('x' * 100_000)", "does not speak its protocol"),
        ('print(\'{"encoding": "patch", "length_bytes": 9}\')', "scratch folder cannot be used"),
    ],
    ids=["exits", "killed", "chatters", "floods", "writes nothing"],
)
async def test_program_that_fails_is_a_failure_with_its_reason(world: World, program: str, why: str) -> None:
    (made,) = await world.service((sys.executable, "-c", program)).make_due()
    assert made.state is DeltaState.FAILED
    assert why in made.message
    assert not world.scratch.exists()


async def test_program_that_cannot_start_is_a_failure(world: World) -> None:
    (made,) = await world.service(("/nowhere/python",)).make_due()
    assert made.state is DeltaState.FAILED
    assert "cannot run /nowhere/python" in made.message


async def test_artifact_whose_blob_is_gone_is_a_failure(world: World) -> None:
    old, _ = digests(world)
    world.blobs.path(old).unlink()
    (made,) = await world.service().make_due()
    assert made.state is DeltaState.FAILED
    assert "gone" in made.message
