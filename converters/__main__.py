"""`python -m converters`: a ConversionRequest on stdin; ConversionProgress lines and one ConversionResult on stdout.

Exit code 0 means that the result line was written, whether it tells of artifacts or of a failure.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from typing import TYPE_CHECKING

import msgspec

from converters.failures import ConversionFailedError
from shared.conversion import ConversionProgress, ConversionRequest, ConversionResult, FailureKind
from shared.errors import InvalidInputError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from shared.conversion import ConversionLine

_OUT_OF_MEMORY = frozenset({"MemoryError", "ResourceExhaustedError"})
"""Python's, and TensorFlow's, which only TensorFlow could be asked for by type."""


def main() -> int:
    """Convert what stdin asks for."""
    with _protected_stdout() as output, tempfile.TemporaryDirectory(prefix="litefleet-keras-") as home:
        _settle_environment(home)
        _write(output, _result(sys.stdin.buffer.read(), output))
    return 0


def _protected_stdout() -> BinaryIO:
    # Frameworks print to descriptor 1, from C++ too; only this copy of it reaches the caller.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output


def _settle_environment(home: str) -> None:
    # Read when the frameworks are imported. A user's own Keras configuration must not change what comes out.
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": home,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # Sums in one order on every machine, so that the source's answers are the same.
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }


def _result(text: bytes, output: BinaryIO) -> ConversionResult:
    try:
        request = msgspec.json.decode(text, type=ConversionRequest)
    except msgspec.DecodeError as exc:
        return ConversionResult(failure=FailureKind.BAD_INPUT, message=f"no conversion request: {exc}")
    try:
        # The first import of numpy and the runtime may already run out of memory.
        from converters.conversion import convert

        return convert(request, _progress(request, output))
    except ConversionFailedError as exc:
        return ConversionResult(failure=exc.kind, message=str(exc))
    except (InvalidInputError, PipelineError) as exc:
        return ConversionResult(failure=FailureKind.BAD_INPUT, message=str(exc))
    except Exception as exc:  # noqa: BLE001 - this process is the fence around frameworks: whatever they raise is a result
        traceback.print_exc()
        return _unforeseen(exc)


def _progress(request: ConversionRequest, output: BinaryIO) -> Callable[[str], None]:
    from converters import plan

    starts = {stage.name: stage.start for stage in plan.stages(request)}
    return lambda step: _write(output, ConversionProgress(step=step, fraction=starts[step]))


def _unforeseen(error: Exception) -> ConversionResult:
    name = type(error).__name__
    kind = FailureKind.OUT_OF_MEMORY if name in _OUT_OF_MEMORY else FailureKind.CRASHED
    first_line = (str(error).strip().splitlines() or [""])[0][:300]
    return ConversionResult(failure=kind, message=f"{name}: {first_line}" if first_line else name)


def _write(output: BinaryIO, line: ConversionLine) -> None:
    output.write(msgspec.json.encode(line) + b"\n")
    output.flush()


if __name__ == "__main__":
    sys.exit(main())
