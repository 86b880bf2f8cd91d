"""A release on its way to a page: its manifest and one of its artifacts, with every proof that there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuf.api.exceptions import LengthOrHashMismatchError

from controller.browser import signatures
from shared import manifest
from shared.errors import DigestMismatchError, InvalidInputError, UntrustedError
from shared.ids import ReleaseId, Sha256

if TYPE_CHECKING:
    from pathlib import Path

    from controller.browser.signatures import Vouched
    from controller.client import Client
    from controller.views import ReleaseView
    from shared.manifest import ManifestArtifact, ReleaseManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """An artifact whose bytes are what a signed manifest names."""

    manifest: ReleaseManifest
    artifact: ManifestArtifact
    content: bytes
    signature: str
    """What was checked, for people."""

    @property
    def name(self) -> str:
        """What people call the release: `digits/3`."""
        return f"{self.manifest.model}/{self.manifest.version_number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where the controller is, and what is believed of it."""

    url: str
    token: str
    folder: Path
    root: Path | None = None


async def fetch(api: Client, ground: Ground, release: ReleaseView, *, scheme: str, running: str) -> Proven:
    """Fetch a release and prove it: signatures first, then every byte.

    `scheme` names the artifact; where it is empty, the one with the digest `running` is meant, or else the first.

    Raises:
        UntrustedError: a signature or a digest does not hold.
        InvalidInputError: there is no artifact of that scheme.
        ApiError, UnreachableError: the controller refuses, or does not answer.
    """
    if not release.artifacts:
        raise InvalidInputError(field="release", problem=f"{release.name} has no artifact")
    manifest_path = manifest.manifest_path(ReleaseId(release.release_id))
    paths = (manifest_path, *(manifest.artifact_path(Sha256(one.sha256)) for one in release.artifacts))
    vouched = await signatures.look_up(
        url=ground.url, token=ground.token, folder=ground.folder, paths=paths, root=ground.root
    )
    told = manifest.decode(await _blob(api, vouched, manifest_path))
    artifact = _chosen(told, scheme=scheme, running=running)
    content = await _blob(api, vouched, artifact.path)
    if manifest.digest(content) != artifact.sha256:
        raise DigestMismatchError(expected=artifact.sha256, actual=manifest.digest(content), path=artifact.path)
    return Proven(manifest=told, artifact=artifact, content=content, signature=_in_words(vouched))


def _chosen(told: ReleaseManifest, *, scheme: str, running: str) -> ManifestArtifact:
    artifacts = told.artifacts
    if scheme:
        for each in artifacts:
            if each.scheme == scheme:
                return each
        known = ", ".join(each.scheme for each in artifacts)
        raise InvalidInputError(field="scheme", problem=f"the release has no {scheme}", remedy=f"one of {known}")
    return next((each for each in artifacts if each.sha256 == running), artifacts[0])


async def _blob(api: Client, vouched: Vouched, path: str) -> bytes:
    target = vouched.files.get(path)
    if target is None:
        raise UntrustedError(f"nobody vouches for {path}, which the manifest names")
    content = await api.call("GET", f"/blobs/{target.hashes['sha256']}")
    try:
        target.verify_length_and_hashes(content)
    except LengthOrHashMismatchError as exc:
        raise UntrustedError(f"{path} is not what was signed: {exc}") from exc
    return content


def _in_words(vouched: Vouched) -> str:
    believed = ", believed now for the first time (pin one with --root)" if vouched.is_first else ""
    return (
        f"manifest and artifact vouched for, from root version {vouched.root_version}{believed}; "
        f"the repository's word is good until {vouched.expires_at:%Y-%m-%d %H:%M} UTC"
    )
