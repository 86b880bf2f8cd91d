"""Runs `litefleet convert` as a user does, and reads what it leaves."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shared.conversion import Candidate, ConversionResult, ConvertedArtifact
from tests.support.workers import ROOT

if TYPE_CHECKING:
    from shared.pipeline import PipelineSpec

_PROGRAM = Path(sys.executable).with_name("litefleet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one command did."""

    code: int
    said: str
    result: ConversionResult
    model: bytes
    """What the one profile got; empty where it got nothing."""
    wall_s: float
    cpu_s: float
    """Of the command and everything that it started."""

    @property
    def artifact(self) -> ConvertedArtifact:
        """What was chosen."""
        (made,) = (made for made in self.result.artifacts if not made.refused and not made.refused_for)
        return made

    def rows(self, scheme: str) -> list[Candidate]:
        """Return what was tried of one scheme."""
        return [row for row in self.result.candidates if row.recipe.scheme == scheme]


def run(file: Path, data: Path, pipeline: PipelineSpec, folder: Path, *options: str, timeout_s: float = 900) -> Run:
    """Convert `file`, and leave everything in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.json").write_bytes(msgspec.json.encode(pipeline))
    named = {
        "--data": data,
        "--pipeline": folder / "pipeline.json",
        "--out": folder / "out",
        "--cache": folder / "kept",
    }
    arguments = [str(part) for pair in named.items() for part in pair]
    begin, before = time.monotonic(), _used_s()
    done = subprocess.run(
        [_PROGRAM, "convert", file, *arguments, *options],
        env={**os.environ, "LITEFLEET_WORKERS_DIR": str(ROOT), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    model = folder / "out" / "generic.tflite"
    return Run(
        code=done.returncode,
        said=done.stdout + done.stderr,
        result=msgspec.json.decode((folder / "out" / "result.json").read_bytes(), type=ConversionResult),
        model=model.read_bytes() if model.exists() else b"",
        wall_s=time.monotonic() - begin,
        cpu_s=_used_s() - before,
    )


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
