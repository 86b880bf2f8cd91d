"""`digests.py FORMAT FOLDER NAME/BATCH…`: converts files in one process, and writes the sha256 of each as JSON.

BATCH is a number, or `any`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path


def digest(loader: str, folder: Path, case: str) -> str:
    """Return the sha256 of the float model."""
    name, _, batch = case.partition("/")
    source = importlib.import_module(f"converters.loaders.{loader}").open_source(folder / name, folder / f"{name}.made")
    return hashlib.sha256(source.to_tflite(None if batch == "any" else int(batch))).hexdigest()


if __name__ == "__main__":
    loader, folder, *cases = sys.argv[1:]
    sys.stdout.write(json.dumps({case: digest(loader, Path(folder), case) for case in cases}))
