"""Applications that a device knows, and how they show their key."""

from __future__ import annotations

from shared.applications import ApplicationGrant, key_hash

KEY = "lfa_" + 43 * "k"


def granted(application: str, *asked: str, key: str = KEY, per_minute: int | None = None) -> ApplicationGrant:
    """What a device knows of an application."""
    return ApplicationGrant(
        application=application, key_sha256=key_hash(key), models=asked, requests_per_minute=per_minute
    )


def bearer(key: str = KEY) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {key}"}
