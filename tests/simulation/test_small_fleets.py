"""A handful of devices, and any order of faults that Hypothesis can think of."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.rollouts.core.types import LIVE, RolloutStatus
from shared.wire import HaltMode
from tests.support.simulation.faults import Fault, calm, strike
from tests.support.simulation.fleet import BAD, BETTER, GOOD, simulated_fleet


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happens to whom, and when."""

    seed: int
    devices: int
    loss: float
    bad: bool
    blows: list[tuple[Fault, int, float]]
    """Fault, device, and seconds after the one before."""
    abort: HaltMode | None


_STORIES = st.builds(
    Story,
    seed=st.integers(0, 2**32),
    devices=st.integers(1, 8),
    loss=st.sampled_from([0.0, 0.3, 0.6]),
    bad=st.booleans(),
    blows=st.lists(st.tuples(st.sampled_from(Fault), st.integers(0, 7), st.floats(0.0, 60.0)), max_size=12),
    abort=st.none() | st.sampled_from(HaltMode),
)


@settings(max_examples=10)
@given(story=_STORIES)
def test_small_fleet_under_any_faults_comes_to_rest_as_desired_or_named(story: Story) -> None:
    asyncio.run(_told(story))


async def _told(story: Story) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with simulated_fleet(Path(folder), seed=story.seed, devices=story.devices, loss=story.loss) as fleet:
            first = await fleet.start(GOOD, waves=("100%",))
            await fleet.until_ended(first)
            rollout = await fleet.start(BAD if story.bad else BETTER)
            for fault, target, wait_s in story.blows:
                await fleet.pass_time(wait_s)
                strike(fleet, fault, fleet.devices[target % story.devices])
            if story.abort is not None and (await fleet.state(rollout)).status in LIVE:
                await fleet.controller.rollouts.abort(rollout, story.abort, actor="olivia")
            state = await fleet.until_ended(rollout)
            await calm(fleet)
            await fleet.check_ends(rollout)
            running = {device.running for device in fleet.devices}
            assert not (story.bad and state.status is RolloutStatus.COMPLETED)
            assert BAD not in running
