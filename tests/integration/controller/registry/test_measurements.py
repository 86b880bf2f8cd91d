"""Asked for, sealed for the device, answered, and held against what is released then; on both databases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest
import pytest_asyncio

from controller.blobs import Blobs
from controller.ingest import Ingest, Sinks
from controller.registry import store
from controller.registry.bodies import ConversionView
from controller.registry.core.conversion import judge, summary
from controller.registry.core.measurement import AT_ONCE, MeasurementState
from controller.registry.core.types import Conversion, ConversionOrder, ModelVersion
from controller.registry.measurements import NO_RELEASE, Measurements
from controller.registry.releases import Releases
from shared.conversion import AccuracyBudget, ConversionResult, FailureKind, Objective, SourceFormat
from shared.errors import ConflictError, InvalidIdError, InvalidInputError, NotFoundError, UntrustedError
from shared.ids import ConversionId, MeasurementId, ModelName, Sha256
from shared.manifest import measurement_path
from shared.pipeline import MODEL_ONLY
from shared.topics import Channel
from shared.wire import Figures, MeasurementReport
from tests.support.fleet_world import HARDWARE, NOW, OPERATOR, FleetWorld, TestClock, intent, report
from tests.unit.controller.registry.test_measurement import GATEWAY, PI, SLOW_CONVERTER, artifact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from controller.db.engine import Database
    from controller.facts import PublishedFile
    from controller.registry.core.measurement import Measurement
    from shared.conversion import ConvertedArtifact
    from shared.hardware import HardwareProfile
    from shared.wire import WantedMeasurement
    from tests.support.fleet_world import TestDevice


@dataclass
class Repository:
    """Remembers, and may lack its key."""

    published: list[PublishedFile] = field(default_factory=list)
    keyless: bool = False

    async def publish(self, files: Sequence[PublishedFile]) -> None:
        if self.keyless:
            raise UntrustedError("the key is kept elsewhere")
        self.published += files


class Unused:
    """Nobody needs a release."""

    async def in_use(self, *_: object) -> str:
        return ""


class World(FleetWorld):
    """A fleet, and conversions that it could measure."""

    def __init__(self, database: Database, clock: TestClock, folder: Path) -> None:
        super().__init__(database, clock, folder)
        self.blobs = Blobs(folder / "blobs", max_blob_bytes=10_000_000)
        self.repository = Repository()
        self.measurements = Measurements(
            database=database, devices=self.cohorts, desires=self.desired, publisher=self.repository, clock=clock
        )
        self.releases = Releases(
            database=database, blobs=self.blobs, publisher=self.repository, use=Unused(), clock=clock
        )
        self.ingest = Ingest(
            database=database,
            source=self.broker,
            proof=self.trust.report_keys,
            order=self.uplinks,
            sinks=Sinks(
                reports=(self.uplinks, self.measurements),
                heartbeats=(self.uplinks.seen,),
                telemetry=self.telemetry,
            ),
            clock=clock,
        )

    async def conversion(self, *artifacts: ConvertedArtifact, profile: HardwareProfile = PI) -> str:
        """Keep a conversion that made these."""
        failed = all(made.refused or profile.profile_id in made.refused_for for made in artifacts)
        result = ConversionResult(artifacts=artifacts)
        outcome = judge(
            msgspec.structs.replace(result, failure=FailureKind.NOTHING_PASSED, message="too slow")
            if failed
            else result
        )
        kept = Conversion(
            conversion_id=ConversionId("0192f0c1-0000-7000-8000-000000000001"),
            order=ConversionOrder(
                model=ModelName("doors"),
                version_number=1,
                dataset_sha256=Sha256("d" * 64),
                pipeline=MODEL_ONLY,
                schemes=(),
                profiles=(profile,),
                budget=AccuracyBudget(),
                objective=Objective.SMALLEST,
                image_input=False,
                batch=1,
            ),
            state=outcome.state,
            step="",
            fraction=1.0,
            failure=outcome.failure,
            message=outcome.message,
            artifacts=tuple(summary(made) for made in artifacts),
            candidates=(),
            card=None,
            result_sha256=await self.blobs.put_bytes(msgspec.json.encode(result)),
            attempts=1,
            created_at=NOW,
        )
        version = ModelVersion(
            model=ModelName("doors"),
            number=1,
            sha256=Sha256("e" * 64),
            size_bytes=1,
            filename="m.tflite",
            source_format=SourceFormat.TFLITE,
            created_at=NOW,
        )
        async with self.database.unit_of_work() as uow:
            await store.ensure_model(uow.session, version.model, NOW)
            store.add_version(uow.session, version)
            await store.save_conversion(uow.session, kept)
        return kept.conversion_id

    async def ask(self, conversion_id: str, device: str = "cam-7") -> list[Measurement]:
        """Order a measurement, and send what is due."""
        asked = await self.measurements.order(conversion_id, device, actor=OPERATOR)
        await self.measurements.send_due()
        return asked

    async def states(self, conversion_id: str) -> list[tuple[int, str]]:
        """Return length and state of everything that was asked."""
        found = await self.measurements.of_conversion(conversion_id)
        return [(one.length_bytes, one.state.value) for one in found]

    async def listed(self, device: TestDevice) -> tuple[WantedMeasurement, ...]:
        """Return what the device's Desired lists."""
        found = (await self.document(device)).body.measurements
        return found if isinstance(found, tuple) else ()

    async def tell(self, device: TestDevice, *told: MeasurementReport) -> None:
        """Let a device report."""
        said = msgspec.structs.replace(report(), measurements=told)
        await self.ingest.take([device.says(Channel.REPORT, said)])


