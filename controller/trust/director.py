"""The director: the only voice that tells a device what to run and the fleet what is halted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared import signing
from shared.wire import DESIRED_TYPE, PULSE_TYPE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from shared.ids import KeyId
    from shared.wire import Desired, Pulse


class Director:
    """Seals documents with the director's key; it decides nothing."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @property
    def key_id(self) -> KeyId:
        """The name of the public key, as devices know it."""
        return signing.key_id(self._key.public_key())

    @property
    def public_hex(self) -> str:
        """The raw public key in hex, as the repository's `director.json` lists it."""
        return self._key.public_key().public_bytes_raw().hex()

    def desired(self, document: Desired) -> bytes:
        """Seal what one device should run. Raises ValueError when it is larger than a device takes."""
        return signing.seal(DESIRED_TYPE, msgspec.json.encode(document), self._key)

    def pulse(self, document: Pulse) -> bytes:
        """Seal the broadcast. Raises ValueError when it is larger than a device takes."""
        return signing.seal(PULSE_TYPE, msgspec.json.encode(document), self._key)
