"""What the agent believes: pure checks of documents whose signatures were verified before they came here.

Order of checks of a Desired, each fatal: installation, device, enrolled key, expiry, (epoch, generation) against the
floor of the director key that sealed it. What it names is then held against the repository by `cross_check` and
`check_manifest`, so that a stolen director key can only choose among releases made for this hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

from agent.core.state import Floor, Identity, components_of, line
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError, UntrustedError
from shared.ids import is_slug
from shared.manifest import artifact_path, manifest_path, measurement_path
from shared.traffic import check as check_rule
from shared.traffic import variant_of
from shared.wire import (
    Desired,
    DesiredBody,
    DesiredComponent,
    DesiredModel,
    Pulse,
    TargetRef,
    WantedMeasurement,
    body_digest,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from shared.ids import HardwareProfileId, KeyId, Sha256
    from shared.manifest import ManifestArtifact, ReleaseManifest

CLOCK_SKEW_S = 300.0
"""A Pulse may be this far ahead of a device's clock: no clock on a network with time service is further off."""
_FLOORS_KEPT = 8


class Order(StrEnum):
    """How an accepted document relates to the one that the device follows."""

    NEWER = "newer"
    SAME = "same"
    """Re-sealed or repeated: only its expiry may have moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the device knows when a document comes."""

    identity: Identity
    floor: Floor
    """Of the key that sealed the document."""
    now: datetime
    """Never behind what was verified before."""
    trusted_until: datetime | None = None
    body_digest: Sha256 | None = None
    """Of the Desired that the device follows, if the same key sealed that one."""


class Target(Protocol):
    """What the repository vouches for of one file: `agent.delivery.repository.VerifiedTarget`."""

    @property
    def length_bytes(self) -> int:
        """Size of the file."""
        ...

    @property
    def sha256(self) -> Sha256:
        """Digest of the file."""
        ...

    @property
    def release_counter(self) -> int:
        """Of the release that the file belongs to."""
        ...

    @property
    def profiles(self) -> tuple[HardwareProfileId, ...]:
        """Hardware that the file was made for."""
        ...


class Director(Protocol):
    """What the top-level role says of the director: `agent.delivery.repository.DirectorTrust`."""

    @property
    def min_release_counter(self) -> int:
        """Releases below it were withdrawn, whoever asks for them."""
        ...


class Targets(Protocol):
    """A verified state of the repository: `agent.delivery.repository.VerifiedTargets`."""

    @property
    def director(self) -> Director:
        """The signed word on the director."""
        ...

    @property
    def files(self) -> Mapping[str, Target]:
        """By path; one that is missing is vouched for by nobody."""
        ...


def decode_desired(payload: bytes) -> Desired:
    """Read an unsealed Desired. Raises UntrustedError when it is none."""
    try:
        return msgspec.json.decode(payload, type=Desired)
    except MALFORMED as exc:
        raise UntrustedError(f"malformed_desired: {exc}") from exc


def check_desired(desired: Desired, known: Known) -> Order:
    """Check that a Desired is for this device, still holds, and is no older than what its key said before.

    Raises:
        UntrustedError: `wrong_installation`, `wrong_device`, `wrong_key`, `expired`, `generation_not_newer`,
            `generation_reused`, or what `check_body` says, with detail after a colon.
    """
    identity = known.identity
    # A seal says who speaks, not to whom: without these three, what was sealed for a neighbour could be replayed here.
    if desired.installation_id != identity.installation_id:
        raise UntrustedError(f"wrong_installation: {desired.installation_id}")
    if desired.device_id != identity.device_id:
        raise UntrustedError(f"wrong_device: {desired.device_id}")
    if desired.key_fingerprint != identity.key_fingerprint:
        raise UntrustedError("wrong_key: sealed for another enrolment of this device")
    # `known.now` never falls behind a time that was verified: setting the clock back revives nothing.
    if desired.expires_at <= known.now:
        raise UntrustedError(f"expired: {desired.expires_at.isoformat()}")
    check_body(desired.body)
    return _order(desired, known)


