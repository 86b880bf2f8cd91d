"""Typed identities, so that a release can never be passed where a rollout is meant.

Minted ids are UUIDv7 (RFC 9562), content ids are lower-case sha256 hex, names that people choose are slugs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NewType

from shared.errors import InvalidIdError

if TYPE_CHECKING:
    from datetime import datetime

DeviceId = NewType("DeviceId", str)
SiteId = NewType("SiteId", str)
ModelName = NewType("ModelName", str)
HardwareProfileId = NewType("HardwareProfileId", str)
ModelVersionId = NewType("ModelVersionId", str)
ConversionId = NewType("ConversionId", str)
MeasurementId = NewType("MeasurementId", str)
ReleaseId = NewType("ReleaseId", str)
RolloutId = NewType("RolloutId", str)
InstallationId = NewType("InstallationId", str)
BootId = NewType("BootId", str)
Sha256 = NewType("Sha256", str)
KeyId = NewType("KeyId", str)
Generation = NewType("Generation", int)
Epoch = NewType("Epoch", int)

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_slug(text: str) -> bool:
    """Tell whether `text` is a slug; see `slug`."""
    return _SLUG.fullmatch(text) is not None


def slug(text: str, *, field: str) -> str:
    """Return `text` if it is a slug: 1..63 of a-z 0-9 -, so that no `+ # / $ ..` can reach a topic or a path.

    Raises:
        InvalidIdError: names the field and the rule.
    """
    if not is_slug(text):
        raise InvalidIdError(field=field, value=text, rule="1 to 63 of a-z, 0-9 and -, not starting or ending with -")
    return text


def device_id(text: str) -> DeviceId:
    """Return `text` as a device id. Raises InvalidIdError."""
    return DeviceId(slug(text, field="device"))


def model_name(text: str) -> ModelName:
    """Return `text` as a model name. Raises InvalidIdError."""
    return ModelName(slug(text, field="model"))


def sha256_hex(text: str) -> Sha256:
    """Return `text` as a sha256 in lower-case hex. Raises InvalidIdError."""
    if not _SHA256.fullmatch(text):
        raise InvalidIdError(field="sha256", value=text, rule="64 lower-case hexadecimal digits")
    return Sha256(text)


def uuid7(at: datetime, entropy: bytes) -> str:
    """Return a UUIDv7, which sorts by age, from a time and 10 random bytes. Source: RFC 9562 §5.7."""
    # Milliseconds above, entropy below; then version and variant are written over six bits of the entropy.
    milliseconds = int(at.timestamp() * 1000)
    value = (milliseconds << 80) | int.from_bytes(entropy[:10], "big")
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
