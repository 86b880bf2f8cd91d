"""Bringing the journal's state and the disk together when the control process starts.

    found                                   done
    download was under way                  resumed
    trial was under way                     counted as an interrupted attempt, repeated, given up after `boot_tries`
    candidate's files damaged               fetched again, tried again
    stable's files damaged                  never loaded; previous or nothing answers until it was fetched again
    previous's files damaged                forgotten: there is nothing to go back to
    journal lost, boot.json there           its stable slots go on answering until a Desired says more
    identity changed (enrolled anew)        documents and floors forgotten, slots kept until a Desired says more

A candidate in shadow or probation is not interrupted by this: serving lives on without control, and a new life of
serving shows in its boot id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.core.lifecycle import move
from agent.core.state import AgentState, ModelState, Phase, Slot, line
from agent.core.transitions import Signal
from shared.hardware import GENERIC
from shared.ids import RolloutId
from shared.manifest import manifest_path
from shared.traffic import MAIN, split_line
from shared.wire import DesiredComponent, DesiredModel, ProbationPolicy, TargetRef

if TYPE_CHECKING:
    from agent.core.commands import Draft
    from agent.core.events import Started
    from agent.core.plan import SlotSpec
    from shared.manifest import ReleaseManifest


def reconcile(draft: Draft, event: Started) -> None:
    """Take in what a start found."""
    state = draft.state
    if state.settings.identity != event.settings.identity:
        state = _forget_documents(state)
        draft.say("enrolled anew: documents forgotten")
    if event.journal_problem:
        draft.say(event.journal_problem)
    # A rebuilt journal knows no serial; serving may hold a plan that boot.json counts higher.
    serial = max(state.plan.serial, event.boot_serial)
    draft.state = replace(
        state,
        settings=event.settings,
        note=event.journal_problem,
        on_disk=event.on_disk,
        plan=replace(state.plan, serial=serial, traffic=event.recovered_traffic or state.plan.traffic),
        applied_serial=0,
        plan_sent_at=None,
        # Nobody knows how long control was away by a clock that may have been reset: only a Pulse heard now
        # authorises.
        pulse_received_at=None,
        # At once: whatever the broker kept meanwhile, the controller has it newer.
        refresh_at=None,
        stats_at=None,
        # The journal goes before boot.json, which is only written after it and may tell of the step before.
        models=state.models or _recovered(event.recovered),
    )
    draft.resend_plan = True
    # One of this very plan is left alone: serving may have taken tries off it while control was away.
    draft.rewrite_boot = event.boot_serial != state.plan.serial
    draft.resend_report = True
    # `move` may record outcomes in the state meanwhile, so models are put back when all are done.
    models = tuple(_resume(draft, model, event) for model in draft.state.models)
    draft.state = replace(draft.state, models=models)


def _forget_documents(state: AgentState) -> AgentState:
    """Keep what answers, and nothing that another identity wanted."""
    slots = tuple(ModelState(model=model.model, stable=model.stable, previous=model.previous) for model in state.models)
    return AgentState(
        settings=state.settings,
        models=tuple(model for model in slots if model.stable is not None),
        # What failed on this hardware fails on it under any identity.
        blacklist=state.blacklist,
        trusted_until=state.trusted_until,
        verified_at=state.verified_at,
        plan=state.plan,
        serving_boot_id=state.serving_boot_id,
        report_revision=state.report_revision,
    )


def slot_from_boot(spec: SlotSpec, manifest: ReleaseManifest, *, manifest_length_bytes: int) -> Slot | None:
    """Return the committed slot that boot.json and a verified manifest tell of, when the journal is lost.

    The assignment that brought it is not known any more, so that no halt of it can be told: a Desired that names the
    same release gives it one again.
    """
    for artifact in manifest.artifacts:
        if artifact.sha256 == spec.artifact_sha256:
            name, variant = split_line(spec.model)
            release = DesiredModel(
                model=name,
                variant=msgspec.UNSET if variant == MAIN else variant,
                release_id=spec.release_id,
                rollout_id=RolloutId(""),
                attempt=0,
                manifest=TargetRef(
                    path=manifest_path(spec.release_id),
                    length_bytes=manifest_length_bytes,
                    sha256=spec.manifest_sha256,
                ),
                artifact=TargetRef(path=artifact.path, length_bytes=artifact.length_bytes, sha256=spec.artifact_sha256),
                profile_id=artifact.profiles[0] if artifact.profiles else GENERIC.profile_id,
                release_counter=manifest.release_counter,
                policy=ProbationPolicy(),
                components=_components(spec, manifest),
            )
            return Slot(release=release, version_number=manifest.version_number)
    return None


def _components(spec: SlotSpec, manifest: ReleaseManifest) -> tuple[DesiredComponent, ...] | msgspec.UnsetType:
    """Return the models of other releases that boot.json holds, as far as the manifest knows them."""
    digests = {each.name: each.artifact_sha256 for each in spec.components}
    known = tuple(
        DesiredComponent(
            name=component.name,
            artifact=TargetRef(path=artifact.path, length_bytes=artifact.length_bytes, sha256=artifact.sha256),
        )
        for component in manifest.components
        for artifact in component.artifacts
        if artifact.sha256 == digests.get(component.name)
    )
    return known or msgspec.UNSET


def _recovered(slots: tuple[Slot, ...]) -> tuple[ModelState, ...]:
    models = (ModelState(model=line(slot.release), stable=slot) for slot in slots)
    return tuple(sorted(models, key=lambda model: model.model))


def _resume(draft: Draft, model: ModelState, event: Started) -> ModelState:
    model = _examine_committed(draft, model, event)
    if model.candidate is None or model.attempt is None:
        return model
    # What came so far is still in the part file; the fetch goes on from there.
    if model.phase is Phase.DOWNLOADING:
        return replace(model, attempt=replace(model.attempt, retry_at=draft.at))
    problem = event.damage.get(model.candidate.release_id, "")
    if problem:
        return move(draft, model, Signal.DAMAGED, problem)
    # The trial may have taken control down with it (memory): unpunished, it would do so at every start.
    if model.phase is Phase.TRIAL:
        return interrupted(draft, model, model.attempt.interruptions + 1)
    return model


def interrupted(draft: Draft, model: ModelState, interruptions: int) -> ModelState:
    """Count lives of trial or serving that ended while they held the candidate, and give up after `boot_tries`."""
    assert model.attempt is not None  # noqa: S101 - called in phases that hold a candidate
    counted = replace(model, attempt=replace(model.attempt, interruptions=interruptions, applied=False))
    if interruptions >= draft.state.settings.boot_tries:
        return move(draft, counted, Signal.CRASH_LOOP, f"crash_loop: {interruptions} interrupted tries")
    return move(draft, counted, Signal.INTERRUPTED)


def _examine_committed(draft: Draft, model: ModelState, event: Started) -> ModelState:
    stable, previous = model.stable, model.previous
    if stable is not None:
        problem = event.damage.get(stable.release_id, "")
        # Also clears an old mark: files that verify now have been mended, whoever did it.
        model = replace(model, stable=replace(stable, damaged=problem), mend_at=draft.at if problem else None)
        if problem:
            draft.say(f"{model.model}: stable damaged ({problem})")
    if previous is not None and event.damage.get(previous.release_id, ""):
        model = replace(model, previous=None)
        draft.say(f"{model.model}: previous damaged and forgotten")
    return model
