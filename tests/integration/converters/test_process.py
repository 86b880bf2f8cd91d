from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from converters.plan import Stage
from shared.conversion import (
    ConversionLine,
    ConversionProgress,
    ConversionRequest,
    ConversionResult,
    FailureKind,
    SourceFormat,
)
from shared.dataset import Split
from shared.manifest import Scheme
from tests.integration.converters.conftest import Workshop
from tests.support.models import random_classifier

MODEL = random_classifier(16, 5, seed=3)
SPLITS = {
    split: {"x": np.random.default_rng(number).normal(size=(40, 16)).astype(np.float32)}
    for number, split in enumerate(Split)
}
_RSS = """
import sys
import converters.__main__, converters.conversion, converters.judgement.runtimes
found = sorted({"tensorflow", "keras", "torch", "onnx", "jax", "sklearn", "matplotlib"} & set(sys.modules))
status = open("/proc/self/status").read()
print(sys.modules["json"].dumps({"found": found, "rss_kb": int(status.split("VmRSS:")[1].split()[0])}))
"""


def lines_of(stdin: bytes) -> list[ConversionLine]:
    """Run the real process; every byte of its stdout must be a line of the contract."""
    done = subprocess.run(
        [sys.executable, "-m", "converters"], input=stdin, capture_output=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return [msgspec.json.decode(line, type=ConversionLine) for line in done.stdout.splitlines()]


def result_of(stdin: bytes) -> ConversionResult:
    result = lines_of(stdin)[-1]
    assert isinstance(result, ConversionResult)
    return result


def killed_at(request: ConversionRequest, step: str) -> None:
    """Run the real process, and kill it as soon as it tells of `step`."""
    with subprocess.Popen(
        [sys.executable, "-m", "converters"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(request))
        process.stdin.close()
        for line in process.stdout:
            said = msgspec.json.decode(line, type=ConversionLine)
            assert isinstance(said, ConversionProgress), f"it ended before {step}"
            if said.step.startswith(step):
                process.kill()
                return
    pytest.fail(f"it never came to {step}")


def in_folder(request: ConversionRequest, name: str, *, cache: str = "") -> ConversionRequest:
    scratch = Path(request.scratch_path).parent / name
    scratch.mkdir()
    return msgspec.structs.replace(request, scratch_path=str(scratch), cache_path=cache)


def test_process_imports_no_framework_and_stays_small() -> None:
    done = subprocess.run([sys.executable, "-c", _RSS], capture_output=True, timeout=60, check=True)
    said = json.loads(done.stdout)
    assert said["found"] == []
    assert said["rss_kb"] < 120 * 1024


def test_process_tells_progress_that_never_falls_and_then_the_result(digits_request: ConversionRequest) -> None:
    *progress, result = lines_of(msgspec.json.encode(in_folder(digits_request, "told")))
    assert isinstance(result, ConversionResult)
    assert result.failure is None, result.message
    assert "tensorflow" in result.worker
    told = [line for line in progress if isinstance(line, ConversionProgress)]
    assert len(told) == len(progress)
    assert list(dict.fromkeys(line.step.partition(":")[0] for line in told)) == list(Stage)
    fractions = [line.fraction for line in told]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] < 1


def test_process_twice_gives_same_bytes_in_every_scheme(workshop: Workshop) -> None:
    request = msgspec.structs.replace(workshop.request(MODEL, SPLITS), schemes=tuple(Scheme))
    first, second = (
        result_of(msgspec.json.encode(in_folder(request, name, cache=str(workshop.folder / name / "cache"))))
        for name in ("first", "second")
    )
    assert [row.sha256 for row in first.candidates] == [row.sha256 for row in second.candidates]
    assert sum(bool(row.sha256) for row in first.candidates) >= len(Scheme) - 1
    assert [made.sha256 for made in first.artifacts] == [made.sha256 for made in second.artifacts]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ConversionResult:
    """What comes out when nobody kills it."""
    request = Workshop(folder=tmp_path_factory.mktemp("whole")).request(MODEL, SPLITS)
    return result_of(msgspec.json.encode(in_folder(request, "out")))


@pytest.mark.parametrize("step", ["ask source: gate", "search: full_int8", "gate: "])
def test_process_killed_at_any_step_goes_on_where_it_was(
    workshop: Workshop, whole: ConversionResult, step: str
) -> None:
    request = workshop.request(MODEL, SPLITS)
    cache = str(workshop.folder / "cache")
    killed_at(in_folder(request, "killed", cache=cache), step)
    kept = {path.name: path.stat().st_ino for path in Path(cache).iterdir() if path.suffix != ".new"}
    again = result_of(msgspec.json.encode(in_folder(request, "again", cache=cache)))
    assert [made.sha256 for made in again.artifacts] == [made.sha256 for made in whole.artifacts]
    assert [row.sha256 for row in again.candidates] == [row.sha256 for row in whole.candidates]
    # What was made before was not made again.
    assert {name: (Path(cache) / name).stat().st_ino for name in kept} == kept


def test_process_data_that_fits_no_gate_is_refused_without_a_framework(workshop: Workshop) -> None:
    labelled = {split: arrays | {"y": np.zeros(40, int)} for split, arrays in SPLITS.items()}
    request = workshop.request(b"no model at all", labelled, source_format=SourceFormat.KERAS)
    result = result_of(msgspec.json.encode(request))
    assert result.failure is FailureKind.BAD_INPUT
    assert result.message.startswith("dataset.gate.y: 40 samples cannot show")


@pytest.mark.parametrize("source_format", [SourceFormat.TFLITE, SourceFormat.KERAS])
@pytest.mark.parametrize("content", [b"", b"\x80\x04N."])
def test_process_file_that_is_no_model_is_refused(
    workshop: Workshop, source_format: SourceFormat, content: bytes
) -> None:
    request = workshop.request(content, SPLITS, source_format=source_format)
    result = result_of(msgspec.json.encode(request))
    assert result.failure is FailureKind.BAD_INPUT, result.message
    assert "\n" not in result.message


def test_process_missing_source_is_told_without_a_traceback(workshop: Workshop) -> None:
    request = workshop.request(MODEL, SPLITS)
    Path(request.source_path).unlink()
    result = result_of(msgspec.json.encode(request))
    assert result.failure is FailureKind.BAD_INPUT
    assert result.message.startswith("source_path: ")


def test_process_without_a_dataset_asks_for_one(workshop: Workshop) -> None:
    request = msgspec.structs.replace(workshop.request(MODEL, SPLITS), dataset_path="/nowhere")
    result = result_of(msgspec.json.encode(request))
    assert result.failure is FailureKind.BAD_INPUT
    assert result.message.startswith("dataset.json: cannot be read")


@pytest.mark.parametrize("stdin", [b"", b"{}", b"[1", b'{"conversion_id": 7}'])
def test_process_request_that_is_none_is_refused(stdin: bytes) -> None:
    result = result_of(stdin)
    assert result.failure is FailureKind.BAD_INPUT
    assert result.message.startswith("no conversion request: ")


def test_process_request_that_contradicts_itself_is_refused(workshop: Workshop) -> None:
    request = msgspec.structs.replace(workshop.request(b"", SPLITS), schemes=())
    assert result_of(msgspec.json.encode(request)).message.startswith("schemes: ")
