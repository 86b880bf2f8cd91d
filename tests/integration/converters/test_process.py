from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from converters.plan import stages
from shared.conversion import (
    ConversionLine,
    ConversionProgress,
    ConversionRequest,
    ConversionResult,
    FailureKind,
)
from shared.manifest import Scheme

if TYPE_CHECKING:
    from tests.integration.converters.conftest import Workshop


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


def test_process_tells_progress_that_never_falls_and_then_the_result(digits_request: ConversionRequest) -> None:
    request = msgspec.structs.replace(digits_request, schemes=(Scheme.FLOAT32, Scheme.FULL_INT8))
    *progress, result = lines_of(msgspec.json.encode(request))
    assert isinstance(result, ConversionResult)
    assert result.failure is None, result.message
    assert "tensorflow" in result.worker
    told = [line for line in progress if isinstance(line, ConversionProgress)]
    assert len(told) == len(progress)
    assert [line.step for line in told] == [stage.name for stage in stages(request)]
    fractions = [line.fraction for line in told]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] < 1


def test_process_twice_gives_same_bytes(digits_request: ConversionRequest) -> None:
    request = msgspec.json.encode(
        msgspec.structs.replace(digits_request, schemes=(Scheme.DYNAMIC_INT8, Scheme.FULL_INT8))
    )
    first, second = result_of(request), result_of(request)
    assert [made.sha256 for made in first.artifacts] == [made.sha256 for made in second.artifacts]
    assert len(first.artifacts) == 2


def test_process_lambda_layer_is_refused_as_code(workshop: Workshop) -> None:
    import keras

    entry = keras.Input((4,))
    model = keras.Model(entry, keras.layers.Lambda(lambda item: item * 2, name="twice")(entry))
    result = result_of(msgspec.json.encode(workshop.request(model, np.ones((3, 4), np.float32))))
    assert result.failure is FailureKind.BAD_INPUT
    assert "layer 'twice' is or holds a Lambda" in result.message
    assert "would run code" in result.message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x89HDF\r\n\x1a\n rest", b"\x80\x04N."])
def test_process_file_that_is_no_keras_model_is_refused(workshop: Workshop, content: bytes) -> None:
    (workshop.folder / "model.keras").write_bytes(content)
    request = workshop.request_of_file(np.ones((3, 4), np.float32), np.zeros(3, int))
    result = result_of(msgspec.json.encode(request))
    assert result.failure is FailureKind.BAD_INPUT
    assert result.message.startswith("source: ")
    assert "model.save" in result.message


def test_process_missing_source_is_told_without_a_traceback(workshop: Workshop) -> None:
    request = workshop.request_of_file(np.ones((3, 4), np.float32), np.zeros(3, int))
    result = result_of(msgspec.json.encode(request))
    assert result.failure is FailureKind.CRASHED
    assert result.message.startswith("FileNotFoundError: ")
    assert "\n" not in result.message


@pytest.mark.parametrize("stdin", [b"", b"{}", b"[1", b'{"conversion_id": 7}'])
def test_process_request_that_is_none_is_refused(stdin: bytes) -> None:
    result = result_of(stdin)
    assert result.failure is FailureKind.BAD_INPUT
    assert result.message.startswith("no conversion request: ")


def test_process_refusal_of_data_needs_no_framework(workshop: Workshop) -> None:
    (workshop.folder / "model.keras").write_bytes(b"")
    request = msgspec.structs.replace(workshop.request_of_file(np.ones((3, 4)), np.zeros(3, int)), schemes=())
    assert result_of(msgspec.json.encode(request)).message.startswith("schemes: ")
