"""What signed metadata in a folder vouch for, where no repository can be asked: of a release that was exported.

Root, top-level targets and hash bins are verified as python-tuf's client does it; timestamp and snapshot, which say
what is newest, are not there, and expiry is not looked at: what was exported is meant to stay what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers all three here, without an `__all__`
    Metadata,
    Root,
    Targets,
)
from tuf.api.serialization import DeserializationError

from agent.delivery.repository import VerifiedTargets
from agent.delivery.tuf_client import director_of, verified_target
from shared import manifest
from shared.errors import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from shared.ids import Sha256

ROOT, TARGETS = "root.json", "targets.json"


def look_up_kept(folder: Path, paths: Collection[str], *, root_sha256: Sha256 | None = None) -> VerifiedTargets:
    """Verify the metadata in `folder`, and return what they say of `paths`; those that nobody vouches for are absent.

    `root_sha256`: what the root must be; without it the root in the folder is believed.

    Raises:
        UntrustedError: something is missing, or is not signed by its key.
    """
    try:
        data = (folder / ROOT).read_bytes()
        if root_sha256 is not None and manifest.digest(data) != root_sha256:
            raise UntrustedError(f"{folder / ROOT} is not the root that was exported: {manifest.digest(data)}")
        root = Metadata[Root].from_bytes(data)
        root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
        top = Metadata[Targets].from_bytes((folder / TARGETS).read_bytes())
        root.signed.verify_delegate(Targets.type, top.signed_bytes, top.signatures)
        return _looked_up(folder, top.signed, paths)
    except (RepositoryError, DeserializationError, OSError, ValueError) as exc:
        raise UntrustedError(f"untrusted: {folder}: {exc}") from exc


def _looked_up(folder: Path, top: Targets, paths: Collection[str]) -> VerifiedTargets:
    shape = top.delegations.succinct_roles if top.delegations else None
    if shape is None:
        raise UntrustedError(f"untrusted: {folder / TARGETS} delegates to no hash bins")
    files = {}
    for path in paths:
        name = shape.get_role_for_target(path)
        bin_ = Metadata[Targets].from_bytes((folder / f"{name}.json").read_bytes())
        top.verify_delegate(name, bin_.signed_bytes, bin_.signatures)
        target = bin_.signed.targets.get(path)
        if target is not None:
            files[path] = verified_target(path, target)
    return VerifiedTargets(director=director_of(top), files=files, fresh_until=top.expires)