def check_body(body: DesiredBody) -> None:
    """Refuse a body of which no plan could be made, whole: half of it would be what nobody sealed.

    A rule may name a variant that is not listed: its share goes to the others until it comes.

    Raises:
        UntrustedError: `bad_variant`, `duplicate_model` or `bad_traffic`, with detail after a colon.
    """
    for model in body.models:
        variant = variant_of(model.variant)
        # A line is a name on this device: one with another's separator in it could be taken for that.
        if not (is_slug(model.model) and is_slug(variant)):
            raise UntrustedError(f"bad_variant: {model.model!r} with variant {variant!r}: a-z, 0-9 and - only")
    lines = [line(model) for model in body.models]
    if len(set(lines)) != len(lines):
        raise UntrustedError("duplicate_model: a model may be listed once for each of its variants")
    rules = () if body.traffic is msgspec.UNSET else body.traffic
    if len({rule.model for rule in rules}) != len(rules):
        raise UntrustedError("bad_traffic: a model may have one rule")
    for rule in rules:
        try:
            check_rule(rule, field=f"traffic of {rule.model}")
        except InvalidInputError as exc:
            raise UntrustedError(f"bad_traffic: {exc}") from exc


def _order(desired: Desired, known: Known) -> Order:
    place, floor = (desired.epoch, desired.generation), (known.floor.epoch, known.floor.generation)
    if place > floor:
        return Order.NEWER
    if place < floor:
        raise UntrustedError(f"generation_not_newer: {place} is below {floor}")
    # From here on it is a repetition. A re-seal moves nothing but its times, so that one generation has one body for
    # ever: a second body under it is a forgery, or a controller that forgot (recovery raises the epoch).
    if known.body_digest is None:
        raise UntrustedError(f"generation_not_newer: {place} was replaced under another key")
    if body_digest(desired.body) != known.body_digest:
        raise UntrustedError(f"generation_reused: {place} has another body")
    return Order.SAME


def decode_pulse(payload: bytes) -> Pulse:
    """Read an unsealed Pulse. Raises UntrustedError when it is none."""
    try:
        return msgspec.json.decode(payload, type=Pulse)
    except MALFORMED as exc:
        raise UntrustedError(f"malformed_pulse: {exc}") from exc


def check_pulse(pulse: Pulse, known: Known) -> Order:
    """Check that a Pulse is of this installation, no older than the newest of its key, and not from the future.

    Raises:
        UntrustedError: `wrong_installation`, `serial_not_newer` or `from_the_future`, with detail after a colon.
    """
    if pulse.installation_id != known.identity.installation_id:
        raise UntrustedError(f"wrong_installation: {pulse.installation_id}")
    # No check of age here: an old Pulse still tells halts, it only authorises nothing (`lifecycle.pulse_problem`).
    place, floor = (pulse.epoch, pulse.serial), (known.floor.pulse_epoch, known.floor.pulse_serial)
    if place < floor:
        raise UntrustedError(f"serial_not_newer: {place} is below {floor}")
    # A device without a clock of its own learns the time from documents, but never beyond the repository's expiry.
    horizon = max(known.now, known.trusted_until or known.now) + timedelta(seconds=CLOCK_SKEW_S)
    if pulse.issued_at > horizon:
        raise UntrustedError(f"from_the_future: {pulse.issued_at.isoformat()}")
    return Order.NEWER if place > floor else Order.SAME


def proven_time(
    issued_at: datetime, *, verified_at: datetime | None, trusted_until: datetime | None
) -> datetime | None:
    """Return the newest time that is proven once a document of `issued_at` was verified.

    A document moves it no further than the expiry of the newest verified metadata: a stolen director key cannot make
    a device believe that everything has expired.
    """
    if trusted_until is None:
        return verified_at
    # Without metadata nobody vouches for a time at all, and with them only as far as they reach.
    proven = min(issued_at, trusted_until)
    return proven if verified_at is None else max(proven, verified_at)


def floor_of(floors: tuple[Floor, ...], key_id: KeyId) -> Floor:
    """Return the floor of a director key; one that was never heard starts at the bottom."""
    for floor in floors:
        if floor.key_id == key_id:
            return floor
    return Floor(key_id=key_id)


def with_floor(floors: tuple[Floor, ...], raised: Floor) -> tuple[Floor, ...]:
    """Return the floors with one replaced; the longest unused are forgotten, for their keys were replaced long ago."""
    # The raised one goes last, so that the ones cut off are those that no document has named for longest.
    return (*(floor for floor in floors if floor.key_id != raised.key_id), raised)[-_FLOORS_KEPT:]


