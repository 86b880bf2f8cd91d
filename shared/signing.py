"""Sealed documents: a payload and its ed25519 signatures in one DSSE envelope.

Source: DSSE protocol v1.0 (pre-authentication encoding, `payloadType`, base64 payload).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidSignature

from shared.decoding import MALFORMED
from shared.errors import UnsealError
from shared.ids import BootId, KeyId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_SEALED_BYTES = 64 * 1024
"""A sealed document must fit a small broker's packet and a small device's memory."""


class _Signature(msgspec.Struct, frozen=True, kw_only=True):
    keyid: str
    sig: bytes


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    payloadType: str  # noqa: N815 - the field's name in the DSSE specification
    payload: bytes
    signatures: list[_Signature]


def key_id(public: Ed25519PublicKey) -> KeyId:
    """Name a public key by the sha256 of its raw 32 bytes, in hex."""
    return KeyId(hashlib.sha256(public.public_bytes_raw()).hexdigest())


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that DSSE signs. Source: DSSE v1.0, "PAE"."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the sealed document. Raises ValueError when it would exceed MAX_SEALED_BYTES."""
    signature = _Signature(
        keyid=key_id(key.public_key()), sig=key.sign(pre_authentication_encoding(payload_type, payload))
    )
    sealed = msgspec.json.encode(_Envelope(payloadType=payload_type, payload=payload, signatures=[signature]))
    if len(sealed) > MAX_SEALED_BYTES:
        message = f"sealed document of {len(sealed)} bytes exceeds {MAX_SEALED_BYTES}"
        raise ValueError(message)
    return sealed


def unseal(sealed: bytes, *, payload_type: str, keys: Mapping[KeyId, Ed25519PublicKey]) -> tuple[bytes, KeyId]:
    """Return the payload, only if one of `keys` signed it as `payload_type`, and that key's id.

    Raises:
        UnsealError: too large, malformed, of another type, or not signed by a trusted key.
    """
    # Before parsing: what a stranger sends may cost neither memory nor time.
    if len(sealed) > MAX_SEALED_BYTES:
        message = f"sealed document of {len(sealed)} bytes exceeds {MAX_SEALED_BYTES}"
        raise UnsealError(message)
    try:
        envelope = msgspec.json.decode(sealed, type=_Envelope)
    except MALFORMED as exc:
        message = f"not a sealed document: {exc}"
        raise UnsealError(message) from exc
    if envelope.payloadType != payload_type:
        message = f"sealed as {envelope.payloadType[:80]!r}, expected {payload_type!r}"
        raise UnsealError(message)
    signed = pre_authentication_encoding(payload_type, envelope.payload)
    # The key id is a hint for finding the key, and anybody may write it: only the signature proves.
    for signature in envelope.signatures:
        key = keys.get(KeyId(signature.keyid))
        if key is not None and _verifies(key, signature.sig, signed):
            return envelope.payload, KeyId(signature.keyid)
    message = "no signature by a trusted key"
    raise UnsealError(message)


def _verifies(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def uplink_mac(key: bytes, *, topic: str, boot_id: BootId, seq: int, body: bytes) -> str:
    """Return the HMAC-SHA256 in hex that proves a device's message, its topic, boot and place in the sequence."""
    parts = (topic.encode(), boot_id.encode(), str(seq).encode(), body)
    # Each part with its length, so that no byte can move from one part into the next and keep the MAC.
    framed = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    return hmac.digest(key, framed, "sha256").hex()


def same_mac(left: str, right: str) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())
