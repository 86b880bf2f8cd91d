"""The language in which a cohort is chosen: `all`, or terms joined by commas, all of which must hold.

A term is `key=value` or `key!=value`; a device without the label satisfies `!=` and never `=`. The keys `device`,
`site` and `arch` are built in; all others are labels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import InvalidInputError
from shared.ids import slug

if TYPE_CHECKING:
    from collections.abc import Collection

    from controller.facts import DeviceFacts

EVERYBODY = "all"
BUILT_IN = ("device", "site", "arch")
_TERM = re.compile(r"\s*(?P<key>[^=!\s]+)\s*(?P<not>!?)=\s*(?P<value>[^=!\s]+)\s*")
_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_REMEDY = "write `all`, or terms like site=north, arch!=x86_64, joined by commas"
_MAX_TERMS = 16  # more is a mistake, and each is a subquery


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One condition on one key."""

    key: str
    value: str
    negated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortQuery:
    """All terms must hold; without terms it is everybody."""

    terms: tuple[Term, ...] = ()


def label_value(text: str, *, field: str) -> str:
    """Return `text` if it may be a label's value. Raises InvalidInputError."""
    if not _VALUE.fullmatch(text):
        raise InvalidInputError(
            field=field, problem=f"{text[:80]!r} is no label value", remedy="1 to 63 of a-z A-Z 0-9 . _ -"
        )
    return text


def label_key(text: str) -> str:
    """Return `text` if it may be a label's key. Raises InvalidInputError or InvalidIdError."""
    if text in {*BUILT_IN, EVERYBODY}:
        raise InvalidInputError(field=f"labels.{text}", problem="this key is built in", remedy="choose another key")
    return slug(text, field="label key")


def parse(text: str) -> CohortQuery:
    """Parse a query.

    Raises:
        InvalidInputError: says which term cannot be read, and how terms are written.
    """
    if text.strip() == EVERYBODY:
        return CohortQuery()
    parts = text.split(",")
    if len(parts) > _MAX_TERMS:
        raise InvalidInputError(field="cohort", problem=f"{len(parts)} terms, more than {_MAX_TERMS}")
    return CohortQuery(terms=tuple(_term(part) for part in parts))


def check_keys(query: CohortQuery, known: Collection[str]) -> None:
    """Refuse keys that no device has: a misspelt label must not quietly choose nobody, or with `!=` everybody.

    Raises:
        InvalidInputError: names the keys that are known.
    """
    for term in query.terms:
        if term.key not in BUILT_IN and term.key not in known:
            raise InvalidInputError(
                field="cohort",
                problem=f"no device has a label {term.key!r}",
                remedy=f"known keys: {', '.join([*BUILT_IN, *sorted(known)])}",
            )


def matches(query: CohortQuery, device: DeviceFacts) -> bool:
    """Whether a device belongs to the cohort; what the store says in SQL, said plainly."""
    return all((_value_of(device, term.key) == term.value) is not term.negated for term in query.terms)


def _value_of(device: DeviceFacts, key: str) -> str | None:
    if key == "device":
        return device.device_id
    if key == "site":
        return device.site
    if key == "arch":
        return device.hardware.architecture if device.hardware else None
    return device.labels.get(key)


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    if found is None:
        raise InvalidInputError(field="cohort", problem=f"cannot read the term {text.strip()[:80]!r}", remedy=_REMEDY)
    value = label_value(found["value"], field=f"cohort: {found['key'][:63]}")
    return Term(key=found["key"], value=value, negated=bool(found["not"]))
