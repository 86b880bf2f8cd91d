"""What every serving process of a device knows of rewards: one file, mapped by all of them.

It holds the key that authenticates reply ids, what each arm has earned, and which replies were rewarded. So a reward
counts whichever process it reaches, once, and for all; and what was learned outlives a restart. A reply id carries all
that must be known of the reply, so that nobody keeps a table of answers that nobody may ever reward.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hmac
import math
import mmap
import os
import struct
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple, NewType

from shared.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from shared.ids import ModelName, ReleaseId

ArmKey = NewType("ArmKey", bytes)
"""Which release on which line earned something."""

REWARDED_WITHIN_S: Final = 3600
"""How long after its answer a reply may be rewarded: what a person does with an answer is done within the hour."""

ARMS: Final = 128
"""Arms of which something is remembered; a device holds far fewer."""

BUCKETS: Final = 4096
WAYS: Final = 8
"""Rewarded replies remembered: 32,768 at most, nine a second for the hour in which they could be rewarded again."""

_MAGIC: Final = b"lfrewrd1"
_HEADER: Final = struct.Struct("8s32s24x")
_ARM: Final = struct.Struct("8sdd8x")
_SPENT: Final = struct.Struct("QI4x")
_PAYLOAD: Final = struct.Struct(">IQ8s")
_MAC_BYTES: Final = 13
"""With the payload a multiple of three, so that base64 needs no padding; forging one takes 2^104 tries."""
_ARMS_AT: Final = _HEADER.size
_SPENT_AT: Final = 8192
_SIZE: Final = _SPENT_AT + BUCKETS * WAYS * _SPENT.size
_KEY_BYTES: Final = 32
_NOBODY: Final = bytes(8)


class Posterior(NamedTuple):
    """A Beta distribution of the mean reward of an arm, from nothing known: uniform."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        """The reward to be expected."""
        return self.alpha / (self.alpha + self.beta)


def arm_key(line: ModelName, release: ReleaseId) -> ArmKey:
    """Return what names an arm's release in the file: another release begins with nothing known."""
    return ArmKey(blake2b(f"{line}\0{release}".encode(), digest_size=8).digest())


