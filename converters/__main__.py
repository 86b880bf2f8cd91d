"""`python -m converters`: a ConversionRequest on stdin; ConversionProgress lines and one ConversionResult on stdout.

Exit code 0 means that the result line was written, whether it tells of artifacts or of a failure. No framework is
imported here: each source is opened by a worker of its own (`converters.frontends.process`).
"""

from __future__ import annotations

import errno
import sys
import traceback
from typing import TYPE_CHECKING

import msgspec

from converters.data.streams import protected_stdout
from converters.failures import ConversionFailedError
from shared.conversion import ConversionProgress, ConversionRequest, ConversionResult, FailureKind
from shared.errors import InvalidInputError, PipelineError

if TYPE_CHECKING:
    from typing import BinaryIO

    from converters.plan import Stage
    from shared.conversion import ConversionLine


def main() -> int:
    """Convert what stdin asks for."""
    with protected_stdout() as output:
        _write(output, _result(sys.stdin.buffer.read(), output))
    return 0


def _result(text: bytes, output: BinaryIO) -> ConversionResult:
    try:
        request = msgspec.json.decode(text, type=ConversionRequest)
    except msgspec.DecodeError as exc:
        return ConversionResult(failure=FailureKind.BAD_INPUT, message=f"no conversion request: {exc}")
    try:
        # The first import of numpy and the runtime may already run out of memory.
        from converters.conversion import convert

        return convert(request, _Progress(output))
    except ConversionFailedError as exc:
        return ConversionResult(failure=exc.kind, message=str(exc))
    except (InvalidInputError, PipelineError) as exc:
        return ConversionResult(failure=FailureKind.BAD_INPUT, message=str(exc))
    except Exception as exc:  # noqa: BLE001 - this process is a fence around the runtime and foreign files: whatever they raise is a result
        traceback.print_exc()
        return _unforeseen(exc)


class _Progress:
    """Writes progress lines whose fraction never falls."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._fraction = 0.0

    def __call__(self, stage: Stage, share: float = 0.0, detail: str = "") -> None:
        from converters.plan import fraction

        self._fraction = max(self._fraction, fraction(stage, share))
        step = f"{stage}: {detail}" if detail else str(stage)
        _write(self._output, ConversionProgress(step=step, fraction=self._fraction))


def _unforeseen(error: Exception) -> ConversionResult:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        problem = (
            "the disk is full: make room where conversions work (TMPDIR, or the controller's state), and try again"
        )
        return ConversionResult(failure=FailureKind.CRASHED, message=problem)
    name = type(error).__name__
    kind = FailureKind.OUT_OF_MEMORY if isinstance(error, MemoryError) else FailureKind.CRASHED
    first_line = (str(error).strip().splitlines() or [""])[0][:300]
    return ConversionResult(failure=kind, message=f"{name}: {first_line}" if first_line else name)


def _write(output: BinaryIO, line: ConversionLine) -> None:
    output.write(msgspec.json.encode(line) + b"\n")
    output.flush()


if __name__ == "__main__":
    sys.exit(main())
