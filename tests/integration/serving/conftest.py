"""What the protocols' tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import models
from tests.support.inference_api import serving
from tests.support.serving import make_slot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from tests.support.inference_api import Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """The API, and a client."""
    async with serving() as api:
        yield api


@pytest.fixture
def stable(tmp_path: Path) -> SlotSpec:
    """A release of version 4 that names the largest of ten numbers."""
    return make_slot(tmp_path, models.one_hot_classifier(), version=4)
