"""A command that runs under `guard`, from an environment of its own, and nothing of this process's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING

import shared
from converters.frontends.guard import Breach, Limits, Report, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_GUARD = Path(__file__).with_name("guard.py")
_PACKAGES = (Path(__file__).parents[1], Path(shared.__file__).parent)
_PATIENCE_S = 2.0
"""Between the last line of a command and its end."""
_REPORT_WITHIN_S = 10.0
"""The guard needs 2 s at most to end everything; on a machine that swaps, longer."""
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
"""The others may hold secrets, or settings that change what a framework does."""
_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "tensorflow",
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Sums in one order on every machine, so that a source's answers are the same.
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


class Guarded:
    """`python -m MODULE …` by another environment's interpreter, limited; not for two threads at once.

    It and everything that it starts ends within 2 s when it breaks a limit, on `end`, and when this process ends.
    """

    def __init__(
        self, python: Path, arguments: Sequence[str], *, scratch: Path, limits: Limits, threads: int = 1
    ) -> None:
        """Start. `scratch` is a folder of this command alone; what it says on stderr is left there in `worker.log`.

        Raises:
            OSError: it could not be started.
        """
        self._open = contextlib.ExitStack()
        self._leash: int | None = None
        self._log = scratch / "worker.log"
        temporary = scratch / "tmp"
        temporary.mkdir(exist_ok=True)
        links = Path(self._open.enter_context(TemporaryDirectory(prefix="litefleet-worker-")))
        for package in _PACKAGES:
            (links / package.name).symlink_to(package.resolve(), target_is_directory=True)
        try:
            # Safe path and no user's own packages: only the links, and what the environment itself holds.
            command = [str(python), "-P", "-s", *arguments]
            self._start(command, limits, temporary, _variables(temporary, links, threads))
        except BaseException:
            self._let_go()
            self._open.close()
            raise

    @property
    def stdin(self) -> IO[bytes]:
        """Where it reads."""
        return self._stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Where it writes; at its end when the command has ended."""
        return self._stdout

    def last_said(self, size_bytes: int) -> str:
        """Return the end of what it said on stderr."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - size_bytes))
            return file.read().decode(errors="replace")

    def end(self, *, patience_s: float = _PATIENCE_S) -> Report:
        """Give it time to end by itself, then end it, and say how it ended. Once only."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self._let_go()
        try:
            code = self._process.wait(_REPORT_WITHIN_S)
            text = self._report.read()
        except subprocess.TimeoutExpired:
            self._process.kill()
            code, text = self._process.wait(), b""
        finally:
            self._open.close()
        if not text:
            # The guard itself was killed; the kernel then killed the command, though not what that had started.
            return Report(code=code)
        told = json.loads(text)
        return Report(breach=Breach(told["breach"]) if told["breach"] else None, code=told["code"])

    def _start(self, command: list[str], limits: Limits, temporary: Path, variables: dict[str, str]) -> None:
        leash_end, self._leash = os.pipe()
        report, report_end = os.pipe()
        self._report = self._open.enter_context(os.fdopen(report, "rb"))
        settings = Settings(limits=limits, scratch=str(temporary.parent), leash=leash_end, report=report_end)
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_GUARD), json.dumps(asdict(settings)), *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=temporary,
                    env=variables,
                    pass_fds=(leash_end, report_end),
                    # An interrupt at the terminal is for the caller, who then lets go.
                    start_new_session=True,
                )
        finally:
            os.close(leash_end)
            os.close(report_end)
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("both streams are pipes")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._open.callback(_close, self._stdin)
        self._open.callback(_close, self._stdout)

    def _let_go(self) -> None:
        if self._leash is not None:
            os.close(self._leash)
            self._leash = None


def _close(stream: IO[bytes]) -> None:
    # What is left in the buffer for a command that has ended is lost, and nobody misses it.
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def _variables(temporary: Path, links: Path, threads: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    folders = {"HOME": temporary, "KERAS_HOME": temporary, "TMPDIR": temporary, "PYTHONPATH": links}
    return {
        **kept,
        **_VARIABLES,
        **{name: str(folder) for name, folder in folders.items()},
        # Threads that wait for each other by turning in circles burn what other workers need: on busy cores PyTorch
        # took 0.38 s of processor time for an answer, and 0.04 s so.
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(threads),
    }
