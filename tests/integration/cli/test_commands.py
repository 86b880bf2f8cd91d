"""The commands against a real controller: what they print for people and for programs, and how they end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from controller.views import (
    AssignmentView,
    ConversionView,
    DatasetView,
    DecisionView,
    DeviceView,
    ModelView,
    PlanView,
    ReleaseView,
    RolloutView,
)
from shared.hardware import DeviceHardware, Runtime
from tests.support.datasets import opaque, written
from tests.support.ports import free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.operator import Answer, Operator

BOARD = DeviceHardware(
    architecture="aarch64", memory_bytes=2**30, cores=4, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.3.0"
)


class Shown(msgspec.Struct, frozen=True):
    rollout: RolloutView
    assignments: list[AssignmentView]


class Explained(msgspec.Struct, frozen=True):
    rollout: RolloutView
    decisions: list[DecisionView]


class History(msgspec.Struct, frozen=True):
    conversions: list[ConversionView]


def push(operator: Operator, model: str, content: str, *words: str) -> Answer:
    """Push a "model" that tells the conversion program what to do."""
    file = operator.folder / f"{model}.keras"
    file.write_text(content)
    data = written(operator.folder / "data", opaque())
    options = (f"--data={data}", "--name", model)
    return operator.types("model", "push", str(file), *options, *words)


@pytest.fixture(scope="module")
def release(operator: Operator) -> ReleaseView:
    pushed = push(operator, "doors", "good", "-o", "json")
    assert pushed.code == 0, pushed.err
    return pushed.read(ReleaseView)


def test_push_in_a_pipe_tells_progress_on_stderr_and_the_next_command_on_stdout(operator: Operator) -> None:
    pushed = push(operator, "windows", "good again")
    assert pushed.code == 0, pushed.err
    assert "released windows/1" in pushed.out
    assert (
        "next: litefleet rollout start windows/1 --cohort all --wave 1 --wave 25% --wave 100% --dry-run" in pushed.out
    )
    assert "error" not in pushed.err


def test_push_refused_ends_with_1_and_says_why_on_stderr_only(operator: Operator) -> None:
    refused = push(operator, "broken", "unknown word", "-o", "json")
    assert (refused.code, refused.out) == (1, "")
    assert "error: conversion failed" in refused.err


def test_push_not_done_in_time_ends_with_3_and_goes_on_when_repeated(operator: Operator) -> None:
    late = push(operator, "late", "good and late", "--timeout", "0", "-o", "json")
    assert (late.code, late.out) == (3, "")
    assert "it goes on: the same command again waits for it" in late.err
    assert push(operator, "late", "good and late").code == 0
    assert operator.must("model", "show", "late").out.count("conversion ") == 1


def test_dataset_pushed_sends_each_shard_once_and_is_listed(operator: Operator) -> None:
    folder = written(operator.folder / "pushed", opaque("pushed"))
    first = operator.must("dataset", "push", str(folder))
    assert "upload: gate.npz, 15 bytes to send" in first.err
    again = operator.must("dataset", "push", str(folder), "-o", "json")
    assert again.err.count("there already") == 3
    digest = again.read(DatasetView).sha256
    assert digest in first.out
    assert digest[:12] in operator.must("dataset", "ls").out


def test_dataset_whose_shard_changed_is_not_pushed(operator: Operator) -> None:
    folder = written(operator.folder / "changed", opaque("changed"))
    (folder / "gate.npz").write_bytes(b"CHANGED for gate")
    answer = operator.types("dataset", "push", str(folder))
    assert (answer.code, "litefleet dataset describe" in answer.err) == (1, True), answer.err


def test_card_is_fetched_for_programs_and_as_a_page(operator: Operator) -> None:
    assert push(operator, "carded", "card").code == 0
    assert operator.must("model", "card", "carded/1").read(dict[str, str]) == {"name": "a card"}
    page = operator.folder / "card.html"
    operator.must("model", "card", "carded/1", "-o", str(page))
    assert page.read_text().startswith("<!doctype html>")
    missing = operator.types("model", "card", "carded/2")
    assert (missing.code, "no model card 'carded/2'" in missing.err) == (1, True)


def test_show_tells_what_the_newest_conversion_tried(operator: Operator) -> None:
    assert push(operator, "tried", "card tried").code == 0
    shown = operator.must("model", "show", "tried").out
    assert "●  full_int8" in shown
    assert "chosen: generic" in shown


def test_push_of_what_is_no_model_ends_with_2_before_anything_is_sent(operator: Operator) -> None:
    pickle = operator.folder / "model.pkl"
    pickle.write_bytes(b"cos\nsystem\n")
    data = written(operator.folder / "data", opaque())
    answer = operator.types("model", "push", str(pickle), f"--data={data}", "--name=pickled")
    assert (answer.code, "skops" in answer.err) == (2, True)


def test_conversion_is_canceled_by_the_end_of_its_id(operator: Operator) -> None:
    assert push(operator, "hung", "hang", "--timeout", "0").code == 3
    [conversion] = [
        found
        for found in operator.must("model", "show", "hung", "-o", "json").read(History).conversions
        if found.model == "hung"
    ]
    canceled = operator.must("model", "cancel", conversion.conversion_id[-8:])
    assert f"conversion {conversion.conversion_id[-8:]} canceled" in canceled.out
    assert "canceled by" in operator.must("model", "show", "hung").out


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal(operator: Operator, release: ReleaseView, columns: int) -> None:
    for words in (("release", "ls"), ("release", "show", release.name), ("model", "ls"), ("model", "show", "doors")):
        lines = operator.types(*words, COLUMNS=str(columns)).out.splitlines()
        assert lines
        # A digest or an id that is printed whole may pass the edge of a narrow terminal; tables never do.
        assert [line for line in lines if len(line) > columns and "sha256" not in line] == []


def test_release_is_found_by_name_and_by_either_end_of_its_id(operator: Operator, release: ReleaseView) -> None:
    whole = release.release_id
    for typed in (release.name, whole, whole[:16], whole[-8:]):
        assert operator.must("release", "show", typed, "-o", "json").read(ReleaseView) == release


def test_release_ambiguous_is_refused_with_what_it_could_be(operator: Operator, release: ReleaseView) -> None:
    assert push(operator, "gates", "good too").code == 0
    answer = operator.types("release", "show", release.release_id[:4])
    assert answer.code == 1
    assert "of them" in answer.err
    assert release.release_id[-8:] in answer.err


def test_name_unknown_ends_with_1_and_says_where_to_look(operator: Operator) -> None:
    for words, remedy in (
        (("release", "show", "doors/99"), "see litefleet release ls"),
        (("rollout", "show", "ffffffff"), "see litefleet rollout ls"),
        (("device", "show", "nobody"), ""),
        (("model", "show", "nothing"), ""),
    ):
        answer = operator.types(*words)
        assert (answer.code, answer.out) == (1, "")
        assert f"error: no {words[0]} '{words[2]}'" in answer.err
        assert remedy in answer.err


def test_rollout_from_plan_to_abort(operator: Operator, release: ReleaseView) -> None:
    for number in (1, 2, 3, 4):
        operator.enrols(f"plan-{number}", BOARD, "kind=plan", site="lobby")
    asked = (
        "rollout",
        "start",
        release.name,
        "--cohort",
        "kind=plan",
        "--wave",
        "1",
        "--wave",
        "25%",
        "--wave",
        "100%",
    )
    planned = operator.must(*asked, "--dry-run")
    assert f"{release.name} to kind=plan: 4 devices in 2 waves" in planned.out
    assert "25% adds no device to the wave before it, so it is no wave" in planned.out
    assert "–  fleet_paired   too_few_devices: 1, it needs 10" in planned.out
    plan = operator.must(*asked, "--dry-run", "-o", "json").read(PlanView)
    assert [len(wave.device_ids) for wave in plan.waves] == [1, 3]

    started = operator.must(*asked, "-o", "json").read(RolloutView)
    rollout = started.rollout_id[-8:]
    # None of the devices was ever heard of, so that the first wave has no result to go on with.
    wait_until(
        lambda: operator.must("rollout", "show", rollout, "-o", "json").read(Shown).rollout.state == "paused",
        what="the first wave holds",
    )
    assert f"{rollout}  {release.name}" in operator.must("rollout", "ls").out
    explained = operator.must("rollout", "explain", rollout).out
    assert explained.startswith("paused: no device of wave 1 gave a result: 1 not seen")
    assert "wave 1 tells 1 device" in explained
    refused = operator.types("rollout", "pause", rollout)
    assert (refused.code, refused.out) == (1, "")
    assert "only a running rollout can be paused" in refused.err
    operator.must("rollout", "resume", rollout, "-o", "json").read(RolloutView)
    assert "wave 1 accepted by an operator" in " ".join(operator.must("rollout", "explain", rollout).out.split())
    in_use = operator.types("release", "rm", release.name)
    assert in_use.code == 1
    assert "is in use" in in_use.err

    assert "aborted by an operator (stop)" in operator.must("rollout", "abort", rollout, "--mode", "stop").out
    ended = operator.types("rollout", "watch", rollout, "--timeout", "20", "-o", "json")
    assert (ended.code, ended.read(RolloutView).state) == (1, "aborted")
    history = operator.must("rollout", "explain", rollout, "-o", "json").read(Explained)
    assert [history.rollout.state, history.decisions[0].explanation] == ["aborted", "wave 1 starts"]


def test_wait_not_ended_in_time_ends_with_3_and_says_why(operator: Operator, release: ReleaseView) -> None:
    operator.enrols("slow-1", BOARD, "kind=slow")
    asked = ("rollout", "start", release.name, "--cohort", "kind=slow", "--wait", "--timeout", "2", "-o", "json")
    answer = operator.types(*asked)
    assert (answer.code, answer.out) == (3, "")
    assert "has not ended after 2 s: no device of wave 1 gave a result: 1 not seen" in answer.err
    [rollout] = [
        one for one in operator.must("rollout", "ls", "-o", "json").read(list[RolloutView]) if one.cohort == "kind=slow"
    ]
    in_a_pipe = operator.types("rollout", "watch", rollout.rollout_id[-8:], "--timeout", "1")
    assert in_a_pipe.code == 3
    assert "wave 1 starts" in in_a_pipe.out
    operator.must("rollout", "abort", rollout.rollout_id[-8:], "--mode", "stop")


def test_device_invited_labelled_and_removed(operator: Operator) -> None:
    invite = operator.folder / "lift.invite"
    invited = operator.must("device", "invite", "lift", "--site", "hall", "--label", "kind=lift", "--out", str(invite))
    assert "next, on the device: litefleet-agent enrol --invite lift.invite --state" in invited.out
    assert invite.stat().st_mode & 0o077 == 0
    assert json.loads(invite.read_text())["device_id"] == "lift"
    assert "invited, not enrolled" in operator.must("device", "ls", "kind=lift").out
    assert "invited, but not enrolled yet" in operator.must("device", "show", "lift").out
    labelled = operator.must("device", "label", "lift", "-l", "floor=3", "-o", "json").read(DeviceView)
    assert labelled.labels == {"floor": "3"}
    assert operator.must("device", "rm", "lift").out == "removed device lift\n"
    assert "lift" not in operator.must("device", "ls", "site!=nowhere").out


def test_invite_never_overwrites_a_file(operator: Operator, tmp_path: Path) -> None:
    taken = tmp_path / "taken.invite"
    taken.write_text("mine")
    answer = operator.types("device", "invite", "never", "--out", str(taken))
    assert (answer.code, taken.read_text()) == (2, "mine")
    assert operator.types("device", "show", "never").code == 1


@pytest.mark.parametrize(
    "words",
    [
        ("device", "invite", "x", "--out", "x.invite", "--label", "novalue"),
        ("rollout", "start", "doors/1"),
        ("rollout", "start", "doors/1", "--cohort", "all", "--min-pairs", "0"),
        ("model", "push", "no-such-file", "--name", "x", "--data", "."),
        ("device", "ls", "-o", "yaml"),
        ("no-such-command",),
        ("--url", "controller", "status"),
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_usage_that_is_wrong_ends_with_2(operator: Operator, words: tuple[str, ...]) -> None:
    answer = operator.types(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err


def test_token_file_missing_ends_with_2_and_says_where_it_is(operator: Operator, tmp_path: Path) -> None:
    answer = operator.types("status", LITEFLEET_TOKEN_FILE=str(tmp_path / "none"))
    assert (answer.code, answer.out) == (2, "")
    assert "operator-token in the controller's state folder; see --token-file, LITEFLEET_TOKEN_FILE" in answer.err


def test_token_of_another_controller_ends_with_1_and_names_its_file(operator: Operator, tmp_path: Path) -> None:
    wrong = tmp_path / "operator-token"
    wrong.write_text("somebody-elses-token")
    answer = operator.types("status", LITEFLEET_TOKEN_FILE=str(wrong))
    assert (answer.code, answer.out) == (1, "")
    assert f"{wrong} is not this controller's token" in answer.err


def test_controller_down_ends_with_4(operator: Operator) -> None:
    answer = operator.types_in_a_shell("status", "-o", "json", LITEFLEET_URL=f"http://127.0.0.1:{free_port()}")
    assert (answer.code, answer.out) == (4, "")
    assert "does not answer: Connection refused" in answer.err


def test_every_list_is_json_and_empty_lists_are_too(operator: Operator) -> None:
    assert operator.must("device", "ls", "site=nowhere", "-o", "json").read(list[DeviceView]) == []
    assert isinstance(operator.must("model", "ls", "-o", "json").read(list[ModelView]), list)
    assert operator.must("status", "-o", "json").read(dict[str, object])["lab_mode"] is True


def test_completion_for_bash_is_a_script_that_completes(operator: Operator) -> None:
    script = operator.types_in_a_shell("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert script.code == 0
    assert "_LITEFLEET_COMPLETE=complete_bash" in script.out
    asked = operator.types_in_a_shell(
        _LITEFLEET_COMPLETE="complete_bash", COMP_WORDS="litefleet rollout st", COMP_CWORD="2"
    )
    assert asked.out.split() == ["start"]
