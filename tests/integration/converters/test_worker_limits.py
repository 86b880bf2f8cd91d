"""Workers that misbehave for real: each is ended, with all that it started, and told of by its class."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from converters.environments import Environment, Located
from converters.failures import ConversionFailedError
from converters.frontends.frontend import FloatModel, FrontendRequest
from converters.frontends.guard import Limits
from converters.frontends.guarded import Guarded
from converters.frontends.process import Worker
from shared.conversion import FailureKind, SourceFormat
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
MIB = 2**20
ENDED_WITHIN_S = 2.0
# Until a starved machine has started Python twice, and given a loop the time that it may use.
BREACHED_WITHIN_S = 8.0
ROOMY = Limits(wall_s=30.0, cpu_s=30.0, memory_bytes=512 * MIB, file_bytes=64 * MIB, processes=16)

ALLOCATES = "kept = []\nwhile True: kept.append(b'x' * 2**24)"
LOOPS = "while True: pass"
WAITS = "import time\ntime.sleep(600)"
WRITES_ONE = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
file = open('one', 'wb')
while True: file.write(b'x' * 2**20)
"""
WRITES_MANY = "for i in range(10**6): open(f'many-{i}', 'wb').write(b'x' * 2**20)"
SEGFAULTS = "import ctypes\nctypes.string_at(0)"
GARBLES = "print('all is well', flush=True)\nimport time\ntime.sleep(600)"
BREEDS = "import os, time\nfor _ in range(200): os.fork() or time.sleep(600)\ntime.sleep(600)"
ORPHANS = """
import os, pathlib, signal, time
if os.fork() == 0:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        pathlib.Path('orphan').write_text(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
while not pathlib.Path('orphan').exists() or not pathlib.Path('orphan').read_text(): time.sleep(0.01)
"""
ALLOCATES_AT_ONCE = """
import pathlib, time
kept = bytearray(256 * 2**20)
pathlib.Path('breached').write_text(str(time.monotonic()))
time.sleep(600)
"""
FAMILY_ALLOCATES = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        kept = os.urandom(2**20) * 60
        time.sleep(600)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def request(folder: Path) -> FrontendRequest:
    return FrontendRequest(source_path="none", source_format=SourceFormat.KERAS, scratch_path=str(folder))


def worker_that(code: str, folder: Path, limits: Limits | None) -> Worker:
    """Return a worker whose interpreter runs `code`, whatever it is told to run."""
    script = folder / "misbehaves.py"
    script.write_text(code)
    python = folder / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {script}\n")
    python.chmod(0o755)
    return Worker(Located(environment=Environment.TF, python=python, fingerprint=""), limits=limits)


def failure_of(code: str, folder: Path, limits: Limits | None) -> ConversionFailedError:
    with worker_that(code, folder, limits) as worker, pytest.raises(ConversionFailedError) as caught:
        worker.load(request(folder))
    return caught.value


@pytest.mark.parametrize(
    ("code", "limits", "kind", "said"),
    [
        (ALLOCATES, {"memory_bytes": 128 * MIB}, FailureKind.OUT_OF_MEMORY, "more than 128 MiB of memory"),
        (FAMILY_ALLOCATES, {"memory_bytes": 128 * MIB}, FailureKind.OUT_OF_MEMORY, "more than 128 MiB of memory"),
        (LOOPS, {"cpu_s": 0.3}, FailureKind.TIMED_OUT, "computed for more than 0.3 s"),
        (WAITS, {"wall_s": 0.3}, FailureKind.TIMED_OUT, "not finished after 0.3 s"),
        (WRITES_ONE, {"file_bytes": 8 * MIB}, FailureKind.CRASHED, "wrote more than 8 MiB"),
        (WRITES_MANY, {"file_bytes": 8 * MIB}, FailureKind.CRASHED, "wrote more than 8 MiB"),
        (BREEDS, {"processes": 8}, FailureKind.CRASHED, "started more than 8 processes"),
        (SEGFAULTS, {}, FailureKind.CRASHED, "SIGSEGV"),
        (GARBLES, {}, FailureKind.CRASHED, "does not speak its protocol"),
        ("raise SystemExit(3)", {}, FailureKind.CRASHED, "ended with 3 without an answer"),
        ("raise MemoryError('no room')", {}, FailureKind.OUT_OF_MEMORY, "MemoryError: no room"),
        ("import os\nos.kill(os.getpid(), 9)", {}, FailureKind.OUT_OF_MEMORY, "for want of memory"),
    ],
)
def test_worker_that_misbehaves_is_ended_in_time_and_classed(
    code: str, limits: dict[str, float], kind: FailureKind, said: str, tmp_path: Path
) -> None:
    allowed = Limits(**{**{name: getattr(ROOMY, name) for name in Limits.__slots__}, **limits})
    begin = time.monotonic()
    failure = failure_of(code, tmp_path, allowed)
    assert time.monotonic() - begin < BREACHED_WITHIN_S + ENDED_WITHIN_S
    assert failure.kind is kind
    assert said in str(failure)


def test_worker_that_breaks_a_limit_is_gone_within_two_seconds(tmp_path: Path) -> None:
    failure = failure_of(ALLOCATES_AT_ONCE, tmp_path, Limits(wall_s=30.0, memory_bytes=128 * MIB))
    breached = tmp_path / "tmp" / "breached"
    # Ended before it could even say so is sooner still.
    if breached.exists() and breached.read_text():
        assert time.monotonic() - float(breached.read_text()) < ENDED_WITHIN_S
    assert failure.kind is FailureKind.OUT_OF_MEMORY


