"""What serving needs of chance and of rewards: one source of randomness, the ledger, and ids of replies to reward."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import structlog

from agent.serving.traffic.bandit import Bandit
from agent.serving.traffic.rewards import RewardLedger, arm_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from agent.core.plan import Plan
    from agent.serving.exchange import Ask, LiveLine, LiveRoute
    from agent.serving.models.resident import Resident
    from agent.serving.traffic.rewards import ArmKey
    from shared.ids import ModelName, ReleaseId
    from shared.traffic import TrafficRule

_NONCE_BITS = 64

_log = structlog.get_logger(__name__)


class Learning:
    """All methods belong to the event loop."""

    def __init__(self, *, rng: random.Random, ledger: RewardLedger) -> None:
        """`rng` is seeded by whoever composes the process: differently in each, or all would draw alike."""
        self._rng, self.ledger = rng, ledger
        self.draw = rng.random
        self._keys: dict[tuple[ModelName, ReleaseId], ArmKey] = {}

    @classmethod
    def of_this_process(cls) -> Learning:
        """Return one whose memory ends with the process."""
        return cls(rng=random.Random(), ledger=RewardLedger(None, now_s=time.monotonic))  # noqa: S311 - hides nothing

    @classmethod
    def of_device(cls, path: Path) -> Learning:
        """Return one that shares its memory with every serving process of the device, and with those after it."""
        try:
            ledger = RewardLedger.open(path, now_s=time.monotonic)
        except OSError as exc:
            # Answers do not hang on it: what is learned is forgotten at the next start, that is all.
            _log.error("rewards_not_kept", path=str(path), error=str(exc))
            return cls.of_this_process()
        return cls(rng=random.Random(), ledger=ledger)  # noqa: S311 - hides nothing

    def keep(self, plan: Plan) -> None:
        """Remember what the releases of a plan have earned, and forget those that left."""
        keys = {(slot.model, slot.release_id): arm_key(slot.model, slot.release_id) for slot in plan.slots}
        if keys == self._keys:
            return
        self._keys = keys
        self.ledger.keep(frozenset(keys.values()))

    def learn(self, rule: TrafficRule, arms: Mapping[str, ReleaseId], alive: Collection[str]) -> Bandit:
        """Return what divides a model's requests by rewards."""
        return Bandit(rule, arms, alive=alive, ledger=self.ledger, rng=self._rng)

    def reply_id(self, ask: Ask, route: LiveRoute, line: LiveLine, who: Resident) -> str:
        """Return what to name when an answer is rewarded; empty where nothing would be learned from it.

        Who asks for a version by name has chosen for himself: what he says of it is no sample of what callers say.
        """
        if ask.version is not None or not isinstance(route.chooser, Bandit):
            return ""
        key = self._keys.get((line.line, who.slot.release_id))
        return "" if key is None else self.ledger.issue(key, self._rng.getrandbits(_NONCE_BITS))
