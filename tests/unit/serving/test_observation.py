from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from agent.serving.recording.drift import LOOKS
from agent.serving.recording.observation import QUEUE_LENGTH
from agent.serving.requests import ClassifyRequest
from shared.runtime import drift
from tests.support import models
from tests.support.inference_api import IMAGE_PIPELINE, picture
from tests.support.serving import STABLE, one_hot, plan_of
from tests.support.waiting import wait_until
from tests.support.watching import ask, watched_slot, watching_engine

if TYPE_CHECKING:
    from pathlib import Path

    from agent.serving.engine import Engine
    from agent.serving.recording.observation import Watch

FIGURES = [{**drift.input_figures(np.array(one_hot(k % 10))), "class": float(k % 10)} for k in range(400)]
REFERENCES = drift.references(FIGURES)


def watch_of(engine: Engine) -> Watch:
    """Wait until the release is watched."""
    observer = engine.observer
    assert observer is not None
    return wait_until(lambda: observer.watches.get(STABLE), what="release is watched")


async def looked_at(engine: Engine, count: int, *, digit: int | None = None) -> Watch:
    """Ask until so many requests were looked at."""
    watch = watch_of(engine)
    asked = watch.monitor.items
    while watch.monitor.items < asked + count:
        # Fewer at once than may wait.
        room = min(QUEUE_LENGTH // 2, asked + count - watch.monitor.items)
        ready = watch.monitor.items + room
        for number in range(room):
            watch.next_s = 0.0
            await ask(engine, one_hot(number % 10 if digit is None else digit))
        wait_until(partial(_has_seen, watch, ready), what="requests were looked at")
    return watch


def _has_seen(watch: Watch, items: int) -> bool:
    return watch.monitor.items >= items


async def test_shift_in_what_callers_send_is_found_and_told_everywhere(tmp_path: Path) -> None:
    engine = watching_engine()
    await engine.apply(plan_of(watched_slot(tmp_path, references=REFERENCES)))
    watch = await looked_at(engine, LOOKS[0], digit=7)
    found = {each.figure for each in watch.monitor.found if each.drifted}
    assert {"class", "input.feature_7"} <= found
    observer = engine.observer
    assert observer is not None
    told = {(sample.name, *sample.labels[3:]): sample.value for sample in observer.samples(engine.recorder)}
    assert (told["drift_items",], told["drift_found", "class"]) == (LOOKS[0], 1)
    (series,) = engine.stats().series
    assert (series.counts["drift_looks/class"], series.counts["drift_alarms/class"]) == (1, 1)
    await engine.close()
    observer.close()


async def test_same_requests_as_in_the_judgement_are_no_shift(tmp_path: Path) -> None:
    engine = watching_engine()
    await engine.apply(plan_of(watched_slot(tmp_path, references=REFERENCES)))
    watch = await looked_at(engine, LOOKS[0])
    assert len(watch.monitor.found) == len(REFERENCES)
    assert not any(each.drifted for each in watch.monitor.found)
    await engine.close()


async def test_busy_release_is_looked_at_a_few_times_a_second(tmp_path: Path) -> None:
    engine = watching_engine()
    await engine.apply(plan_of(watched_slot(tmp_path, references=REFERENCES)))
    watch = watch_of(engine)
    for number in range(500):
        await ask(engine, one_hot(number % 10))
    wait_until(lambda: watch.monitor.items, what="one was looked at")
    assert watch.monitor.items < 50
    await engine.close()


async def test_image_is_looked_at_as_the_model_is_fed_it(tmp_path: Path) -> None:
    slot = watched_slot(
        tmp_path,
        model=models.one_hot_classifier(input_shape=(1, 10, 1)),
        pipeline=IMAGE_PIPELINE,
        references=REFERENCES,
    )
    engine = watching_engine()
    await engine.apply(plan_of(slot))
    watch = watch_of(engine)
    assert watch.says.feeding is not None
    figures = watch.says.feeding.figures(ClassifyRequest(encoded=picture(3)))
    assert figures == pytest.approx({f"input.feature_{index}": float(index == 3) for index in range(10)})
    assert watch.says.feeding.figures(ClassifyRequest(encoded=b"no image")) == {}
    await engine.close()


async def test_release_without_references_or_consent_is_not_watched(tmp_path: Path) -> None:
    engine = watching_engine()
    await engine.apply(plan_of(watched_slot(tmp_path)))
    await ask(engine, one_hot(3))
    assert engine.observer is not None
    engine.observer.close()
    assert engine.observer.watches == {}
    await engine.close()


async def test_manifest_that_rotted_costs_the_watching_alone(tmp_path: Path) -> None:
    slot = watched_slot(tmp_path, references=REFERENCES)
    engine = watching_engine()
    observer = engine.observer
    assert observer is not None
    observer.follow(plan_of(msgspec.structs.replace(slot, manifest_sha256="0" * 64)))
    observer.follow(plan_of(slot))
    assert watch_of(engine).says.slot == slot
    observer.close()


async def test_counts_go_on_when_a_plan_names_the_release_again(tmp_path: Path) -> None:
    slot = watched_slot(tmp_path, references=REFERENCES)
    engine = watching_engine()
    await engine.apply(plan_of(slot))
    watch = await looked_at(engine, 3)
    await engine.apply(plan_of(slot, serial=2))
    await looked_at(engine, 4)
    assert watch_of(engine) is watch
    await engine.close()
