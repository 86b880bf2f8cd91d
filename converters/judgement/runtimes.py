"""Whether an artifact answers right on another runtime version: asked there, since nothing else shows it.

A runtime may load a file that is too new for it and compute garbage without an error, or crash.
"""

from __future__ import annotations

import signal
import sys
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from converters.environments import Environment, Located, locate
from converters.frontends.guard import Limits
from converters.frontends.guarded import Guarded
from converters.judgement.runtime_child import GOLDEN_NAME, MODEL_NAME, Finding
from shared.conversion import CheckOutcome, RuntimeCheck
from shared.errors import InvalidInputError
from shared.hardware import Runtime

if TYPE_CHECKING:
    from converters.frontends.guard import Report
    from shared.conversion import RuntimeVersion
    from shared.manifest import GoldenCheck

_LIMITS = Limits(wall_s=120.0, cpu_s=120.0, memory_bytes=4 * 2**30, file_bytes=2**30, processes=16)
"""A few dozen invocations of one model."""
_ENVIRONMENTS = {Runtime.AI_EDGE_LITERT: Environment.BASE, Runtime.TFLITE_RUNTIME: Environment.TFLITE}
_MAX_LINE_BYTES = 2**16


def is_left_to_devices(runtime: Runtime) -> bool:
    """Whether an artifact may go to devices unchecked on their version, to be tried there first.

    Versions of ai-edge-litert differ little. What tflite-runtime makes of a file that is too new for it is garbage.
    """
    return runtime is Runtime.AI_EDGE_LITERT


def obstacle(runtime: RuntimeVersion, root: Path | None) -> str:
    """Return "" or why nothing here can check artifacts on `runtime`, as far as that shows without one."""
    try:
        located = locate(_ENVIRONMENTS[runtime.runtime], root)
    except InvalidInputError as exc:
        return f"{exc.problem} ({exc.remedy})"
    found = _installed_version(located, runtime.runtime)
    return "" if not found or _is_version(found, runtime.version) else _none_has(runtime, runtime.runtime, found)


def check(artifact: bytes, golden: GoldenCheck, runtime: RuntimeVersion, root: Path | None) -> RuntimeCheck:
    """Run the golden check in the environment that has `runtime`; `root` is where environments are installed.

    Never raises for what the artifact does there: a crash is a failed check.
    """
    try:
        located = locate(_ENVIRONMENTS[runtime.runtime], root)
    except InvalidInputError as exc:
        return _outcome(runtime, CheckOutcome.NOT_CHECKED, str(exc))
    finding, report = _ask(artifact, golden, located)
    if finding is None:
        return _outcome(runtime, CheckOutcome.FAILED, _ending(report))
    if finding.runtime is not runtime.runtime or not _is_version(finding.version, runtime.version):
        return _outcome(
            runtime,
            CheckOutcome.NOT_CHECKED,
            _none_has(runtime, finding.runtime, finding.version),
        )
    return _outcome(runtime, CheckOutcome.FAILED if finding.problem else CheckOutcome.PASSED, finding.problem)


def _none_has(wanted: RuntimeVersion, runtime: Runtime, version: str) -> str:
    if is_left_to_devices(wanted.runtime):
        remedy = "try the release on a device of that version before it goes to all of them"
    else:
        remedy = f"update these devices to {version}, or to ai-edge-litert"
    return f"no environment here has {wanted.runtime} {wanted.version}, only {runtime} {version}: {remedy}"


def _installed_version(located: Located, runtime: Runtime) -> str:
    folders = located.python.parents[1].glob("lib/python*/site-packages")
    paths = sys.path if located.python == Path(sys.executable) else [str(folder) for folder in folders]
    return next((found.version for found in metadata.distributions(name=runtime, path=paths)), "")


def _ask(artifact: bytes, golden: GoldenCheck, located: Located) -> tuple[Finding | None, Report]:
    with TemporaryDirectory(prefix="litefleet-runtime-") as folder:
        scratch = Path(folder)
        (scratch / MODEL_NAME).write_bytes(artifact)
        (scratch / GOLDEN_NAME).write_bytes(msgspec.msgpack.encode(golden))
        child = Guarded(
            located.python, ["-m", "converters.judgement.runtime_child", str(scratch)], scratch=scratch, limits=_LIMITS
        )
        try:
            # Ends with the child, which the guard ends in any case.
            line = child.stdout.readline(_MAX_LINE_BYTES)
        finally:
            report = child.end()
    try:
        return msgspec.json.decode(line, type=Finding), report
    except msgspec.DecodeError:
        return None, report


def _ending(report: Report) -> str:
    if report.breach is not None:
        return f"runtime_crashed: it took more {report.breach} than a check may"
    code = report.code
    if code is not None and code < 0:
        return f"runtime_crashed: {_signal_name(-code)}"
    return f"runtime_crashed: it ended with code {code} and no answer"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_version(found: str, wanted: str) -> bool:
    """Whether `wanted`, of which the end may be left out, is the version found."""
    parts = wanted.split(".")
    return found.split(".")[: len(parts)] == parts


def _outcome(runtime: RuntimeVersion, outcome: CheckOutcome, reason: str) -> RuntimeCheck:
    return RuntimeCheck(runtime=runtime.runtime, version=runtime.version, outcome=outcome, reason=reason)