@pytest_asyncio.fixture
async def world(database: Database, clock: TestClock, tmp_path: Path) -> AsyncIterator[World]:
    world = World(database, clock, tmp_path)
    yield world
    world.blobs.close()


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


def answer(wanted: WantedMeasurement, p95_ms: float | None, reason: str = "") -> MeasurementReport:
    figures = None
    if p95_ms is not None:
        figures = Figures(
            runs=100, cpu_p50_ms=1, cpu_p95_ms=p95_ms, wall_p50_ms=2, wall_p95_ms=99, peak_memory_bytes=4_000_000
        )
    return MeasurementReport(
        measurement_id=wanted.measurement_id,
        sha256=wanted.artifact.sha256,
        runtime=HARDWARE.runtime,
        runtime_version="2.4.0",
        ended_at=NOW,
        figures=figures,
        reason=reason,
    )


async def test_measurement_is_vouched_for_as_no_release_and_sealed_for_its_device(world: World) -> None:
    device = await world.device("cam-7")
    await world.desire(intent(device.device_id))
    before = await world.document(device)
    (asked,) = await world.ask(await world.conversion(artifact(100)))
    assert asked.state is MeasurementState.QUEUED
    (file,) = world.repository.published
    assert (file.path, file.release_counter, file.profiles) == (measurement_path(asked.sha256), NO_RELEASE, ())
    after = await world.document(device)
    assert (after.generation, after.body.models) == (before.generation + 1, before.body.models)
    (wanted,) = await world.listed(device)
    assert (wanted.measurement_id, wanted.artifact.length_bytes) == (asked.measurement_id, 100)


async def test_answer_is_kept_shown_and_taken_off_the_list(world: World) -> None:
    device = await world.device("cam-7")
    conversion_id = await world.conversion(artifact(100))
    await world.ask(conversion_id)
    (wanted,) = await world.listed(device)
    await world.tell(device, answer(wanted, 12.5))
    (kept,) = await world.measurements.of_conversion(conversion_id)
    assert (kept.state, kept.hardware.runtime_version) == (MeasurementState.DONE, "2.4.0")
    assert kept.figures is not None
    assert kept.figures.cpu_p95_ms == 12.5
    assert await world.listed(device) == ()
    assert world.acks(device) == [1]
    async with world.database.unit_of_work(read_only=True) as uow:
        shown = ConversionView.whole(await store.conversion(uow.session, conversion_id), [kept])
    (made,) = shown.artifacts
    (budget,) = made.budgets
    assert (budget.measured_on, budget.latency_p95_ms, budget.kept) == ("cam-7", 12.5, True)
    # A device that has not read the newer Desired yet tells it again, and nothing moves.
    generation = (await world.document(device)).generation
    await world.tell(device, answer(wanted, 99.0))
    assert await world.measurements.of_conversion(conversion_id) == [kept]
    assert (await world.document(device)).generation == generation