def cross_check(wanted: DesiredModel, targets: Targets) -> None:
    """Hold what a Desired names against what the repository vouches for. Raises UntrustedError at any difference."""
    if wanted.manifest.path != manifest_path(wanted.release_id):
        raise UntrustedError(f"untrusted: {wanted.manifest.path} is not the manifest of {wanted.release_id}")
    if wanted.artifact.path != artifact_path(wanted.artifact.sha256):
        raise UntrustedError(f"untrusted: {wanted.artifact.path} is not where its digest belongs")
    if wanted.release_counter < targets.director.min_release_counter:
        lowest = targets.director.min_release_counter
        raise UntrustedError(f"untrusted: release counter {wanted.release_counter} is below {lowest}")
    # An artifact may be part of several releases (the same bytes converted again), so only the manifest has its
    # counter.
    for ref in (wanted.manifest, wanted.artifact):
        target = _same_file(ref, targets.files)
        if target.release_counter != wanted.release_counter and ref is wanted.manifest:
            raise UntrustedError(f"untrusted: {ref.path} has release counter {target.release_counter}")
        if wanted.profile_id not in target.profiles and ref is wanted.artifact:
            raise UntrustedError(f"untrusted: {ref.path} is not for hardware {wanted.profile_id}")
    for component in components_of(wanted):
        _check_component(component, wanted, targets)


def _check_component(component: DesiredComponent, wanted: DesiredModel, targets: Targets) -> None:
    ref = component.artifact
    # It becomes the name of a file.
    if not is_slug(component.name):
        raise UntrustedError(f"untrusted: a component is named {component.name[:80]!r}")
    if ref.path != artifact_path(ref.sha256):
        raise UntrustedError(f"untrusted: {ref.path} is not where its digest belongs")
    if wanted.profile_id not in _same_file(ref, targets.files).profiles:
        raise UntrustedError(f"untrusted: {ref.path} is not for hardware {wanted.profile_id}")


def check_measurement(wanted: WantedMeasurement, targets: Targets) -> None:
    """Hold an artifact that is to be measured against the repository. Raises UntrustedError at any difference.

    What is vouched for as a measurement is for no hardware: under that path nothing can be served, and no release's
    file can be had as a measurement to get around its checks.
    """
    ref = wanted.artifact
    if ref.path != measurement_path(ref.sha256):
        raise UntrustedError(f"untrusted: {ref.path} is not where an artifact to measure belongs")
    if _same_file(ref, targets.files).profiles:
        raise UntrustedError(f"untrusted: {ref.path} is of a release")


def _same_file(ref: TargetRef, files: Mapping[str, Target]) -> Target:
    target = files.get(ref.path)
    if target is None:
        raise UntrustedError(f"untrusted: {ref.path} is not in the repository")
    if (target.length_bytes, target.sha256) != (ref.length_bytes, ref.sha256):
        raise UntrustedError(f"untrusted: {ref.path} differs between Desired and repository")
    return target


def check_manifest(wanted: DesiredModel, manifest: ReleaseManifest) -> ManifestArtifact:
    """Return the wanted artifact's entry in the manifest. Raises UntrustedError when the two do not agree."""
    # The digest was right; what is asked here is whether it is the manifest of what Desired calls by these names.
    named = (wanted.release_id, wanted.model, wanted.release_counter)
    if (manifest.release_id, manifest.model, manifest.release_counter) != named:
        raise UntrustedError(f"untrusted: the manifest is of {manifest.model} {manifest.release_id}")
    _check_components(wanted, manifest)
    for artifact in manifest.artifacts:
        if (artifact.sha256, artifact.length_bytes) == (wanted.artifact.sha256, wanted.artifact.length_bytes):
            if wanted.profile_id not in artifact.profiles:
                raise UntrustedError(f"untrusted: the artifact is not for hardware {wanted.profile_id}")
            return artifact
    raise UntrustedError(f"untrusted: artifact {wanted.artifact.sha256} is not of this release")


def _check_components(wanted: DesiredModel, manifest: ReleaseManifest) -> None:
    """Refuse other models beside the release's own than those that its manifest has for this hardware."""
    known = {each.name: each.artifacts for each in manifest.components}
    named = [each.name for each in components_of(wanted)]
    if sorted(named) != sorted(known):
        problem = f"components {', '.join(sorted(named)) or 'none'} of {', '.join(sorted(known)) or 'none'}"
        raise UntrustedError(f"untrusted: Desired names {problem}")
    for component in components_of(wanted):
        ref = component.artifact
        same = (each for each in known[component.name] if each.sha256 == ref.sha256)
        if not any(wanted.profile_id in each.profiles and each.length_bytes == ref.length_bytes for each in same):
            raise UntrustedError(f"untrusted: component {component.name} is not of this release for this hardware")
