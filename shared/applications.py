"""Who may call inference on a device: an application's key as its hash, what it may ask for, and how often."""

from __future__ import annotations

import hashlib

import msgspec

from shared.ids import ModelName, Sha256

EVERY_MODEL = "*"


class ApplicationGrant(msgspec.Struct, frozen=True, kw_only=True):
    """One application as a device knows it. The key itself is known to the application alone."""

    application: str
    """A slug; it is part of topics and of metrics."""
    key_sha256: Sha256
    models: tuple[str, ...] = ()
    """Models that it may ask, or `*`; none at all when empty."""
    requests_per_minute: int | None = None
    """A request with several items counts as so many. None: no quota."""


def may_ask(grant: ApplicationGrant, model: ModelName) -> bool:
    """Tell whether a grant covers a model."""
    return EVERY_MODEL in grant.models or model in grant.models


def key_hash(key: str) -> Sha256:
    """Return what a device keeps of a key. Keys are random and long, so that a slow hash would gain nothing."""
    return Sha256(hashlib.sha256(key.encode()).hexdigest())
