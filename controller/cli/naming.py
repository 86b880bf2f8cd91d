"""What people type instead of an id: `digits/2` for a release, or the beginning or the end of the id."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from controller.cli.output import short
from shared.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from controller.client import Client
    from controller.views import ReleaseView

_WHOLE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"[a-z0-9-]+/[0-9]+")
_LEAST = 4
"""Fewer digits would be right by accident."""


async def release_id(api: Client, typed: str) -> str:
    """Return the id of the release meant; of several of one version, the newest.

    Raises:
        NotFoundError: none is.
        ConflictError: several are.
    """
    if _WHOLE_ID.fullmatch(typed):
        return typed
    releases = await api.releases()
    named = [release for release in releases if release.name == typed]
    if named:
        return max(named, key=lambda release: release.release_counter).release_id
    if _NAME.fullmatch(typed):
        raise NotFoundError(kind="release", name=typed)
    return the_one(typed, (release.release_id for release in releases), kind="release")


async def conversion_id(api: Client, typed: str) -> str:
    """Return the id of the conversion meant; of several of one version, the newest that succeeded.

    Raises:
        NotFoundError: none is.
        ConflictError: several are.
    """
    conversions = await api.conversions()
    if _NAME.fullmatch(typed):
        named = [c for c in conversions if f"{c.model}/{c.version_number}" == typed and c.state == "succeeded"]
        if not named:
            raise NotFoundError(kind="conversion", name=typed)
        return named[0].conversion_id
    return the_one(typed, (conversion.conversion_id for conversion in conversions), kind="conversion")


async def rollout_id(api: Client, typed: str) -> str:
    """Return the id of the rollout meant. Raises as `release_id` does."""
    if _WHOLE_ID.fullmatch(typed):
        return typed
    return the_one(typed, (rollout.rollout_id for rollout in await api.rollouts()), kind="rollout")


def the_one(typed: str, ids: Iterable[str], *, kind: str) -> str:
    """Return the only id that begins or ends with what was typed.

    Raises:
        NotFoundError: none does, or fewer than 4 characters were typed.
        ConflictError: several do.
    """
    matching = [one for one in ids if one.startswith(typed) or one.endswith(typed)]
    if not matching or len(typed) < _LEAST:
        raise NotFoundError(kind=kind, name=typed)
    if len(matching) > 1:
        shown = ", ".join(short(one) for one in matching[:5])
        raise ConflictError(kind=kind, name=typed, problem=f"names {len(matching)} of them: {shown}; type more of it")
    return matching[0]


async def release_names(api: Client) -> Mapping[str, str]:
    """Return what people call each release, by its id."""
    return names_of(await api.releases())


def names_of(releases: Iterable[ReleaseView]) -> Mapping[str, str]:
    """Return names by id."""
    return {release.release_id: release.name for release in releases}


def called(release: str | None, names: Mapping[str, str]) -> str:
    """Return what to show of a release id: its name, of a removed one the end of the id, `nothing` for none."""
    if release is None:
        return "nothing"
    return names.get(release) or short(release)
