"""TensorFlow Serving's rule: a label never moves to a release that is not loaded. Here no plan can make it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from shared.errors import NotFoundError
from shared.ids import BootId
from tests.support import models
from tests.support.serving import CANDIDATE, MODEL, STABLE, make_slot, plan_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.core.plan import SlotSpec
    from agent.serving.models.loading import LoadedModel

GOOD = models.one_hot_classifier()


class Loader:
    """Loads releases, and looks at something first."""

    def __init__(self) -> None:
        self.look: Callable[[], None] = lambda: None

    def __call__(self, slot: SlotSpec) -> LoadedModel:
        self.look()
        return load_slot(slot, cores=1, open_interpreter=open_litert)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
async def engine(loader: Loader) -> AsyncIterator[Engine]:
    made = Engine(boot_id=BootId("boot"), load=loader)
    yield made
    await made.close()


@pytest.fixture
def stable(tmp_path: Path) -> SlotSpec:
    return make_slot(tmp_path, GOOD)


@pytest.fixture
def damaged(tmp_path: Path) -> SlotSpec:
    slot = make_slot(tmp_path, GOOD, release=CANDIDATE, version=2)
    (Path(slot.folder) / "model.tflite").write_bytes(b"not what was signed")
    return slot


async def test_label_of_a_candidate_that_does_not_load_names_nobody(
    engine: Engine, stable: SlotSpec, damaged: SlotSpec
) -> None:
    await engine.apply(plan_of(stable))
    await engine.apply(plan_of(damaged, stable, serial=2, candidate=CANDIDATE))
    route = engine.routes[MODEL]
    assert route.labelled("stable").slot.release_id == STABLE
    assert route.pick(None).slot.release_id == STABLE
    for label in ("canary", "2"):
        with pytest.raises(NotFoundError):
            route.labelled(label)


async def test_stable_label_stays_where_it_was_until_the_new_release_is_loaded(
    engine: Engine, loader: Loader, stable: SlotSpec, tmp_path: Path
) -> None:
    await engine.apply(plan_of(stable))
    seen: list[str] = []
    loader.look = lambda: seen.append(engine.routes[MODEL].labelled("stable").slot.release_id)
    await engine.apply(plan_of(make_slot(tmp_path, GOOD, release=CANDIDATE, version=2), serial=2))
    assert seen == [STABLE]
    assert engine.routes[MODEL].labelled("stable").slot.release_id == CANDIDATE
