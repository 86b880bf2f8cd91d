"""What the fleet tells devices and operators of this installation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.ids import InstallationId


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where devices find the broker."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """Fixed for a controller's life, but for the root, which is renewed while it runs."""

    installation_id: InstallationId
    controller_url: str
    """Device listener as devices reach it, `https://host:port`."""
    broker: BrokerAddress
    tuf_root: Callable[[], bytes]
    """Returns the newest root."""
    invite_ttl_s: float = 900.0
    """How long a token may be used: long enough to carry it to a device, short enough to be of no use when found."""
    silent_after_s: float = 120.0
    """Without a heartbeat for this long a device is called silent: three lost ones of 30 s, and some."""
