"""Releases, plans and real serving processes for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from agent.core.plan import BootFile, Plan, Route, SlotSpec
from agent.serving.planned.sockets import numbered
from shared import manifest
from shared.ids import ModelName, ReleaseId
from shared.pipeline import MODEL_ONLY, PipelineSpec
from tests.support import models
from tests.support.ports import LOOPBACK, free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from shared.manifest import GoldenCheck

ROOT = Path(__file__).parents[2]
MODEL = ModelName("digits")
STABLE, CANDIDATE = ReleaseId("release-stable"), ReleaseId("release-candidate")
# The last bytes of a model that `tests.support.crashing_serving` dies of. Behind the end of the file's own structure
# they change nothing.
CRASH = b"CRASH"


def make_slot(
    releases: Path,
    model: bytes,
    *,
    release: ReleaseId = STABLE,
    version: int = 1,
    pipeline: PipelineSpec = MODEL_ONLY,
    golden: GoldenCheck | None = None,
    name: ModelName = MODEL,
) -> SlotSpec:
    """Write a release's folder and return the slot that names it."""
    folder = releases / release
    made = models.release_manifest(
        model, release_id=release, name=name, version_number=version, pipeline=pipeline, golden=golden
    )
    models.release_folder(folder, model, made)
    return SlotSpec(
        model=name,
        release_id=release,
        version_number=version,
        folder=str(folder),
        artifact_sha256=manifest.digest(model),
        manifest_sha256=manifest.digest(manifest.encode(made)),
    )


def plan_of(*slots: SlotSpec, serial: int = 1, candidate: ReleaseId | None = None, ratio: float = 2.0) -> Plan:
    """A plan for one model: the first slot answers, the second (if there is one) is its shadow."""
    shadow = slots[1].release_id if len(slots) > 1 else None
    route = Route(model=MODEL, primary=slots[0].release_id, shadow=shadow, candidate=candidate, max_latency_ratio=ratio)
    return Plan(serial=serial, slots=slots, routes=(route,))


def one_hot(position: int, *, size: int = 10) -> list[float]:
    """The input that `models.one_hot_classifier` names `position`."""
    return [float(place == position) for place in range(size)]


def infer_body(*rows: list[float], datatype: str = "FP32") -> bytes:
    """An inference request of one tensor."""
    tensor = {"name": "input", "shape": [len(rows), len(rows[0])], "datatype": datatype, "data": rows}
    return json.dumps({"inputs": [tensor]}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A reply, read whole."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


def http(
    url: str, data: bytes | None = None, *, content_type: str = "application/json", timeout_s: float = 20.0
) -> HttpAnswer:
    """Ask once, on a connection of its own. Raises OSError when nobody answers."""
    request = urllib.request.Request(url, data=data, headers={"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return HttpAnswer(status=reply.status, headers=dict(reply.headers), body=json.loads(reply.read()))
    except urllib.error.HTTPError as exc:
        with exc:
            return HttpAnswer(status=exc.code, headers=dict(exc.headers), body=json.loads(exc.read()))


class Device:
    """A state folder, and a supervisor with its children that serve from it."""

    def __init__(
        self,
        state: Path,
        *,
        control: str = "tests.support.idle_control",
        serving: str = "agent.serving.process",
        processes: int = 1,
        settings: str = "",
    ) -> None:
        """`settings` are further lines of `agent.toml`."""
        self.state, self.port = state, free_port()
        self.run, self.releases = state / "run", state / "releases"
        self.log = state / "log.txt"
        self.processes, self._settings = processes, settings
        self._modules = ["--control", control, "--serving", serving]
        self._supervisor: subprocess.Popen[bytes] | None = None
        state.mkdir(parents=True, exist_ok=True)
        self.config = state / "agent.toml"
        self.move_to(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where inference is."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def supervisor_pid(self) -> int:
        """The supervisor's process id."""
        assert self._supervisor is not None
        return self._supervisor.pid

    def move_to(self, port: int) -> None:
        """Set another port, for the next start."""
        self.port = port
        text = f'state_dir = "{self.state}"\nhttp_port = {port}\nserving_processes = {self.processes}\n'
        self.config.write_text(text + self._settings)

    def write_boot(self, plan: Plan, *, fallback: Plan | None = None, tries_left: int = 3) -> None:
        """Write `boot.json` as control does: in one piece."""
        boot = BootFile(plan=plan, fallback=fallback or plan, tries_left=tries_left)
        fresh = self.state / "boot.json.new"
        fresh.write_bytes(msgspec.json.encode(boot))
        fresh.rename(self.state / "boot.json")

    def read_boot(self) -> BootFile:
        """Read `boot.json` back."""
        return msgspec.json.decode((self.state / "boot.json").read_bytes(), type=BootFile)

    def start(self) -> None:
        """Start the supervisor; returns at once."""
        command = [sys.executable, "-m", "tests.support.supervisor_main", "--config", str(self.config), *self._modules]
        with self.log.open("ab") as log:
            self._supervisor = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log, start_new_session=True)

    def stop(self) -> None:
        """Stop the supervisor in order, and whatever it has left behind."""
        if self._supervisor is not None:
            self._supervisor.terminate()
            self._supervisor.wait(30)
        for pid in (*(self.serving_pid(number) for number in range(self.processes)), self.control_pid()):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """End the supervisor as the kernel does when memory is short."""
        assert self._supervisor is not None
        self._supervisor.kill()
        self._supervisor.wait(10)
        self._supervisor = None

    def serving_pid(self, number: int = 0) -> int | None:
        """The process that holds the lock of one of the serving processes now."""
        return _lock_owner(self.run / f"{numbered('serving', number)}.lock")

    def control_pid(self) -> int | None:
        """The process that holds the control lock now."""
        return _lock_owner(self.run / "control.lock")

    def infer(self, position: int = 3) -> HttpAnswer:
        """Ask the one-hot model."""
        return http(f"{self.url}/v2/models/{MODEL}/infer", infer_body(one_hot(position)))

    def is_ready(self) -> bool:
        """Whether every model answers."""
        try:
            return http(f"{self.url}/v2/health/ready").status == 200
        except OSError:
            return False

    def wait_ready(self, *, within_s: float = 20.0) -> None:
        """Wait until every model answers."""
        wait_until(self.is_ready, within_s=within_s, what="serving is ready")


def _lock_owner(path: Path) -> int | None:
    """Find who has a lock file open: its holders inherit the descriptor, and nobody else opens it for long."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) == str(path) for fd in (process / "fd").iterdir()):
                return int(process.name)
    return None
