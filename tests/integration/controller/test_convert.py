"""A conversion program within its limits, whatever it does."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.blobs import Blobs
from controller.convert import Converter, ConvertFolders
from controller.registry.core.types import Conversion, ConversionOrder, ConversionState, ModelVersion
from shared import dataset
from shared.clock import SystemClock
from shared.conversion import AccuracyBudget, FailureKind, Objective, SourceFormat
from shared.conversion_process import ConvertLimits
from shared.hardware import GENERIC
from shared.ids import ConversionId, ModelName, Sha256
from shared.manifest import Scheme
from shared.pipeline import MODEL_ONLY
from tests.support import fake_converter
from tests.support.datasets import opaque, spec_of
from tests.support.programs import lives
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.conversion import ConversionProgress, ConversionResult

LIMITS = ConvertLimits(wall_s=30.0, cpu_s=20, address_space_bytes=1024**3, file_bytes=8 * 1024**2, threads=1)
COMMAND = (sys.executable, fake_converter.__file__)


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Blobs]:
    opened = Blobs(tmp_path / "blobs", max_blob_bytes=10_000_000)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


async def _convert(
    blobs: Blobs,
    folder: Path,
    behaviour: str,
    *,
    limits: ConvertLimits = LIMITS,
    command: tuple[str, ...] = COMMAND,
    seen: list[ConversionProgress] | None = None,
) -> ConversionResult:
    converter = _converter(blobs, folder, command=command, limits=limits)
    source = await blobs.put_bytes(behaviour.encode())
    data = await _dataset(blobs)

    async def progress(line: ConversionProgress) -> None:
        if seen is not None:
            seen.append(line)

    result, _ = await converter.convert(_conversion(data), _version(source), progress)
    assert list((folder / "scratch").iterdir()) == [], "the scratch folder is left empty"
    return result


def _converter(
    blobs: Blobs,
    folder: Path,
    *,
    command: tuple[str, ...] = COMMAND,
    limits: ConvertLimits = LIMITS,
    cache_bytes: int = 10_000,
) -> Converter:
    folders = ConvertFolders(
        scratch=folder / "scratch", cache=folder / "cache", cache_bytes=cache_bytes, environments=folder / "workers"
    )
    return Converter(command=command, blobs=blobs, folders=folders, limits=limits, clock=SystemClock())


async def _dataset(blobs: Blobs) -> Sha256:
    for content in opaque().values():
        await blobs.put_bytes(content)
    return await blobs.put_bytes(dataset.encode(spec_of(opaque())))


def _version(source: Sha256, source_format: SourceFormat = SourceFormat.KERAS) -> ModelVersion:
    return ModelVersion(
        model=ModelName("digits"),
        number=1,
        sha256=source,
        size_bytes=1,
        filename="model",
        source_format=source_format,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def _conversion(data: Sha256) -> Conversion:
    order = ConversionOrder(
        model=ModelName("digits"),
        version_number=1,
        dataset_sha256=data,
        pipeline=MODEL_ONLY,
        schemes=(Scheme.FULL_INT8,),
        profiles=(GENERIC,),
        budget=AccuracyBudget(),
        objective=Objective.SMALLEST,
        image_input=False,
        batch=1,
    )
    return Conversion(
        conversion_id=ConversionId("0190b5a0-0000-7000-8000-000000000001"),
        order=order,
        state=ConversionState.RUNNING,
        step="",
        fraction=0.0,
        failure=None,
        message="",
        artifacts=(),
        candidates=(),
        card=None,
        result_sha256=None,
        attempts=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def test_conversion_good_keeps_the_artifact_and_tells_progress(blobs: Blobs, tmp_path: Path) -> None:
    seen: list[ConversionProgress] = []
    result = await _convert(blobs, tmp_path, "good", seen=seen)
    assert result.failure is None, result.message
    [artifact] = result.artifacts
    assert (await blobs.read(artifact.sha256)).startswith(b"a very small model")
    assert [(line.step, line.fraction) for line in seen] == [("quantize", 0.5)]


@pytest.mark.parametrize(
    ("behaviour", "failure", "said"),
    [
        ("memory", FailureKind.OUT_OF_MEMORY, "MemoryError"),
        ("babble", FailureKind.CRASHED, "protocol"),
        ("silent", FailureKind.CRASHED, "exit code 3 without a result: giving up without a word"),
        ("segfault", FailureKind.CRASHED, "SIGSEGV"),
        ("file", FailureKind.CRASHED, "File too large"),
        ("lie", FailureKind.CRASHED, "sha256"),
        ("steal", FailureKind.CRASHED, "scratch folder"),
        ("link", FailureKind.CRASHED, "scratch folder"),
    ],
)
async def test_conversion_misbehaving_fails_with_its_kind(
    blobs: Blobs, tmp_path: Path, behaviour: str, failure: FailureKind, said: str
) -> None:
    result = await _convert(blobs, tmp_path, behaviour)
    assert (result.failure, said in result.message) == (failure, True), result.message


async def test_conversion_over_its_processor_time_is_timed_out(blobs: Blobs, tmp_path: Path) -> None:
    result = await _convert(blobs, tmp_path, "spin", limits=replace(LIMITS, cpu_s=1))
    assert result.failure is FailureKind.TIMED_OUT


async def test_conversion_over_its_time_is_killed_with_its_children_within_two_seconds(
    blobs: Blobs, tmp_path: Path
) -> None:
    started = time.monotonic()
    result = await _convert(blobs, tmp_path, "hang", limits=replace(LIMITS, wall_s=2.0))
    assert result.failure is FailureKind.TIMED_OUT
    assert time.monotonic() - started < 4.0
    await _all_gone(tmp_path)


async def test_conversion_canceled_takes_its_children_along(blobs: Blobs, tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_convert(blobs, tmp_path, "hang"))
        await wait_until_async(lambda: _pids(tmp_path))
        task.cancel()
    await _all_gone(tmp_path)


async def test_conversion_canceled_takes_along_what_left_for_a_session_of_its_own(blobs: Blobs, tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_convert(blobs, tmp_path, "escape"))
        await wait_until_async(lambda: _pids(tmp_path))
        task.cancel()
    await _all_gone(tmp_path)


@pytest.mark.parametrize(
    ("source_format", "name"),
    [
        (SourceFormat.KERAS, "source.keras"),
        (SourceFormat.ONNX, "source.onnx"),
        (SourceFormat.SKLEARN, "source.skops"),
        (SourceFormat.SAVED_MODEL, "source.zip"),
    ],
)
async def test_conversion_program_finds_its_files_under_names_that_say_what_they_are(
    blobs: Blobs, tmp_path: Path, source_format: SourceFormat, name: str
) -> None:
    source, data = await blobs.put_bytes(b"describe"), await _dataset(blobs)
    result, card = await _converter(blobs, tmp_path).convert(_conversion(data), _version(source, source_format), _quiet)
    assert json.loads(result.message) == {
        "source": name,
        "format": source_format,
        "dataset": ["calibration.npz", "dataset.json", "gate.npz", "search.npz"],
        "max_drop": 0.01,
        "objective": "smallest",
        "batch": 1,
        "runtimes": [],
        "cache": True,
        "environments": "workers",
    }
    assert card is None


async def test_conversion_card_is_kept_as_document_and_page(blobs: Blobs, tmp_path: Path) -> None:
    source, data = await blobs.put_bytes(b"card"), await _dataset(blobs)
    result, card = await _converter(blobs, tmp_path).convert(_conversion(data), _version(source), _quiet)
    assert card is not None, result.message
    assert await blobs.read(card.json_sha256) == b'{"name": "a card"}'
    assert b"<title>" in await blobs.read(card.page_sha256)


async def test_attack_card_that_links_elsewhere_is_not_kept(blobs: Blobs, tmp_path: Path) -> None:
    source, data = await blobs.put_bytes(b"steal-card"), await _dataset(blobs)
    result, card = await _converter(blobs, tmp_path).convert(_conversion(data), _version(source), _quiet)
    assert (result.failure, len(result.artifacts), card) == (None, 1, None)


async def test_conversion_leaves_the_cache_within_its_bound(blobs: Blobs, tmp_path: Path) -> None:
    converter = _converter(blobs, tmp_path, cache_bytes=100)
    for number in range(5):
        (tmp_path / "cache" / f"{number}.tflite").write_bytes(bytes(60))
    source, data = await blobs.put_bytes(b"good"), await _dataset(blobs)
    await converter.convert(_conversion(data), _version(source), _quiet)
    assert len(list((tmp_path / "cache").iterdir())) == 1


async def _quiet(_line: ConversionProgress) -> None:
    return


async def test_conversion_program_missing_is_named(blobs: Blobs, tmp_path: Path) -> None:
    result = await _convert(blobs, tmp_path, "good", command=("/nonexistent/python",))
    assert result.failure is FailureKind.CRASHED
    assert "/nonexistent/python" in result.message


async def test_conversion_whose_file_is_gone_fails_and_says_so(blobs: Blobs, tmp_path: Path) -> None:
    converter = _converter(blobs, tmp_path)

    async def progress(_line: ConversionProgress) -> None:
        return

    result, _ = await converter.convert(_conversion(Sha256("0" * 64)), _version(Sha256("0" * 64)), progress)
    assert (result.failure, "gone" in result.message) == (FailureKind.BAD_INPUT, True)


async def test_conversion_program_does_not_see_the_controllers_settings(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITEFLEET_CONTROLLER_DATABASE_URL", "postgresql+asyncpg://u:secret@h/d")
    assert (await _convert(blobs, tmp_path, "environment")).message == "sees []"


def _pids(folder: Path) -> list[int]:
    found = [path.read_text().split() for path in folder.rglob("hung.pid")]
    return [int(pid) for pids in found for pid in pids]


async def _all_gone(folder: Path) -> None:
    pids = _pids(folder)
    assert len(pids) == 2
    await wait_until_async(lambda: not any(lives(pid) for pid in pids), within_s=2.0)
