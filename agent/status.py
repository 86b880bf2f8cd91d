"""What a device can say of itself from its state folder alone, whether or not the agent runs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509

from agent.core.plan import BootFile
from agent.delivery.slots import Slots
from agent.link.identity import BrokerAddress, identity_files, load_identity
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.ids import DeviceId, InstallationId, ModelName, ReleaseId, SiteId

if TYPE_CHECKING:
    from pathlib import Path


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one model is served, by the last plan that was committed."""

    model: ModelName
    version_number: int | None
    primary: ReleaseId | None
    candidate: ReleaseId | None
    unavailable_reason: str = ""


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`litefleet-agent status`."""

    schema_version: int = 1
    device_id: DeviceId
    site: SiteId
    installation_id: InstallationId
    controller_url: str
    broker: BrokerAddress
    certificate_expires_at: datetime
    releases: tuple[ReleaseId, ...]
    """Whole on disk, serving or not."""
    models: tuple[ModelStatus, ...]


def device_status(state_dir: Path) -> DeviceStatus:
    """Read the state folder.

    Raises:
        NotFoundError: the device never enrolled.
        InvalidInputError: a file is damaged.
    """
    identity = load_identity(state_dir)
    certificate = identity_files(state_dir).certificate
    try:
        expires_at = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as exc:
        raise InvalidInputError(field=str(certificate), problem=f"cannot be read: {exc}") from exc
    return DeviceStatus(
        device_id=identity.device_id,
        site=identity.site,
        installation_id=identity.installation_id,
        controller_url=identity.controller_url,
        broker=identity.broker,
        certificate_expires_at=expires_at,
        releases=Slots(state_dir / "releases").list(),
        models=_models(state_dir / "boot.json"),
    )


def _models(path: Path) -> tuple[ModelStatus, ...]:
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=BootFile).plan
    except FileNotFoundError:
        return ()
    except MALFORMED as exc:
        raise InvalidInputError(field=str(path), problem=f"is damaged: {exc}", remedy="start the agent") from exc
    versions = {slot.release_id: slot.version_number for slot in plan.slots}
    return tuple(
        ModelStatus(
            model=route.model,
            version_number=versions.get(route.primary) if route.primary else None,
            primary=route.primary,
            candidate=route.candidate,
            unavailable_reason=route.unavailable_reason,
        )
        for route in plan.routes
    )


def render_text(status: DeviceStatus) -> str:
    """Return the status for a person, one fact a line."""
    lines = [
        f"device       {status.device_id} at site {status.site}",
        f"installation {status.installation_id}",
        f"controller   {status.controller_url}",
        f"broker       {status.broker.host}:{status.broker.port}{' (TLS)' if status.broker.tls else ''}",
        f"certificate  until {status.certificate_expires_at:%Y-%m-%d %H:%M} UTC",
        f"releases     {len(status.releases)} on disk",
    ]
    for model in status.models:
        serves = f"version {model.version_number}" if model.primary else f"unavailable: {model.unavailable_reason}"
        trial = f", candidate {model.candidate}" if model.candidate else ""
        lines.append(f"model        {model.model}: {serves}{trial}")
    return "\n".join(lines)
