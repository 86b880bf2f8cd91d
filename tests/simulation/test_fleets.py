"""500 devices, a network that loses 30 %, processes that die: every rollout still reaches its right end.

Every step is checked for what it changes, all invariants every 100 steps. `LITEFLEET_SIMULATION_SEEDS` says how many
seeds are tried (20), `LITEFLEET_SIMULATION_DEVICES` how large the fleet is (500).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from controller.rollouts.core.types import LIVE, RolloutStatus
from shared.wire import HaltMode
from tests.support.simulation.faults import calm, disturb
from tests.support.simulation.fleet import BAD, BETTER, BROKEN, GOOD, SLOW, SimulatedFleet, simulated_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controller.rollouts.core.types import RolloutState
    from shared.ids import ReleaseId, RolloutId

_SEEDS = int(os.environ.get("LITEFLEET_SIMULATION_SEEDS", "20"))
_DEVICES = int(os.environ.get("LITEFLEET_SIMULATION_DEVICES", "500"))
_BAD = {BAD, BROKEN, SLOW}
_STORY = (BETTER, BAD, BETTER, BROKEN, BETTER, SLOW)
_PERSON_LOOKS = 5
"""How often a held rollout is resumed before the test gives up."""
_ABORTED = {2: HaltMode.REVERT, 4: HaltMode.STOP}
"""Which of the stories an operator ends, and how."""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: a simulation commits thousands of times, and needs none to last."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("seed", range(_SEEDS))
async def test_fleet_under_faults_ends_right_whatever_is_rolled_out(seed: int, scratch: Path) -> None:
    story = seed % len(_STORY)
    async with simulated_fleet(scratch, seed=seed, devices=_DEVICES) as fleet:
        first = await fleet.start(GOOD, waves=("100%",))
        assert (await _ended(fleet, first)).status is RolloutStatus.COMPLETED
        rollout = await fleet.start(_STORY[story])
        disturb(fleet, Random(seed), over_s=300.0)
        abort = _ABORTED.get(story)
        if abort is not None:
            await fleet.pass_time(150.0)
            if (await fleet.state(rollout)).status in LIVE:
                await fleet.controller.rollouts.abort(rollout, abort, actor="olivia")
            else:
                abort = None  # a small fleet is through by then
        state = await _ended(fleet, rollout)
        await calm(fleet)
        await fleet.check_ends(rollout)
        _check_end(fleet, _STORY[story], state, abort)


async def _ended(fleet: SimulatedFleet, rollout: RolloutId) -> RolloutState:
    """Wait for the end; where a wave holds, somebody switches the devices on again and lets it go on."""
    state = await fleet.until_ended(rollout)
    for _ in range(_PERSON_LOOKS):
        if state.status is not RolloutStatus.PAUSED:
            break
        for device in fleet.devices:
            device.online = True
        await fleet.pass_time(60.0)
        # One that held for want of data has gone on by itself by now.
        if (await fleet.state(rollout)).status is RolloutStatus.PAUSED:
            await fleet.controller.rollouts.resume(rollout, actor="olivia")
        state = await fleet.until_ended(rollout)
    return state


def _check_end(fleet: SimulatedFleet, release: ReleaseId, state: RolloutState, aborted: HaltMode | None) -> None:
    running = {device.running for device in fleet.devices}
    if release in _BAD:
        assert state.status is RolloutStatus.ROLLED_BACK, state.why
        assert state.total.opened == state.waves[0].spec.size
        assert running == {GOOD}
    elif aborted is HaltMode.REVERT:
        assert state.status is RolloutStatus.ROLLED_BACK
        assert running == {GOOD}
    elif aborted is HaltMode.STOP:
        assert state.status is RolloutStatus.ABORTED
        assert running <= {GOOD, release}
    else:
        assert state.status is RolloutStatus.COMPLETED, state.why
        assert running == {release}
