"""One front end at work in its environment, within limits: a model may be hostile, huge, or crash its framework."""

from __future__ import annotations

import contextlib
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from converters.failures import ConversionFailedError
from converters.frontends.frontend import (
    AnswerRequest,
    Answers,
    FloatModel,
    FrontendFailure,
    FrontendLine,
    FrontendProgress,
)
from converters.frontends.guard import Breach, Limits
from converters.frontends.guarded import Guarded
from shared.conversion import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from converters.environments import Located
    from converters.frontends.frontend import FrontendRequest
    from converters.frontends.guard import Report

_MAX_LINE_BYTES = 2**20
_TAIL_BYTES = 2**14
_MAX_SAID = 300
_OUT_OF_MEMORY_WORDS = ("MemoryError", "bad_alloc", "Cannot allocate memory", "out of memory", "RESOURCE_EXHAUSTED")
_MIB = 2**20

T = TypeVar("T", FloatModel, Answers)


class Worker:
    """The worker of one front end, from `load` to the end of the `with` block; not for two threads at once.

    Many may run at the same time, each within limits of its own. One that breaks a limit is killed within 2 s with
    everything that it started, and the call that waits for it raises.
    """

    def __init__(
        self, located: Located, *, limits: Limits | None = None, progress: Callable[[str], None] | None = None
    ) -> None:
        """Prepare; nothing runs before `load`. `progress` is called with the name of each step as it begins.

        Without `limits`, it may use no more memory than this process may map.
        """
        self._python = located.python
        self._limits = limits or _allowed()
        self._progress = progress
        self._running: Guarded | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the worker, and everything that it started."""
        self.close()

    def load(self, request: FrontendRequest) -> FloatModel:
        """Start the worker, and have it make the float model. Once only: a worker opens one model.

        Raises:
            ConversionFailedError: says of which kind the failure is.
        """
        if self._running is not None:
            raise RuntimeError("a worker opens one model")
        try:
            self._running = Guarded(
                self._python,
                ["-m", "converters.frontends.worker"],
                scratch=Path(request.scratch_path),
                limits=self._limits,
                threads=request.threads,
            )
        except OSError as exc:
            raise ConversionFailedError(FailureKind.CRASHED, f"the worker did not start: {exc}") from exc
        made = self._ask(request, FloatModel)
        path = Path(made.model_path)
        # A framework that was talked into running code could name any file of this machine.
        if path.is_symlink() or not path.is_file() or path.resolve().parent != Path(request.scratch_path).resolve():
            raise ConversionFailedError(FailureKind.CRASHED, "the worker left no model in its folder")
        return made

    def answer(self, inputs_path: Path, answers_path: Path) -> Answers:
        """Have the source framework answer `inputs_path` into `answers_path`; see AnswerRequest.

        Raises:
            ConversionFailedError: it cannot, or the float model answers otherwise.
        """
        return self._ask(AnswerRequest(inputs_path=str(inputs_path), answers_path=str(answers_path)), Answers)

    def close(self) -> None:
        """End the worker; again is fine."""
        running, self._running = self._running, None
        if running is not None:
            running.end(patience_s=0.0)

    def _ask(self, request: msgspec.Struct, wanted: type[T]) -> T:
        running = self._running
        if running is None:
            raise RuntimeError("the worker has loaded no model, or has ended")
        # One that ended before it read everything is judged by how it ended.
        with contextlib.suppress(BrokenPipeError):
            running.stdin.write(msgspec.json.encode(request) + b"\n")
            running.stdin.flush()
        while line := running.stdout.readline(_MAX_LINE_BYTES):
            said = _decoded(line)
            if isinstance(said, wanted):
                return said
            if isinstance(said, FrontendFailure):
                raise ConversionFailedError(said.kind, said.message)
            if not isinstance(said, FrontendProgress):
                raise ConversionFailedError(
                    FailureKind.CRASHED, f"the worker does not speak its protocol: {line[:80]!r}"
                )
            if self._progress is not None:
                self._progress(said.step)
        self._running = None
        report = running.end()
        raise _autopsy(report, self._limits, running.last_said(_TAIL_BYTES))


def _allowed() -> Limits:
    # Whoever bounded this process meant its workers, too.
    limits, (mapped_bytes, _) = Limits(), resource.getrlimit(resource.RLIMIT_AS)
    if mapped_bytes == resource.RLIM_INFINITY:
        return limits
    return replace(limits, memory_bytes=min(limits.memory_bytes, mapped_bytes))


def _decoded(line: bytes) -> FrontendLine | None:
    try:
        said: FrontendLine = msgspec.json.decode(line, type=FrontendLine)
    except msgspec.DecodeError:
        return None
    return said


def _autopsy(report: Report, limits: Limits, said: str) -> ConversionFailedError:
    """Say why a worker ended without an answer."""
    if report.breach is not None:
        return ConversionFailedError(*_breach(report.breach, limits))
    code = report.code
    if code == -signal.SIGXCPU:
        return ConversionFailedError(*_breach(Breach.CPU, limits))
    if code == -signal.SIGXFSZ:
        return ConversionFailedError(*_breach(Breach.FILES, limits))
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")[:_MAX_SAID]
    if any(word in said for word in _OUT_OF_MEMORY_WORDS):
        return ConversionFailedError(FailureKind.OUT_OF_MEMORY, last)
    if code == -signal.SIGKILL:
        # Nobody here kills a worker that keeps its limits: the kernel does, when memory is short.
        return ConversionFailedError(FailureKind.OUT_OF_MEMORY, "killed, most likely for want of memory")
    ended = (
        "was ended" if code is None else f"ended by signal {_signal_name(-code)}" if code < 0 else f"ended with {code}"
    )
    return ConversionFailedError(
        FailureKind.CRASHED, f"the worker {ended} without an answer" + (f": {last}" if last else "")
    )


def _signal_name(number: int) -> str:
    # Real-time signals have no name.
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _breach(breach: Breach, limits: Limits) -> tuple[FailureKind, str]:
    match breach:
        case Breach.MEMORY:
            return FailureKind.OUT_OF_MEMORY, f"it used more than {limits.memory_bytes // _MIB} MiB of memory"
        case Breach.CPU:
            return FailureKind.TIMED_OUT, f"it computed for more than {limits.cpu_s:g} s"
        case Breach.WALL:
            return FailureKind.TIMED_OUT, f"it was not finished after {limits.wall_s:g} s"
        case Breach.FILES:
            return FailureKind.CRASHED, f"it wrote more than {limits.file_bytes // _MIB} MiB of files"
        case Breach.PROCESSES:
            return FailureKind.CRASHED, f"it started more than {limits.processes} processes"
