"""An agent that is updated in the middle of a change goes on with it: journals of earlier versions stay readable."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.core.plan import BootFile
from agent.core.state import AgentState, Phase
from shared.wire import TRAFFIC, AssignmentStatus, body_digest
from tests.support.device_core import Bench

GOLDEN = Path(__file__).parents[2] / "golden" / "agent" / "v1"


@pytest.mark.parametrize(("phase", "primary"), [(Phase.SHADOW, "v1"), (Phase.PROBATION, "v2")])
def test_change_under_way_goes_on_under_a_newer_agent(phase: Phase, primary: str) -> None:
    state = msgspec.json.decode((GOLDEN / f"journal_{phase.value}.json").read_bytes(), type=AgentState)
    boot = msgspec.json.decode((GOLDEN / f"boot_{phase.value}.json").read_bytes(), type=BootFile)
    assert boot.plan.routes == state.plan.routes
    # Another digest of the same body would have the controller's next seal of it refused as a forgery.
    assert state.desired is not None
    assert body_digest(state.desired.body) == state.body_digest
    bench = Bench(state=state, generation=state.desired.generation, serial=100)
    bench.start()
    bench.pulse()
    assert (bench.model.phase, bench.route.primary, bench.route.canary_share) == (phase, primary, 1.0)
    assert bench.state.report is not None
    assert bench.state.report.understands == (TRAFFIC,)
    for _ in range(4):
        bench.applied()
        bench.wait(11)
        bench.measured("v2")
    assert (bench.model.phase, bench.route.primary) == (Phase.IDLE, "v2")
    assert bench.assignment("v2").status is AssignmentStatus.SUCCEEDED
