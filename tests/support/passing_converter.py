"""A conversion program for `.tflite` files that are good already: the artifact is the file that came.

Run by path, as any conversion program is.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from shared import manifest
from shared.conversion import ConversionRequest, ConversionResult, ConvertedArtifact
from shared.manifest import Accuracy, GoldenCheck, Scheme
from shared.runtime.interpreter import LiteRtInterpreter


def main() -> None:
    """Do the one conversion that stands on stdin."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ConversionRequest)
    content = Path(request.source_path).read_bytes()
    written = Path(request.scratch_path) / "same.tflite"
    shutil.copyfile(request.source_path, written)
    interpreter = LiteRtInterpreter(content, threads=1)
    artifact = ConvertedArtifact(
        scheme=Scheme.FLOAT32,
        path=str(written),
        sha256=manifest.digest(content),
        length_bytes=len(content),
        inputs=interpreter.inputs,
        outputs=interpreter.outputs,
        accuracy=Accuracy(samples=10, source=0.9, artifact=0.9, agreement=1.0),
        max_abs_diff=0.0,
        latency_ms=0.1,
        golden=GoldenCheck(cases=(), atol=0.1, rtol=0.1),
    )
    result = ConversionResult(artifacts=(artifact,), worker="passing 1")
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main()
