"""`python -m converters.judgement.runtime_child FOLDER`: one golden check on this environment's runtime.

A process of its own, since an old runtime may crash on a new file. It imports only what every environment with a
runtime has.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from converters.data.streams import protected_stdout
from shared.errors import ModelLoadError
from shared.hardware import Runtime
from shared.manifest import GoldenCheck

MODEL_NAME, GOLDEN_NAME = "model.tflite", "golden.msgpack"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the check found."""

    runtime: Runtime
    version: str
    problem: str
    """Empty when every case holds; else a word and the figures."""


def main(arguments: list[str]) -> int:
    """Check the model in the named folder, and write one line with the Finding."""
    with protected_stdout() as output:
        output.write(msgspec.json.encode(_find(Path(arguments[0]))) + b"\n")
    return 0


def _find(folder: Path) -> Finding:
    from shared.runtime.golden import check_golden
    from shared.runtime.interpreter import LiteRtInterpreter, runtime_name_and_version

    golden = msgspec.msgpack.decode((folder / GOLDEN_NAME).read_bytes(), type=GoldenCheck)
    runtime, version = runtime_name_and_version()
    try:
        problem = check_golden(LiteRtInterpreter((folder / MODEL_NAME).read_bytes(), threads=1), golden)
    except ModelLoadError as exc:
        problem = f"{exc.reason}: {exc}"
    return Finding(runtime=runtime, version=version, problem=problem)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
