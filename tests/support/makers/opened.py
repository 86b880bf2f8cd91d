"""`opened.py FORMAT FOLDER NAME…`: opens and converts files in one process, and writes as JSON how they fared."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from shared.errors import LitefleetError


def fared(loader: str, path: Path, batch: int | None) -> str:
    """Return the error's class and message; "" when there is none."""
    module = importlib.import_module(f"converters.loaders.{loader}")
    try:
        module.open_source(path, path.with_name(f"{path.name}.scratch")).to_tflite(batch)
    except LitefleetError as exc:
        return f"{type(exc).__name__}: {exc}"
    return ""


if __name__ == "__main__":
    loader, folder, *names = sys.argv[1:]
    sys.stdout.write(json.dumps({name: fared(loader, Path(folder) / name, 1) for name in names}))