async def test_release_made_afterwards_goes_by_the_device(world: World) -> None:
    device = await world.device("cam-7")
    small, large = artifact(100), artifact(200, {"pi": "another: one that passed, too, suits this class better"})
    conversion_id = await world.conversion(small, large)
    await world.ask(conversion_id)
    # Asked within the same millisecond, so that their order is chance.
    first, second = sorted(await world.listed(device), key=lambda wanted: wanted.artifact.length_bytes)
    await world.tell(device, answer(first, 41.0), answer(second, 12.0))
    released, _ = await world.releases.create_release(conversion_id, actor=OPERATOR)
    assert [made.length_bytes for made in released.artifacts] == [200]
    # What is released stays so, whatever is measured later.
    await world.ask(conversion_id)
    for wanted in await world.listed(device):
        await world.tell(device, answer(wanted, 99.0))
    assert await world.releases.create_release(conversion_id, actor=OPERATOR) == (released, False)


async def test_release_whose_artifact_breaks_the_budget_on_the_device_is_refused_with_the_reason(world: World) -> None:
    device = await world.device("cam-7")
    conversion_id = await world.conversion(artifact(100))
    await world.ask(conversion_id)
    (wanted,) = await world.listed(device)
    await world.tell(device, answer(wanted, 41.0))
    with pytest.raises(InvalidInputError, match=r"latency: p95 41 ms > 30 ms on device cam-7"):
        await world.releases.create_release(conversion_id, actor=OPERATOR)


async def test_conversion_too_slow_for_the_converter_alone_is_released_by_a_devices_word(world: World) -> None:
    device = await world.device("cam-7")
    conversion_id = await world.conversion(artifact(100, {"pi": SLOW_CONVERTER}, p95_ms=50.0))
    with pytest.raises(InvalidInputError, match="on the converter"):
        await world.releases.create_release(conversion_id, actor=OPERATOR)
    await world.ask(conversion_id)
    (wanted,) = await world.listed(device)
    await world.tell(device, answer(wanted, 12.0))
    released, created = await world.releases.create_release(conversion_id, actor=OPERATOR)
    assert ([made.length_bytes for made in released.artifacts], created) == ([100], True)


async def test_device_is_asked_a_few_at_a_time(world: World) -> None:
    device = await world.device("cam-7")
    conversion_id = await world.conversion(*(artifact(100 + number) for number in range(AT_ONCE + 2)))
    await world.ask(conversion_id)
    wanted = await world.listed(device)
    assert len(wanted) == AT_ONCE
    await world.tell(device, answer(wanted[0], 1.0), answer(wanted[1], None, "crashed: SIGSEGV"))
    await world.measurements.send_due()
    assert len(await world.listed(device)) == AT_ONCE
    found = await world.measurements.of_conversion(conversion_id)
    ended = {one.measurement_id: (one.state.value, one.reason) for one in found if one.ended_at}
    assert ended == {
        wanted[0].measurement_id: ("done", ""),
        wanted[1].measurement_id: ("failed", "crashed: SIGSEGV"),
    }


async def test_device_that_does_not_answer_is_given_up_and_asked_no_more(world: World, clock: TestClock) -> None:
    device = await world.device("cam-7")
    conversion_id = await world.conversion(artifact(100))
    await world.ask(conversion_id)
    clock.forward(minutes=59)
    await world.measurements.give_up_due()
    assert await world.states(conversion_id) == [(100, "sent")]
    clock.forward(minutes=1)
    await world.measurements.give_up_due()
    (found,) = await world.measurements.of_conversion(conversion_id)
    assert found.reason == "timed_out: cam-7 has not answered in an hour"
    assert await world.listed(device) == ()


