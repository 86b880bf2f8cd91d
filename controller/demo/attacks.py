"""Two attacks on the running fleet: a mirror that serves altered bytes, and a broker that forges an order."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared import signing, topics, wire
from shared.ids import DeviceId, Epoch, Generation, InstallationId, Sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from controller.client import Client
    from controller.demo.broker import Broker
    from shared.clock import Clock

_POLL_S = 0.25
_SETTLE_S = 20.0
_FLIPPED_AT = 0.5
"""In the middle of the file: among the weights, where the file still loads and only the answers change."""


@contextmanager
def tampered(blob: Path) -> Iterator[None]:
    """Alter one byte of a stored artifact, as a hostile mirror would, and put it back afterwards."""
    original = blob.read_bytes()
    altered = bytearray(original)
    altered[int(len(altered) * _FLIPPED_AT)] ^= 0xFF
    mode = blob.stat().st_mode
    blob.chmod(0o600)
    blob.write_bytes(bytes(altered))
    try:
        yield
    finally:
        blob.write_bytes(original)
        blob.chmod(mode)


class _LogLine(msgspec.Struct, frozen=True):
    on: str = ""
    reason: str = ""


async def forge_desired(api: Client, broker: Broker, *, device: str, log: Path, clock: Clock) -> str:
    """Publish, with the broker's full powers, an order for `device` that a stranger's key sealed.

    Returns what the device says to it, over the API or in its own log, or an empty text when it says nothing within
    20 s. A publisher with the controller's name pushes the controller off the broker; it comes back and publishes the
    genuine order again, which the device may take before anybody has read over the API that it refused the forged one.
    """
    shown = await api.device(device)
    status = await api.status()
    now = clock.now()
    forged = wire.Desired(
        installation_id=InstallationId(status.installation_id),
        device_id=DeviceId(device),
        key_fingerprint=Sha256("0" * 64),
        epoch=Epoch(1),
        generation=Generation(shown.generation + 1000),
        body=wire.DesiredBody(models=()),
        issued_at=now,
        expires_at=now + timedelta(days=1),
    )
    sealed = signing.seal(wire.DESIRED_TYPE, msgspec.json.encode(forged), Ed25519PrivateKey.generate())
    logged_before = await asyncio.to_thread(log.read_bytes)
    await broker.publish(topics.device_topic(DeviceId(device), topics.Channel.DESIRED), sealed)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SETTLE_S
    while loop.time() < deadline:
        logged = await asyncio.to_thread(log.read_bytes)
        answer = (await api.device(device)).desired_refused or refusal_in(logged[len(logged_before) :])
        if answer:
            return answer
        await asyncio.sleep(_POLL_S)
    return ""


def refusal_in(log: bytes) -> str:
    """Return why an agent refused an order, by the lines of its log; empty when it refused none."""
    for line in log.splitlines():
        try:
            said = msgspec.json.decode(line, type=_LogLine)
        except msgspec.DecodeError:  # the supervisor's own words, or a line that is still being written
            continue
        if said.on == "DesiredRefused":
            return said.reason
    return ""
