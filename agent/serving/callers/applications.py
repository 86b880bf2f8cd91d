"""The applications that may call: found by key, held to their models and quotas, and counted.

What a check takes is about a microsecond, and tells nothing of the keys. The key that a caller sends is hashed, and the
hash looked up in a table whose own hashing is seeded anew in every process; a hit is then compared in constant time.
Whatever time a miss takes says something of the hash of a key that the caller made up, and nothing of the others.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Final

from agent.serving.errors import KeyRefusedError, NotAllowedError, QuotaSpentError
from shared.applications import may_ask
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from shared.applications import ApplicationGrant
    from shared.ids import ModelName

_WINDOW_S: Final = 60.0
"""A quota is so many items a minute. All of them may come at once; then they are given back one by one."""

_INEXACT_S: Final = 1e-9
"""Sums of seconds since boot are exact to some 1e-10."""

_GONE_KEPT: Final = 64
"""Tallies remembered of applications that left, until somebody has read them."""


class ApplicationTally:
    """What one application did in this life of the process. Integers only: this is on every request's way."""

    __slots__ = ("over_quota", "requests", "requests_by_model", "scope_refusals", "spent_until_s")

    def __init__(self) -> None:
        self.requests = 0
        """Let in."""
        self.scope_refusals = 0
        """Refused, since the model is none of its."""
        self.over_quota = 0
        """Refused, since the quota was spent."""
        self.requests_by_model: dict[ModelName, int] = {}
        """Let in, by the model that they named. Only models that are served, so that it cannot grow."""
        self.spent_until_s = 0.0
        """The quota as one number: when (monotonic) all that was spent of it will have been given back."""


class Applications:
    """Every grant of the plan in force. Belongs to the event loop."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Know nobody yet."""
        self._processes, self._clock_s = 1, clock_s
        self._by_hash: Mapping[str, ApplicationGrant] = {}
        self._by_name: Mapping[str, ApplicationGrant] = {}
        self._tallies: dict[str, ApplicationTally] = {}
        self.unknown_keys = 0
        """Requests with a key that nobody has."""
        self.missing_keys = 0
        """Requests without a key where one is needed."""

    @property
    def tallies(self) -> Mapping[str, ApplicationTally]:
        """What each application did, by its name; also of those that have just left."""
        return self._tallies

    def divide(self, processes: int) -> None:
        """Give out this process's share of every quota: the kernel spreads connections evenly over the processes."""
        self._processes = processes

    def replace(self, grants: Iterable[ApplicationGrant]) -> None:
        """Take what the newest plan grants; what an application has spent and done stays its own.

        An application may have several keys (while one takes another's place): they share one quota and one tally.
        """
        by_hash: dict[str, ApplicationGrant] = {grant.key_sha256: grant for grant in grants}
        self._by_name = {grant.application: grant for grant in by_hash.values()}
        self._by_hash = by_hash
        for name in self._by_name:
            self._tallies.setdefault(name, ApplicationTally())
        gone = [name for name in self._tallies if name not in self._by_name]
        for name in gone[:-_GONE_KEPT]:
            del self._tallies[name]

    def of_key(self, key: str) -> ApplicationGrant:
        """Return whose key it is. Raises KeyRefusedError."""
        # Headers that are no UTF-8 arrive with surrogates in them.
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        grant = self._by_hash.get(digest)
        if grant is None or not hmac.compare_digest(grant.key_sha256, digest):
            self.unknown_keys += 1
            raise KeyRefusedError("no application on this device has this key", is_missing=False)
        return grant

    def of_name(self, application: str) -> ApplicationGrant:
        """Return an application that has proved to somebody else who it is. Raises NotAllowedError."""
        grant = self._by_name.get(application)
        if grant is None:
            self.unknown_keys += 1
            raise NotAllowedError(f"application {application!r} has no grant on this device")
        return grant

    def known_to(self, application: str, models: Iterable[ModelName]) -> list[ModelName]:
        """Return those of the models that an application may ask, and so may know of; all without an application.

        Raises NotAllowedError.
        """
        if not application:
            return list(models)
        grant = self.of_name(application)
        return [model for model in models if may_ask(grant, model)]

    def missing_key(self) -> KeyRefusedError:
        """Count a request without a key where one is needed, and return why it is refused."""
        self.missing_keys += 1
        return KeyRefusedError("send an application's key: Authorization: Bearer KEY", is_missing=True)

    def admit(self, grant: ApplicationGrant, model: ModelName | None, *, served: Collection[ModelName]) -> None:
        """Let one request in. `model` is None for a request that names none; `served` is all that are served.

        Raises:
            NotAllowedError: the model is not the application's.
            QuotaSpentError: it has asked too often.
        """
        tally = self._tallies[grant.application]
        if model is not None and not may_ask(grant, model):
            tally.scope_refusals += 1
            raise NotAllowedError(f"application {grant.application!r} may not ask model {model!r}")
        if grant.requests_per_minute is not None:
            # Of several items the others are charged when the body has told how many they are.
            self._spend(grant.application, tally, grant.requests_per_minute)
        tally.requests += 1
        if model is not None and model in served:
            tally.requests_by_model[model] = tally.requests_by_model.get(model, 0) + 1

    def charge(self, application: str, items: int) -> None:
        """Take the items of a request that was let in off the quota, but for the one that `admit` took.

        Raises:
            InvalidInputError: they are more than the quota ever holds.
            QuotaSpentError: they do not fit now. The one at the door stays spent: the body has been read for it.
        """
        grant, tally = self._by_name.get(application), self._tallies.get(application)
        if grant is None or tally is None or grant.requests_per_minute is None:
            return
        per_minute, processes = grant.requests_per_minute, self._processes
        most = max(1, per_minute // processes)
        if items > most:
            tally.over_quota += 1
            share = f" (this process's share of {per_minute})" if processes > 1 else ""
            raise InvalidInputError(
                field="batch",
                problem=f"{items} items are more than the {most} a minute{share} of application {application!r}",
                remedy=f"send at most {most} in one request",
            )
        self._spend(application, tally, per_minute, items - 1, again=items)

    def _spend(
        self, application: str, tally: ApplicationTally, per_minute: int, items: int = 1, again: int = 1
    ) -> None:
        """Take items off the quota; `again` is how many another try will take in all.

        A token bucket, kept as the moment at which it will be full again (the generic cell rate algorithm, ITU-T
        I.371): no timer fills it.
        """
        if per_minute <= 0:
            tally.over_quota += 1
            raise QuotaSpentError(application, retry_after_s=_WINDOW_S)
        now_s = self._clock_s()
        each_s = _WINDOW_S * self._processes / per_minute
        spent_until_s = max(tally.spent_until_s, now_s) + items * each_s
        # A share of less than one item a minute still lets one in when nothing was asked for long enough.
        over_s = spent_until_s - now_s - max(_WINDOW_S, each_s)
        if over_s > _INEXACT_S:
            tally.over_quota += 1
            raise QuotaSpentError(application, retry_after_s=over_s + (again - items) * each_s)
        tally.spent_until_s = spent_until_s