async def test_measurement_asked_again_is_another_one_and_keeps_the_old_figures_meanwhile(world: World) -> None:
    device = await world.device("cam-7")
    conversion_id = await world.conversion(artifact(100))
    await world.ask(conversion_id)
    (first,) = await world.listed(device)
    assert [one.measurement_id for one in await world.ask(conversion_id)] == [first.measurement_id]
    await world.tell(device, answer(first, 41.0))
    await world.ask(conversion_id)
    (again,) = await world.listed(device)
    assert again.measurement_id != first.measurement_id
    with pytest.raises(InvalidInputError, match="on device cam-7"):
        await world.releases.create_release(conversion_id, actor=OPERATOR)
    # The answer to the first question is none to the second.
    await world.tell(device, answer(first, 1.0))
    assert await world.states(conversion_id) == [(100, "sent")]
    await world.tell(device, answer(again, 12.0))
    await world.releases.create_release(conversion_id, actor=OPERATOR)


async def test_attack_device_that_answers_for_another_or_of_another_file_is_not_heard(world: World) -> None:
    device, neighbour = await world.device("cam-7"), await world.device("cam-8")
    conversion_id = await world.conversion(artifact(100))
    await world.ask(conversion_id)
    (wanted,) = await world.listed(device)
    await world.tell(neighbour, answer(wanted, 1.0))
    other = msgspec.structs.replace(answer(wanted, 1.0), sha256=Sha256("f" * 64))
    await world.tell(device, other)
    invented = msgspec.structs.replace(answer(wanted, 1.0), measurement_id=MeasurementId("invented"))
    await world.tell(device, invented)
    assert await world.states(conversion_id) == [(100, "sent")]
    assert await world.listed(device) == (wanted,)


async def test_measurement_that_cannot_be_vouched_for_fails_and_holds_nobody_up(world: World) -> None:
    await world.device("cam-7")
    conversion_id = await world.conversion(artifact(100))
    world.repository.keyless = True
    await world.ask(conversion_id)
    (found,) = await world.measurements.of_conversion(conversion_id)
    assert (found.state, found.reason) == (MeasurementState.FAILED, "not_published: the key is kept elsewhere")


async def test_device_that_is_removed_meanwhile_is_not_asked(world: World) -> None:
    await world.device("cam-7")
    conversion_id = await world.conversion(artifact(100))
    await world.measurements.order(conversion_id, "cam-7", actor=OPERATOR)
    await world.fleet.remove("cam-7", actor=OPERATOR)
    await world.measurements.send_due()
    (found,) = await world.measurements.of_conversion(conversion_id)
    assert found.reason == "removed: the device is gone"


async def test_order_that_nobody_could_carry_out_is_refused_by_its_field(world: World) -> None:
    await world.device("cam-7")
    await world.fleet.register("cam-9", site="north", labels={}, actor=OPERATOR)
    conversion_id = await world.conversion(artifact(100, refused="accuracy_drop: 0.1 > 0.01"))
    with pytest.raises(ConflictError, match="no artifact that such a device could be given"):
        await world.ask(conversion_id)
    with pytest.raises(InvalidInputError, match="no device cam-8"):
        await world.ask(conversion_id, "cam-8")
    with pytest.raises(InvalidInputError, match="has not enrolled"):
        await world.ask(conversion_id, "cam-9")
    with pytest.raises(InvalidIdError):
        await world.ask(conversion_id, "cam/7")
    with pytest.raises(NotFoundError):
        await world.ask("no-such-conversion")


async def test_device_of_another_class_is_refused_with_what_does_not_fit(world: World) -> None:
    await world.device("cam-7")
    conversion_id = await world.conversion(artifact(100), profile=GATEWAY)
    with pytest.raises(InvalidInputError, match="gateway: architecture aarch64 is not one of x86_64"):
        await world.ask(conversion_id)


async def test_desired_of_a_removed_device_lists_nothing_when_its_name_is_taken_again(world: World) -> None:
    device = await world.device("cam-7")
    await world.ask(await world.conversion(artifact(100)))
    assert len(await world.listed(device)) == 1
    await world.fleet.remove("cam-7", actor=OPERATOR)
    successor = await world.device("cam-7")
    await world.desire(intent(successor.device_id))
    assert await world.listed(successor) == ()
