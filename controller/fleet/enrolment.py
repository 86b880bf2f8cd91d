"""Invitations: one-time tokens, kept as digests, each for one device and, from its first use on, for one key."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlmodel import col

from controller.errors import UnauthenticatedError
from controller.fleet.tables import InviteRow
from shared.ids import DeviceId

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from shared.ids import Sha256

_TOKEN_BYTES = 32
_REFUSED = "the token is not known, was used by another key, or has expired: ask for a new invite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """What a device needs to enrol, once; the only time that the token is seen."""

    device_id: DeviceId
    token: str
    expires_at: datetime


async def invite(session: AsyncSession, device: DeviceId, expires_at: datetime) -> Invite:
    """Make an invitation; every earlier one for the device is void."""
    # Two tokens for one device would be two chances for whoever finds one.
    await revoke(session, device)
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    session.add(InviteRow(token_sha256=_digest(token), device_id=device, expires_at=expires_at))
    return Invite(device_id=device, token=token, expires_at=expires_at)


async def redeem(session: AsyncSession, token: str, fingerprint: Sha256, now: datetime) -> DeviceId:
    """Spend a token for a key, in one statement, so that of many keys racing for it exactly one wins.

    The same key may come again until the token expires, because a reply may be lost.

    Raises:
        UnauthenticatedError: the same words whatever is wrong, so that a guesser learns nothing.
    """
    spent = (
        sa.update(InviteRow)
        .where(
            col(InviteRow.token_sha256) == _digest(token),
            col(InviteRow.expires_at) > now,
            sa.or_(col(InviteRow.fingerprint).is_(None), col(InviteRow.fingerprint) == fingerprint),
        )
        .values(fingerprint=fingerprint)
        .returning(col(InviteRow.device_id))
    )
    device = (await session.execute(spent)).scalar_one_or_none()
    if device is None:
        raise UnauthenticatedError(_REFUSED)
    return DeviceId(device)


async def check(session: AsyncSession, token: str, now: datetime) -> None:
    """Refuse a token that nobody was given, without writing: guessers must not take the one writer's time.

    Raises:
        UnauthenticatedError: as `redeem`, which decides.
    """
    row = await session.get(InviteRow, _digest(token))
    if row is None or row.expires_at <= now:
        raise UnauthenticatedError(_REFUSED)


async def revoke(session: AsyncSession, device: DeviceId) -> None:
    """Void every invitation of a device."""
    await session.execute(sa.delete(InviteRow).where(col(InviteRow.device_id) == device))


async def sweep(session: AsyncSession, before: datetime) -> None:
    """Delete invitations that expired before a time."""
    await session.execute(sa.delete(InviteRow).where(col(InviteRow.expires_at) < before))


def _digest(token: str) -> str:
    # A random token of 256 bits needs no slow hash: there is nothing to guess.
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
