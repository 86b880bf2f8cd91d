"""Sealed documents from broker and controller: unsealed with the director's keys that the repository names.

The keys are kept in a file between lives, until the metadata that named them expires: a halt must be believed also
while the controller's HTTPS is away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.core import trust
from agent.core.events import DesiredReceived, DesiredRefused, PulseReceived, TrustRefreshed
from agent.delivery import repository
from agent.delivery.durable import write_whole
from agent.delivery.repository import DirectorTrust
from shared.decoding import MALFORMED
from shared.errors import LitefleetError, RetryableError, StorageFullError, UnsealError, UntrustedError
from shared.signing import unseal
from shared.wire import DESIRED_TYPE, PULSE_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from agent.core.events import Event
    from agent.delivery.repository import RepositorySettings, VerifiedTargets
    from agent.link.https import DeviceApi
    from shared.clock import Clock
    from shared.ids import InstallationId, KeyId

_ASK_AGAIN_S = 30.0
"""Between two questions to the repository because of an unknown key: forged documents must not keep a device busy."""

_log = structlog.get_logger(__name__)


class Documents:
    """Opens what is sealed, and asks for it over HTTPS."""

    def __init__(
        self,
        *,
        api: DeviceApi,
        settings: RepositorySettings,
        installation_id: InstallationId,
        cache: Path,
        clock: Clock,
        emit: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._api, self._settings, self._installation_id = api, settings, installation_id
        self._cache, self._clock, self._emit = cache, clock, emit
        self._turn = asyncio.Lock()
        self._asked_at: float | None = None
        self._director = _read_cache(cache, installation_id)

    async def verified(self, targets: list[str], *, optional: Sequence[str] = ()) -> VerifiedTargets:
        """Bring the repository's metadata up to date and look up targets; the director's keys come with every answer.

        Raises:
            UntrustedError, UnreachableError, StorageFullError: see `repository.refresh`.
        """
        async with self._turn:
            return await self._refresh(targets, optional)

    async def _refresh(self, targets: list[str], optional: Sequence[str] = ()) -> VerifiedTargets:
        """Do it; the turn is ours, for two children must not write the same metadata."""
        # Before asking, not after: failures count too, or a mirror that is away would be asked for every forgery.
        self._asked_at = self._clock.monotonic()
        found = await repository.refresh(self._settings, targets, optional=optional)
        if found.director.installation_id != self._installation_id:
            raise UntrustedError(f"untrusted: the repository is of installation {found.director.installation_id}")
        if found.director != self._director:
            self._director = found.director
            await self._keep(found.director)
        # The soonest of all expiries, and so the least that a stolen director key can move the device's sense of time.
        expires_at = min(found.fresh_until, found.director.expires_at)
        await self._emit(TrustRefreshed(at=self._clock.now(), expires_at=expires_at))
        return found

    async def _keep(self, director: DirectorTrust) -> None:
        try:
            await asyncio.to_thread(write_whole, self._cache, msgspec.json.encode(director))
        except (StorageFullError, OSError) as exc:
            # The keys are good all the same; only the next life of control will have to ask for them.
            _log.warning("director_keys_not_kept", error=str(exc))

    async def take_desired(self, sealed: bytes) -> None:
        """Open a sealed Desired and hand it on, or why it is refused."""
        try:
            payload, key_id = await self._open(sealed, DESIRED_TYPE)
            desired = trust.decode_desired(payload)
        except LitefleetError as exc:
            await self._emit(DesiredRefused(at=self._clock.now(), reason=f"{exc.reason}: {exc}"))
            return
        await self._emit(DesiredReceived(at=self._clock.now(), desired=desired, key_id=key_id))

    async def take_pulse(self, sealed: bytes) -> None:
        """Open a sealed Pulse and hand it on; one that cannot be opened is as good as none."""
        try:
            payload, key_id = await self._open(sealed, PULSE_TYPE)
            pulse = trust.decode_pulse(payload)
        except LitefleetError as exc:
            _log.warning("pulse_refused", error=str(exc))
            return
        await self._emit(PulseReceived(at=self._clock.now(), pulse=pulse, key_id=key_id))

    async def request(self) -> None:
        """Ask for keys, Pulse and Desired over HTTPS; whatever does not answer is asked again later by the core.

        One by one: a repository that is away, or has let its metadata expire, must not keep a halt from coming.
        """
        for what, ask in (("keys", self._ask_keys), ("pulse", self._ask_pulse), ("desired", self._ask_desired)):
            try:
                await ask()
            except RetryableError as exc:
                _log.info("documents_unreachable", what=what, error=str(exc))
            except UntrustedError as exc:
                _log.warning("documents_refused", what=what, error=str(exc))

    async def _ask_keys(self) -> None:
        await self.verified([])

    async def _ask_pulse(self) -> None:
        await self.take_pulse(await self._api.pulse())

    async def _ask_desired(self) -> None:
        sealed = await self._api.desired()
        if sealed is not None:
            await self.take_desired(sealed)

    async def _open(self, sealed: bytes, payload_type: str) -> tuple[bytes, KeyId]:
        """Unseal; a key that is not known yet is a reason to ask the repository once. Raises LitefleetError."""
        try:
            return unseal(sealed, payload_type=payload_type, keys=self._keys())
        except UnsealError:
            if not await self._ask_for_keys():
                raise
        return unseal(sealed, payload_type=payload_type, keys=self._keys())

    async def _ask_for_keys(self) -> bool:
        """Ask the repository for the keys, unless that was just done; tells whether they may have changed."""
        before = self._director
        async with self._turn:
            # Another document has asked while this one waited for its turn.
            if self._director is not before:
                return True
            if self._asked_at is not None and self._clock.monotonic() - self._asked_at < _ASK_AGAIN_S:
                return False
            try:
                await self._refresh([])
            except (RetryableError, UntrustedError) as exc:
                _log.info("keys_not_refreshed", error=str(exc))
                return False
        return True

    def _keys(self) -> dict[KeyId, Ed25519PublicKey]:
        director = self._director
        if director is None or director.expires_at <= self._clock.now():
            return {}
        return {
            key_id: Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
            for key_id, public in director.keys.items()
        }


def _read_cache(path: Path, installation_id: InstallationId) -> DirectorTrust | None:
    try:
        director = msgspec.json.decode(path.read_bytes(), type=DirectorTrust)
    except (OSError, *MALFORMED):
        # Not there yet, or damaged: the repository is asked at the first sealed document.
        return None
    # A device that enrolled anew must not go on believing the director of the installation that it left.
    return director if director.installation_id == installation_id else None