class RewardLedger:
    """The file. Every change is made under a lock between processes, and takes microseconds."""

    def __init__(self, descriptor: int | None, *, now_s: Callable[[], float]) -> None:
        """Map the file, which is whole; None: memory of this process alone.

        `now_s` is the monotonic clock, which all processes of a machine share.
        """
        self._descriptor, self._now_s = descriptor, now_s
        self._map = mmap.mmap(-1 if descriptor is None else descriptor, _SIZE)
        if descriptor is None:
            self._map[: _HEADER.size] = _fresh_header()
        _, key = _HEADER.unpack_from(self._map, 0)
        # Keyed once: each reply's own costs half of that.
        self._keyed = blake2b(key=key, digest_size=_MAC_BYTES)

    @classmethod
    def open(cls, path: Path, *, now_s: Callable[[], float]) -> RewardLedger:
        """Open the file of a device, or make it, 0600. Raises OSError."""
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # All processes start at once, and must come to the same file.
            fcntl.flock(folder, fcntl.LOCK_EX)
            descriptor = _opened(path) or _made(path)
        finally:
            os.close(folder)
        return cls(descriptor, now_s=now_s)

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        if self._descriptor is not None:
            os.close(self._descriptor)

    def posterior(self, arm: ArmKey) -> Posterior:
        """Return what is known of an arm; read without the lock, since half a change is gone at the next look."""
        place = self._place(arm)
        if place is None:
            return Posterior(1.0, 1.0)
        _, rewards, trials = _ARM.unpack_from(self._map, place)
        # What a power cut left half written must not become a distribution that is none.
        if not (math.isfinite(trials) and 0.0 <= rewards <= trials):
            return Posterior(1.0, 1.0)
        return Posterior(1.0 + rewards, 1.0 + trials - rewards)

    def keep(self, arms: Collection[ArmKey]) -> None:
        """Remember these arms, and forget all others."""
        with self._locked():
            free = []
            missing = set(arms)
            for place in range(_ARMS_AT, _ARMS_AT + ARMS * _ARM.size, _ARM.size):
                known = ArmKey(self._map[place : place + 8])
                if known in missing:
                    missing.discard(known)
                    continue
                if known != _NOBODY:
                    _ARM.pack_into(self._map, place, _NOBODY, 0.0, 0.0)
                free.append(place)
            for arm, place in zip(sorted(missing), free, strict=False):
                _ARM.pack_into(self._map, place, arm, 0.0, 0.0)

    def issue(self, arm: ArmKey, nonce: int) -> str:
        """Return the id of a reply of an arm; `nonce` is random, of 64 bits."""
        payload = _PAYLOAD.pack(int(self._now_s()) & 0xFFFFFFFF, nonce, arm)
        return base64.urlsafe_b64encode(payload + self._mac(payload)).decode()

    def reward(self, reply_id: str, reward: float) -> bool:
        """Count a reward of 0..1; returns False where the release has gone that gave the answer.

        Raises:
            NotFoundError: nobody gave such a reply, or it was too long ago.
            ConflictError: the reply was rewarded before.
        """
        issued_s, nonce, arm = self._read(reply_id)
        with self._locked():
            self._spend(nonce, issued_s, reply_id)
            place = self._place(ArmKey(arm))
            if place is None:
                return False
            _, rewards, trials = _ARM.unpack_from(self._map, place)
            _ARM.pack_into(self._map, place, arm, rewards + reward, trials + 1.0)
        return True

    def _mac(self, payload: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(payload)
        return mac.digest()

    def _read(self, reply_id: str) -> tuple[int, int, bytes]:
        unknown = NotFoundError(kind="reply", name=reply_id[:64])
        try:
            data = base64.b64decode(reply_id, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as exc:
            raise unknown from exc
        payload, mac = data[: _PAYLOAD.size], data[_PAYLOAD.size :]
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise unknown
        issued_s, nonce, arm = _PAYLOAD.unpack(payload)
        # Before the machine's last start the clock counted from another zero: those replies are forgotten, too.
        if not 0 <= int(self._now_s()) - issued_s <= REWARDED_WITHIN_S:
            raise unknown
        return issued_s, nonce, arm

    def _spend(self, nonce: int, issued_s: int, reply_id: str) -> None:
        """Write down that a reply was rewarded, in place of one that can no longer be, or of the oldest."""
        start = _SPENT_AT + (nonce % BUCKETS) * WAYS * _SPENT.size
        places = range(start, start + WAYS * _SPENT.size, _SPENT.size)
        found = {place: _SPENT.unpack_from(self._map, place) for place in places}
        if (nonce, issued_s) in found.values():
            raise ConflictError(kind="reply", name=reply_id[:64], problem="was rewarded before")
        now_s = int(self._now_s())
        # One from the future is from before the machine's last start, and can be rewarded no more.
        oldest = min(found, key=lambda place: found[place][1] if found[place][1] <= now_s else -1)
        _SPENT.pack_into(self._map, oldest, nonce, issued_s)

    def _place(self, arm: ArmKey) -> int | None:
        for place in range(_ARMS_AT, _ARMS_AT + ARMS * _ARM.size, _ARM.size):
            if self._map[place : place + 8] == arm:
                return place
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._descriptor is None:
            yield
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _fresh_header() -> bytes:
    return _HEADER.pack(_MAGIC, os.urandom(_KEY_BYTES))


def _opened(path: Path) -> int | None:
    """Open the file, if there is one of ours and it was not cut."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if os.fstat(descriptor).st_size == _SIZE and os.pread(descriptor, len(_MAGIC), 0) == _MAGIC:
        return descriptor
    os.close(descriptor)
    return None


def _made(path: Path) -> int:
    """Make the file anew, beside whatever is there: who has that mapped would die of its being cut."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # All of its room now: to write into a mapped page for which the disk has none ends the process.
        os.posix_fallocate(descriptor, 0, _SIZE)
        os.pwrite(descriptor, _fresh_header(), 0)
        os.fsync(descriptor)
        fresh.rename(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
