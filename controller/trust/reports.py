"""Keys by which devices prove their messages, so that a broker can forge nothing upwards.

A key is derived from one secret of the controller, the device and its boot. Nothing of it is stored per device: a
database dump gives no keys away, and a new boot makes the keys of all earlier ones worthless to whoever overheard them.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

from controller.trust.files import SECRET_MODE, secret_folder, write_atomically
from shared import signing
from shared.errors import UntrustedError

if TYPE_CHECKING:
    from pathlib import Path

    from shared.ids import BootId, DeviceId
    from shared.wire import Uplink

KEY_BYTES = 32


class ReportKeys:
    """Derives per-device keys and judges MACs."""

    def __init__(self, master: bytes) -> None:
        if len(master) < KEY_BYTES:
            raise ValueError(f"the master key has {len(master)} bytes, fewer than {KEY_BYTES}")
        self._master = master

    @classmethod
    def open(cls, path: Path) -> ReportKeys:
        """Read the secret in `path`, made now if the file is missing. Raises UntrustedError when it was cut short."""
        if not path.exists():
            secret_folder(path.parent)
            write_atomically(path, secrets.token_bytes(KEY_BYTES), mode=SECRET_MODE)
        master = path.read_bytes()
        if len(master) < KEY_BYTES:
            raise UntrustedError(f"{path} has {len(master)} bytes, fewer than {KEY_BYTES}: restore it from a backup")
        return cls(master)

    def mac_key(self, device: DeviceId, boot_id: BootId) -> bytes:
        """Return the key of one device for one boot."""
        # Ids hold no "/", so no two pairs of device and boot make the same text.
        return hmac.digest(self._master, f"litefleet-uplink/{device}/{boot_id}".encode(), "sha256")

    def proves(self, uplink: Uplink, *, device: DeviceId, topic: str) -> bool:
        """Whether `device` made this message, for this very topic."""
        key = self.mac_key(device, uplink.boot_id)
        expected = signing.uplink_mac(key, topic=topic, boot_id=uplink.boot_id, seq=uplink.seq, body=bytes(uplink.body))
        # In constant time: a broker may measure how far a guess is right.
        return signing.same_mac(expected, uplink.mac)