def test_worker_that_leaves_an_orphan_in_a_session_of_its_own_takes_it_along(tmp_path: Path) -> None:
    failure = failure_of(ORPHANS, tmp_path, ROOMY)
    assert failure.kind is FailureKind.CRASHED
    assert not alive(int((tmp_path / "tmp" / "orphan").read_text()))


def test_worker_that_breaks_a_limit_takes_its_orphans_along(tmp_path: Path) -> None:
    failure = failure_of(f"{ORPHANS}\n{LOOPS}", tmp_path, Limits(wall_s=30.0, cpu_s=0.5))
    assert failure.kind is FailureKind.TIMED_OUT
    assert not alive(int((tmp_path / "tmp" / "orphan").read_text()))


def test_worker_of_a_caller_that_is_killed_ends_too(tmp_path: Path) -> None:
    caller = (
        "import sys; from pathlib import Path\n"
        "from tests.integration.converters.test_worker_limits import ORPHANS, WAITS, ROOMY, worker_that, request\n"
        "folder = Path(sys.argv[1])\n"
        "worker_that(ORPHANS + WAITS, folder, ROOMY).load(request(folder))\n"
    )
    orphan = tmp_path / "tmp" / "orphan"
    process = subprocess.Popen([sys.executable, "-c", caller, str(tmp_path)], cwd=ROOT)
    try:
        wait_until(lambda: orphan.exists() and orphan.read_text(), within_s=20)
        pid = int(orphan.read_text())
        assert alive(pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: not alive(pid), within_s=ENDED_WITHIN_S)


def test_worker_may_map_more_than_its_caller_and_use_no_more(tmp_path: Path) -> None:
    shown = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    caller = (
        "import sys; from pathlib import Path\n"
        "from tests.integration.converters.test_worker_limits import ALLOCATES, ROOMY, failure_of\n"
        "from converters.frontends.guarded import Guarded\n"
        "folder = Path(sys.argv[1])\n"
        f"guarded = Guarded(Path(sys.executable), ['-c', {shown!r}], scratch=folder, limits=ROOMY)\n"
        "print(int(guarded.stdout.readline()))\n"
        "print(failure_of(ALLOCATES, folder, None))\n"
    )
    bounded = [
        *(sys.executable, "-P", str(ROOT / "shared" / "limits.py"), f"--address-space-bytes={512 * MIB}"),
        *("--cpu-s=60", f"--file-bytes={64 * MIB}", f"--parent={os.getpid()}", "--"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*bounded, sys.executable, "-c", caller, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    mapped, failure = done.stdout.split("\n", 1)
    assert int(mapped) != 512 * MIB
    assert "used more than 512 MiB of memory" in failure


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[Guarded]:
    code = "import os, sys; print(sorted(os.environ), sys.path, sep='\\n')"
    os.environ["LITEFLEET_SECRET"] = "of the caller"
    try:
        guarded = Guarded(Path(sys.executable), ["-c", code], scratch=tmp_path, limits=ROOMY)
        yield guarded
        guarded.end()
    finally:
        del os.environ["LITEFLEET_SECRET"]


def test_guarded_command_sees_neither_the_callers_settings_nor_its_packages(spoken: Guarded) -> None:
    variables, search_path = spoken.stdout.read().decode().splitlines()
    assert "LITEFLEET_SECRET" not in variables
    assert "TMPDIR" in variables
    assert str(ROOT) not in search_path.split("'")[1]
    assert "litefleet-worker-" in search_path.split("'")[1]


def test_guarded_command_that_ends_well_is_reported_with_its_code(tmp_path: Path) -> None:
    guarded = Guarded(Path(sys.executable), ["-c", "raise SystemExit(7)"], scratch=tmp_path, limits=ROOMY)
    assert guarded.stdout.read() == b""
    report = guarded.end()
    assert (report.breach, report.code) == (None, 7)


def test_worker_that_names_a_file_that_is_not_its_own_is_not_believed(tmp_path: Path) -> None:
    told = FloatModel(
        model_path="/etc/hostname",
        inputs=(),
        outputs=(),
        parameters=0,
        operators_before={},
        operators_after={},
        worker="forged",
        seconds=0.0,
        peak_memory_bytes=0,
    )
    for path in ("/etc/hostname", str(tmp_path / "float.tflite")):
        (tmp_path / "float.tflite").unlink(missing_ok=True)
        (tmp_path / "float.tflite").symlink_to("/etc/hostname")
        line = msgspec.json.encode(msgspec.structs.replace(told, model_path=path)).decode()
        failure = failure_of(f"print({line!r}, flush=True)", tmp_path, ROOMY)
        assert "left no model in its folder" in str(failure)


def test_worker_asked_before_it_has_loaded_or_after_it_ended_says_so(tmp_path: Path) -> None:
    worker = worker_that(LOOPS, tmp_path, ROOMY)
    with pytest.raises(RuntimeError, match="has loaded no model"):
        worker.answer(tmp_path / "in.npz", tmp_path / "out.npz")
    worker.close()
    worker.close()


def test_two_workers_at_once_have_limits_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    patient = Guarded(Path(sys.executable), ["-c", "print(input())"], scratch=tmp_path / "one", limits=ROOMY)
    assert failure_of(LOOPS, tmp_path / "other", Limits(cpu_s=0.3)).kind is FailureKind.TIMED_OUT
    patient.stdin.write(b"still here\n")
    patient.stdin.flush()
    assert patient.stdout.read() == b"still here\n"
    assert patient.end().code == 0
