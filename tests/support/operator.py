"""An operator at a terminal: the `litefleet` command against one controller, in this process unless asked otherwise."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from typer.testing import CliRunner

from agent.link.enrol import enrol, read_invite
from controller.cli import app

if TYPE_CHECKING:
    from agent.link.identity import Identity
    from shared.hardware import DeviceHardware

T = TypeVar("T")

_REPOSITORY = Path(__file__).parents[2]
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str

    def read(self, kind: type[T]) -> T:
        """Return stdout as the one JSON document that it must be."""
        return msgspec.json.decode(self.out, type=kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Types commands. `folder` is where files are written."""

    url: str
    token_file: Path
    folder: Path
    columns: int = 80

    def types(self, *words: str, **environment: str) -> Answer:
        """Run `litefleet WORDS` to its end. A process of its own would spend most of its time on imports."""
        ours: dict[str, str | None] = {name: None for name in os.environ if name.startswith("LITEFLEET_")}
        result = CliRunner().invoke(
            app, words, env={**ours, **self._environment(), **environment}, prog_name="litefleet"
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(code=result.exit_code, out=result.stdout, err=result.stderr)

    def types_in_a_shell(self, *words: str, **environment: str) -> Answer:
        """Run `litefleet WORDS` as a process of its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LITEFLEET_")}
        done = subprocess.run(
            [sys.executable, "-c", "from controller.cli import main; main()", *words],
            cwd=self.folder,
            env={**inherited, **self._environment(), **environment},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr)

    def must(self, *words: str) -> Answer:
        """Run a command that has to succeed."""
        answer = self.types(*words)
        assert answer.code == 0, f"litefleet {' '.join(words)}: {answer.code}\n{answer.out}{answer.err}"
        return answer

    def enrols(self, device: str, hardware: DeviceHardware, *labels: str, site: str = "default") -> Identity:
        """Invite a device and enrol it; nothing of it runs, so that it stays offline."""
        invite = self.folder / f"{device}.invite"
        marked = [word for label in labels for word in ("--label", label)]
        self.must("device", "invite", device, "--site", site, "--out", str(invite), *marked)
        return asyncio.run(enrol(read_invite(invite), state_dir=self.folder / device, hardware=hardware))

    def _environment(self) -> dict[str, str]:
        return {
            "LITEFLEET_URL": self.url,
            "LITEFLEET_TOKEN_FILE": str(self.token_file),
            "COLUMNS": str(self.columns),
            "PYTHONPATH": str(_REPOSITORY),
        }
