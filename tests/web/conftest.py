"""A browser, and a device's inference API to open in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import models
from tests.support.chromium import chromium
from tests.support.inference_api import image_slot, serving
from tests.support.serving import make_slot, plan_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.core.plan import SlotSpec
    from tests.support.chromium import Chromium
    from tests.support.inference_api import Served

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Chromium]:
    """A browser of the test's own."""
    async with chromium(tmp_path) as started:
        yield started


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Served]:
    """A device with one model, which takes grey pictures and names their brightest pixel."""
    async with serving() as api:
        await api.engine.apply(plan_of(image_slot(tmp_path / "releases")))
        yield api


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where screenshots are left, for people to look at."""
    folder = ROOT / ".cache" / "tests" / "shots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def stable(tmp_path: Path) -> SlotSpec:
    """A release that takes numbers."""
    return make_slot(tmp_path / "releases", models.one_hot_classifier(), version=4)
