"""Say, without the network, whether the locks were made from the dependencies that are named now.

`make locks` leaves a digest of those dependencies beside the locks (`--write`); `make check` compares it with today's.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from pathlib import Path

LOCKS = Path(__file__).parent
PYPROJECT = LOCKS.parents[1] / "pyproject.toml"
CONSTRAINTS = LOCKS / "constraints.txt"
RECORD = LOCKS / "made-from.sha256"


def dependencies_digest(pyproject: Path, constraints: Path) -> str:
    """Return the sha256 of everything that a lock follows from, whatever order a person wrote it in."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    named = {
        "constraints": constraints.read_text(encoding="utf-8"),
        "dependencies": sorted(project["dependencies"]),
        "extras": {extra: sorted(wanted) for extra, wanted in project["optional-dependencies"].items()},
        "python": project["requires-python"],
    }
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def main(arguments: list[str]) -> str | None:
    """Compare or, with `--write`, record; return what is wrong, if anything."""
    today = dependencies_digest(PYPROJECT, CONSTRAINTS)
    if arguments == ["--write"]:
        RECORD.write_text(f"{today}\n", encoding="utf-8")
        return None
    recorded = RECORD.read_text(encoding="utf-8").strip() if RECORD.exists() else "nothing"
    if recorded == today:
        return None
    return "the locks were made from other dependencies than pyproject.toml and constraints.txt name; type: make locks"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
