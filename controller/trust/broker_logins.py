"""Logins of applications at the broker: mosquitto's password file, with the application's key as password.

A key has 256 bits, so that the file's few rounds of PBKDF2 are no weakness: nobody guesses what they protect.
Source: mosquitto_passwd(1); format `$7$rounds$salt$hash` of mosquitto 2.0.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import TYPE_CHECKING

from controller.trust.files import SECRET_MODE, write_atomically
from shared import topics
from shared.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

_ROUNDS = 101
"""What mosquitto_passwd takes: they are paid for with every connection."""
_SALT_BYTES = 12
_SHORTEST_KEY = 32


def password_file(folder: Path) -> Path:
    """Return where the logins are, in the broker's folder."""
    return folder / "applications"


def admit(folder: Path, login: str, key: str) -> None:
    """Let a login in by this key, and by no other from now on; the broker reads it at its next SIGHUP.

    Raises:
        InvalidInputError: the login is none, the key could be guessed, or the broker has no port for applications.
    """
    if not topics.is_login(login):
        remedy = "name the application and one of its programs, as in shop.till"
        raise InvalidInputError(field="login", problem=f"{login!r} is no login", remedy=remedy)
    if len(key) < _SHORTEST_KEY:
        problem = f"a key has at least {_SHORTEST_KEY} characters"
        raise InvalidInputError(field="key", problem=problem, remedy="have litefleet-agent application add make one")
    known = _read(folder)
    known[login] = _hashed(key)
    _write(folder, known)


def expel(folder: Path, login: str) -> None:
    """Let a login in no more; one that is connected stays until it connects again. Raises NotFoundError."""
    known = _read(folder)
    if known.pop(login, None) is None:
        raise NotFoundError(kind="login", name=login)
    _write(folder, known)


def logins(folder: Path) -> tuple[str, ...]:
    """Return who is let in."""
    return tuple(_read(folder))


def _read(folder: Path) -> dict[str, str]:
    path = password_file(folder)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as exc:
        remedy = "set broker_application_port, and run litefleet broker config"
        raise InvalidInputError(field=str(path), problem="the broker lets no applications in", remedy=remedy) from exc
    return {name: hashed for name, _, hashed in (line.partition(":") for line in lines) if hashed}


def _write(folder: Path, known: dict[str, str]) -> None:
    text = "".join(f"{login}:{hashed}\n" for login, hashed in sorted(known.items()))
    write_atomically(password_file(folder), text.encode(), mode=SECRET_MODE)


def _hashed(key: str) -> str:
    salt = secrets.token_bytes(_SALT_BYTES)
    hashed = hashlib.pbkdf2_hmac("sha512", key.encode(), salt, _ROUNDS)
    return f"$7${_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(hashed).decode()}"
