"""`applications.json`: the applications that an operator has let in on this device, beside those of the fleet.

Control reads it, and adds it to every plan. It holds hashes; the keys themselves are known to the applications alone.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.core.plan import BootFile
from agent.delivery.durable import write_whole
from shared.applications import EVERY_MODEL, ApplicationGrant, key_hash
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError, NotFoundError
from shared.ids import is_slug

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.core.plan import Plan

MAX_APPLICATIONS = 1000
"""A thousandth of a second for every plan, and a tenth of what fits into a frame to serving."""

_KEY_PREFIX = "lfa_"
"""By which people, and programs that look for secrets in places where they must not be, know a key."""
_KEY_BYTES = 32
_SHORTEST_KEY = 32

_log = structlog.get_logger(__name__)


class GrantFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    schema_version: int = 1
    applications: tuple[ApplicationGrant, ...] = ()


def read_grants(path: Path) -> tuple[ApplicationGrant, ...]:
    """Return what the file grants; nothing where there is none. Raises InvalidInputError for one that is damaged."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=GrantFile).applications
    except FileNotFoundError:
        return ()
    except (OSError, *MALFORMED) as exc:
        remedy = "mend it, or remove it and add the applications again"
        raise InvalidInputError(field=str(path), problem=f"cannot be read: {exc}", remedy=remedy) from exc
    if len(found) > MAX_APPLICATIONS:
        raise InvalidInputError(field=str(path), problem=f"grants more than {MAX_APPLICATIONS} applications")
    for grant in found:
        _check(grant)
    return found


def new_key() -> str:
    """Return a key that nobody can guess: 256 bits."""
    return _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def add_grant(
    path: Path, application: str, *, key: str, models: Sequence[str], requests_per_minute: int | None = None
) -> ApplicationGrant:
    """Let an application in by this key, or by this key too where it has one already.

    The models and the quota that are named hold for all its keys from now on.

    Raises:
        InvalidInputError: name, models, quota or key are none.
    """
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        problem = f"a key has at least {_SHORTEST_KEY} characters, and no blanks"
        raise InvalidInputError(field="key", problem=problem, remedy="leave it out to have one made")
    grant = ApplicationGrant(
        application=application,
        key_sha256=key_hash(key),
        models=tuple(dict.fromkeys(models)),
        requests_per_minute=requests_per_minute,
    )
    _check(grant)
    kept = [each for each in read_grants(path) if each.key_sha256 != grant.key_sha256]
    same = {"models": grant.models, "requests_per_minute": requests_per_minute}
    kept = [msgspec.structs.replace(each, **same) if each.application == application else each for each in kept]
    _write(path, (*kept, grant))
    return grant


def remove_grants(path: Path, application: str) -> None:
    """Let an application in no more. Raises NotFoundError."""
    found = read_grants(path)
    kept = tuple(grant for grant in found if grant.application != application)
    if len(kept) == len(found):
        raise NotFoundError(kind="application", name=application)
    _write(path, kept)


class Grants:
    """What the file grants at this moment, and plans with that added."""

    def __init__(self, path: Path) -> None:
        """Take where the file is; nothing is read before `refresh`."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._granted: tuple[ApplicationGrant, ...] = ()

    def refresh(self) -> bool:
        """Read the file again if it has changed; returns whether it grants something else now.

        One that is damaged changes nothing: half a file must not lock everybody out.
        """
        mark = self._mark()
        if mark == self._seen:
            return False
        self._seen = mark
        try:
            granted = read_grants(self._path)
        except InvalidInputError as exc:
            _log.error("applications_not_read", error=str(exc))
            return False
        before, self._granted = self._granted, granted
        _log.info("applications_read", count=len(granted))
        return granted != before

    def into(self, plan: Plan) -> Plan:
        """Return the plan with what is granted here. Of the same key, what the fleet grants holds."""
        fleets = {grant.key_sha256 for grant in plan.applications}
        local = tuple(grant for grant in self._granted if grant.key_sha256 not in fleets)
        return msgspec.structs.replace(plan, applications=(*plan.applications, *local)) if local else plan

    def into_boot(self, boot: BootFile) -> BootFile:
        """Return the boot file's plans with what is granted here."""
        return msgspec.structs.replace(boot, plan=self.into(boot.plan), fallback=self.into(boot.fallback))

    def renew_boot(self, path: Path, plan: Plan) -> None:
        """Bring the boot file on disk up to date, `plan` being what the fleet wants. Raises StorageFullError.

        The tries that are left stay as serving has left them. Were one taken in the same moment, it would be given
        back: once, since nobody changes applications in a circle.
        """
        try:
            boot = msgspec.json.decode(path.read_bytes(), type=BootFile)
        except (OSError, *MALFORMED):
            return
        fleets = {"applications": plan.applications}
        replaced = msgspec.structs.replace
        fresh = replaced(boot, plan=replaced(boot.plan, **fleets), fallback=replaced(boot.fallback, **fleets))
        write_whole(path, msgspec.json.encode(self.into_boot(fresh)))

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_ino, found.st_size, found.st_mtime_ns


def _check(grant: ApplicationGrant) -> None:
    if not is_slug(grant.application):
        raise InvalidInputError(field="application", problem=f"{grant.application!r} is no name: a-z, 0-9 and -")
    for model in grant.models:
        if model != EVERY_MODEL and not is_slug(model):
            raise InvalidInputError(field="models", problem=f"{model!r} is no model: a-z, 0-9 and -, or * for all")
    if not grant.models:
        raise InvalidInputError(field="models", problem="none is named", remedy="name some, or * for all")
    if grant.requests_per_minute is not None and grant.requests_per_minute < 1:
        raise InvalidInputError(field="requests_per_minute", problem="is less than 1", remedy="remove the application")


def _write(path: Path, grants: Sequence[ApplicationGrant]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, msgspec.json.format(msgspec.json.encode(GrantFile(applications=tuple(grants)))))
