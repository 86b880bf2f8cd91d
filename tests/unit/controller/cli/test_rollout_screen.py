from __future__ import annotations

import io
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console

from controller.cli.rollout_screen import (
    assignments_table,
    gates_screen,
    lane,
    one_sentence,
    plan_screen,
    release_of,
    rollout_panel,
)
from controller.views import AssignmentView, GateView, PlanView, RolloutView, WaveView

if TYPE_CHECKING:
    from rich.console import RenderableType

ROLLOUT = RolloutView(
    rollout_id="01a20583-b163-77f3-bd18-48841502a0d8",
    release_id="01a2057c-59d3-7b28-b48b-74100ab277d4",
    model="digits",
    cohort="site=lobby",
    state="running",
    explanation="wave 1 waits for 1 device at work",
    waves=[WaveView(index=1, size="1", devices=1, state="running", verdict="continue", assigned=1, activated=1)],
)
SMALL = [
    GateView(gate="wave_failures", can_decide=True, why="any"),
    GateView(gate="fleet_paired", can_decide=False, why="few"),
]


def drawn(*things: RenderableType, width: int = 80) -> str:
    sink = io.StringIO()
    console = Console(file=sink, width=width)
    for thing in things:
        console.print(thing)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("wave", "shown"),
    [
        (WaveView(index=1, devices=4), "·" * 20),
        (WaveView(index=1, devices=4, assigned=4, succeeded=4), "█" * 20),
        (WaveView(index=1, devices=4, assigned=2, succeeded=1, activated=2), "█" * 5 + "▒" * 5 + "·" * 10),
        (WaveView(index=1, devices=2, assigned=2, failed=1, succeeded=1), "█" * 10 + "✗" * 10),
        (WaveView(index=1, devices=1000, assigned=1000, succeeded=999, failed=1), "█" * 20),
        (WaveView(index=1, devices=3, assigned=3, activated=3, excused=3), "–" * 20),
        (
            WaveView(index=1, devices=4, assigned=4, succeeded=1, activated=2, excused=1),
            "█" * 5 + "▒" * 5 + "░" * 5 + "–" * 5,
        ),
        (WaveView(index=1), "·" * 20),
    ],
    ids=["pending", "done", "under way", "half failed", "one of many failed", "excused", "all sorts", "empty"],
)
def test_lane_has_one_width_and_shows_how_far_a_wave_is(wave: WaveView, shown: str) -> None:
    assert lane(wave).plain == shown


@pytest.mark.parametrize("width", [80, 120])
def test_rollout_is_shown_on_a_terminal_without_cut_words(width: int) -> None:
    screen = drawn(rollout_panel(ROLLOUT, release="digits/2"), width=width)
    assert "…" not in screen
    assert screen.splitlines()[0] == "digits/2 to site=lobby  running  rollout 1502a0d8"
    assert "wave 1 waits for 1 device at work" in screen


def test_verdict_inconclusive_is_shown_in_place_of_the_state() -> None:
    held = msgspec.structs.replace(ROLLOUT.waves[0], verdict="inconclusive")
    assert "inconclusive" in drawn(rollout_panel(msgspec.structs.replace(ROLLOUT, waves=[held]), release="digits/2"))


def test_plan_names_who_and_what_is_left_out() -> None:
    waves = [
        WaveView(index=1, size="1", devices=1, device_ids=["door-1"], gates=SMALL),
        WaveView(index=2, size="100%", devices=8, device_ids=[f"door-{n}" for n in range(2, 10)], gates=SMALL),
    ]
    plan = PlanView(cohort="all", devices=9, waves=waves, not_enrolled=2)
    screen = drawn(plan_screen(plan, release="digits/2", asked=["1", "5%", "100%"]))
    assert "digits/2 to all: 9 devices in 2 waves" in screen
    assert "2 devices not enrolled yet" in screen
    assert "5% adds no device to the wave before it" in screen
    assert "door-2 door-3 door-4 door-5 door-6 door-7 … and 2 more" in screen
    assert "gates in waves 1 to 2" in screen


def test_gates_that_differ_stand_under_their_own_wave() -> None:
    waves = [WaveView(index=1, gates=SMALL), WaveView(index=2, gates=SMALL[:1])]
    screen = drawn(*gates_screen(waves))
    assert screen.index("gates in wave 1") < screen.index("–  fleet_paired") < screen.index("gates in wave 2")


def test_assignments_are_in_the_order_of_their_waves() -> None:
    shares = [
        AssignmentView(device_id="b", wave=2, status="queued", unreachable=True),
        AssignmentView(device_id="c", wave=1, status="rolled_back", going_back=True),
        AssignmentView(device_id="a", wave=1, status="in_progress", phase="shadow", pairs=9, flips=2, reason="[note]"),
    ]
    rows = [line.split() for line in drawn(assignments_table(shares)).splitlines()[1:]]
    assert rows == [
        ["1", "a", "in_progress", "shadow", "9,", "2", "differ", "[note]"],
        ["1", "c", "going", "back"],
        ["2", "b", "not", "seen"],
    ]


def test_sentence_says_why_and_what_devices_at_work_are_doing() -> None:
    quiet = AssignmentView(device_id="door-4", wave=1, status="in_progress", phase="shadow")
    assert one_sentence(ROLLOUT, [quiet]).plain == (
        "running: wave 1 waits for 1 device at work; door-4 is in shadow and has compared no request yet"
    )


def test_sentence_says_its_state_once() -> None:
    paused = msgspec.structs.replace(ROLLOUT, state="paused", explanation="paused by an operator")
    assert one_sentence(paused, []).plain == "paused by an operator"


def test_release_removed_is_named_by_its_model() -> None:
    assert release_of(ROLLOUT, {}) == "digits 0ab277d4"
    assert release_of(ROLLOUT, {ROLLOUT.release_id: "digits/2"}) == "digits/2"


@pytest.mark.parametrize(
    ("fetched", "full", "said"),
    [(0, 0, ""), (40_000, 1_000_000, "deltas saved 96.0%"), (1_000_000, 1_000_000, ""), (1_040_000, 1_000_000, "")],
    ids=["nothing told", "deltas", "none", "in vain"],
)
def test_rollout_says_what_deltas_saved_only_where_they_did(fetched: int, full: int, said: str) -> None:
    rollout = msgspec.structs.replace(ROLLOUT, fetched_bytes=fetched, full_bytes=full)
    screen = drawn(rollout_panel(rollout, release="digits/2"))
    assert ("deltas saved" in screen) == bool(said)
    assert said in screen
    assert ("devices fetched" in screen) == bool(full)
