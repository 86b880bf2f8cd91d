"""Who is calling: for now one operator, who holds the token that the controller made at its first start."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING

from controller.errors import UnauthenticatedError
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

OPERATOR = "operator"
_OTHERS = 0o077
_BEARER = "Bearer "


class OperatorToken:
    """The operator's secret, kept as a hash so that no dump of this object shows it."""

    def __init__(self, token: str) -> None:
        self._digest = hashlib.sha256(token.encode()).digest()

    def actor(self, request: web.Request) -> str:
        """Return who is calling.

        Raises:
            UnauthenticatedError: no bearer token, or not the right one.
        """
        header = request.headers.get("Authorization", "")
        if not header.startswith(_BEARER):
            raise UnauthenticatedError("send the operator token as Authorization: Bearer …")
        given = hashlib.sha256(header.removeprefix(_BEARER).strip().encode(errors="surrogateescape")).digest()
        if not hmac.compare_digest(given, self._digest):
            raise UnauthenticatedError("the token is not valid")
        return OPERATOR


def load_or_create(path: Path) -> OperatorToken:
    """Return the token of the installation, made at the first call.

    Raises:
        InvalidInputError: the file is empty, or others may read it.
    """
    if not path.exists():
        _create(path)
    if path.stat().st_mode & _OTHERS:
        raise InvalidInputError(
            field=str(path), problem="others may read the operator token", remedy=f"chmod 600 {path}"
        )
    token = path.read_text(encoding="utf-8").strip()
    if not token:
        raise InvalidInputError(field=str(path), problem="the operator token is empty", remedy="remove the file")
    return OperatorToken(token)


def _create(path: Path) -> None:
    """Write the token beside its place and link it there, so that it is whole or absent and never replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(beside)
    except FileExistsError:
        # Another controller on this folder was quicker; its token is as good.
        return
    finally:
        beside.unlink(missing_ok=True)
