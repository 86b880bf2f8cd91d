"""What a device should run, composed from one wish per model, its variants and rules; and whether that is too much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shared.traffic import MAIN
from shared.wire import DesiredBody, DesiredModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from controller.facts import ModelTraffic, SetRelease
    from shared.ids import ModelName
    from shared.wire import WantedMeasurement

Wishes = dict["ModelName", "Wish"]
"""By model: all that rollouts wish of one device."""
Traffic = dict["ModelName", "ModelTraffic"]
"""By model: all that operators have set of one device."""

MAX_BODY_BYTES = 47 * 1024
"""Sealed, in base64 and with all that surrounds it, such a body stays below the 64 KiB that devices take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One model's release, as one device should run it."""

    entry: DesiredModel
    override_blacklist: bool = False


def apply(wishes: Mapping[ModelName, Wish], intents: Iterable[SetRelease]) -> Wishes:
    """Return the wishes after intents, in their order; models that nobody names stay as they are.

    Raises:
        ValueError: an intent names a release, but not which file of it.
    """
    after = dict(wishes)
    for intent in intents:
        if intent.release_id is None:
            after.pop(intent.model, None)
        else:
            after[intent.model] = _wish(intent)
    return after


def compose(
    wishes: Mapping[ModelName, Wish],
    measurements: Sequence[WantedMeasurement] = (),
    traffic: Mapping[ModelName, ModelTraffic] | None = None,
) -> DesiredBody:
    """Return the body, each part of it in a fixed order: equal wishes have equal digests.

    What there is none of is not there at all: agents that do not know a field must come to the same digest.
    """
    # The digest decides whether the generation moves, so that the order may not depend on who wished first.
    set_ = [] if traffic is None else [traffic[model] for model in sorted(traffic)]
    beside = [Wish(entry=v.entry, override_blacklist=v.override_blacklist) for t in set_ for v in t.variants.values()]
    ordered = sorted([*wishes.values(), *beside], key=lambda wish: _line(wish.entry))
    overrides = {wish.entry.artifact.sha256 for wish in ordered if wish.override_blacklist}
    return DesiredBody(
        models=tuple(wish.entry for wish in ordered),
        blacklist_overrides=tuple(sorted(overrides)),
        measurements=tuple(sorted(measurements, key=lambda one: one.measurement_id)) or msgspec.UNSET,
        traffic=tuple(one.rule for one in set_ if one.rule is not None) or msgspec.UNSET,
        request_logs=tuple(one.log for one in set_ if one.log is not None) or msgspec.UNSET,
    )


def too_large(body: DesiredBody) -> str:
    """Say why a body cannot be sent; empty when it can.

    Known before anything is sealed: one device with too many models must not hold up the page that it came with.
    """
    size_bytes = len(msgspec.json.encode(body))
    if size_bytes <= MAX_BODY_BYTES:
        return ""
    return f"{len(body.models)} models make {size_bytes} bytes, more than {MAX_BODY_BYTES}"


def _line(entry: DesiredModel) -> tuple[ModelName, str]:
    return entry.model, MAIN if isinstance(entry.variant, msgspec.UnsetType) else entry.variant


def _wish(intent: SetRelease) -> Wish:
    if intent.release_id is None or intent.choice is None:
        raise ValueError(f"{intent.device_id} should run {intent.model} {intent.release_id}, but no artifact is named")
    choice = intent.choice
    entry = DesiredModel(
        model=intent.model,
        release_id=intent.release_id,
        rollout_id=intent.rollout_id,
        attempt=intent.attempt,
        manifest=choice.manifest,
        artifact=choice.artifact,
        profile_id=choice.profile_id,
        release_counter=choice.release_counter,
        policy=intent.policy,
        components=choice.components or msgspec.UNSET,
    )
    return Wish(entry=entry, override_blacklist=intent.override_blacklist)
