"""`python -m agent.exported`: a release that `litefleet release export` wrote, verified and served on its own.

Every start verifies signatures and digests first, with the code by which an agent trusts what it was told to fetch.
Then this process becomes the serving process, which starts from the plan on disk as it does without control.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.config import load
from agent.core.plan import BootFile, ComponentSpec, Plan, Route, SlotSpec
from agent.core.state import components_of
from agent.core.trust import check_manifest, cross_check
from agent.delivery.kept_metadata import look_up_kept
from agent.doors import name_of, open_doors, read_settings
from agent.grants import read_grants
from shared import manifest
from shared.decoding import MALFORMED
from shared.errors import DigestMismatchError, InvalidInputError, LitefleetError, UntrustedError
from shared.ids import Sha256
from shared.wire import DesiredModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.manifest import ReleaseManifest
    from shared.wire import TargetRef

WANTED_FILE = "release.json"
"""What was exported, as a device would be told it."""
TRUST_DIR, RELEASE_DIR = "trust", "release"
MANIFEST_FILE, MODEL_FILE, COMPONENTS_DIR = "manifest.json", "model.tflite", "components"
SERVING = "agent.serving.process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A release whose every byte was verified."""

    folder: Path
    wanted: DesiredModel
    manifest: ReleaseManifest

    def plan(self) -> Plan:
        """Return the plan that serves it, and nothing else."""
        slot = SlotSpec(
            model=self.wanted.model,
            release_id=self.wanted.release_id,
            version_number=self.manifest.version_number,
            folder=str((self.folder / RELEASE_DIR).absolute()),
            artifact_sha256=self.wanted.artifact.sha256,
            manifest_sha256=self.wanted.manifest.sha256,
            components=tuple(
                ComponentSpec(name=one.name, artifact_sha256=one.artifact.sha256) for one in components_of(self.wanted)
            ),
        )
        route = Route(model=self.wanted.model, primary=self.wanted.release_id)
        return Plan(serial=1, slots=(slot,), routes=(route,))


def verify(folder: Path, *, root_sha256: Sha256 | None = None) -> Exported:
    """Return what a folder holds, once every signature and digest of it was found right.

    Raises:
        UntrustedError: a signature is wrong, or the documents do not agree with one another.
        DigestMismatchError: a file is not what was signed.
    """
    wanted = _wanted(folder / WANTED_FILE)
    files = _files(wanted)
    targets = look_up_kept(folder / TRUST_DIR, [ref.path for ref in files.values()], root_sha256=root_sha256)
    cross_check(wanted, targets)
    read = {name: _read(folder / RELEASE_DIR / name, ref) for name, ref in files.items()}
    described = manifest.decode(read[MANIFEST_FILE])
    check_manifest(wanted, described)
    return Exported(folder=folder, wanted=wanted, manifest=described)


def serve(exported: Exported, config: Path) -> None:
    """Become the serving process, on the doors that the settings open; returns only by an exception.

    Which applications may call is read now; whoever changes that starts the server again.

    Raises:
        ValueError, OSError, InvalidInputError: the settings cannot be used; names the setting and the remedy.
    """
    settings = read_settings(config)
    if settings.processes != 1:
        raise ValueError("serving_processes must be 1 here: start more of these servers, each with a port of its own")
    loaded = load(config, os.environ)
    plan = msgspec.structs.replace(exported.plan(), applications=read_grants(loaded.grants_path))
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    boot = msgspec.json.encode(BootFile(plan=plan, fallback=plan, tries_left=1))
    (settings.state_dir / "boot.json").write_bytes(boot)
    [doors] = open_doors(settings, {}).values()
    inherited = []
    for door in doors:
        # Kept open over exec, and by nobody else: this process starts nothing before it becomes serving.
        door.set_inheritable(True)
        inherited.append(f"--listen-fd={door.fileno()}")
    _say("inference on " + ", ".join(name_of(door) for door in doors))
    sys.stderr.flush()
    command = [sys.executable, "-m", SERVING, f"--config={config}", *inherited]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, and serve where that is asked; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m agent.exported", description=__doc__)
    parser.add_argument("command", choices=("verify", "serve"))
    parser.add_argument("folder", type=Path, help="what `litefleet release export` wrote as `exported`")
    parser.add_argument("--root-sha256", type=Sha256, help="digest that the root of trust must have")
    parser.add_argument("--config", type=Path, help="TOML file with the agent's settings; needed to serve")
    asked = parser.parse_args(arguments)
    try:
        exported = verify(asked.folder, root_sha256=asked.root_sha256)
        described = exported.manifest
        _say(f"verified {described.model}/{described.version_number}, release {described.release_id}")
        if asked.command == "serve":
            if asked.config is None:
                raise InvalidInputError(field="--config", problem="is needed to serve")
            serve(exported, asked.config)
    except (LitefleetError, ValueError, OSError) as exc:
        _say(str(exc))
        return os.EX_CONFIG if isinstance(exc, ValueError) else 1
    return os.EX_OK


def _wanted(path: Path) -> DesiredModel:
    try:
        return msgspec.json.decode(path.read_bytes(), type=DesiredModel)
    except (OSError, *MALFORMED) as exc:
        raise UntrustedError(f"untrusted: {path} cannot be read: {exc}") from exc


def _files(wanted: DesiredModel) -> dict[str, TargetRef]:
    """Return every file of the release by its place in the folder."""
    parts = {f"{COMPONENTS_DIR}/{one.name}.tflite": one.artifact for one in components_of(wanted)}
    return {MANIFEST_FILE: wanted.manifest, MODEL_FILE: wanted.artifact, **parts}


def _read(path: Path, ref: TargetRef) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise UntrustedError(f"untrusted: {path} cannot be read: {exc.strerror}") from exc
    actual = manifest.digest(data)
    if (len(data), actual) != (ref.length_bytes, ref.sha256):
        raise DigestMismatchError(expected=ref.sha256, actual=actual, path=str(path))
    return data


def _say(text: str) -> None:
    print(f"litefleet-agent: {text}", file=sys.stderr, flush=True)  # noqa: T201 - logging is set up by serving


if __name__ == "__main__":
    sys.exit(main())
