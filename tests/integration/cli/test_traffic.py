"""Traffic, request logs, releases with components, and exports, typed against a real controller."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from controller.traffic_views import ChangeView, DeviceTrafficView
from controller.views import ConversionView, DeviceView, ReleaseView
from shared.hardware import DeviceHardware, Runtime
from tests.support.datasets import opaque, written
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.operator import Operator

ROOT = Path(__file__).parents[3]
BOARD = DeviceHardware(
    architecture="aarch64", memory_bytes=2**30, cores=4, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.3.0"
)
ALIEN = msgspec.structs.replace(BOARD, architecture="s390x")


def push(operator: Operator, content: str) -> ReleaseView:
    file = operator.folder / "turnstiles.keras"
    file.write_text(content)
    data = written(operator.folder / "data", opaque())
    return operator.must("model", "push", str(file), f"--data={data}", "--name", "turnstiles", "-o", "json").read(
        ReleaseView
    )


@pytest.fixture(scope="module")
def releases(operator: Operator) -> tuple[ReleaseView, ReleaseView]:
    """turnstiles/1, which two boards at the gate run, and turnstiles/2."""
    first, second = push(operator, "good first"), push(operator, "good second")
    for device in ("gate-1", "gate-2"):
        operator.enrols(device, BOARD, site="gate")
    started = ("rollout", "start", first.name, "--cohort", "site=gate", "--wave", "100%", "-o", "json")
    operator.must(*started)
    operator.enrols("gate-9", ALIEN, site="gate")
    wait_until(
        lambda: operator.must("device", "show", "gate-2", "-o", "json").read(DeviceView).desired,
        what="both are told",
    )
    return first, second


@pytest.fixture
def quiet(operator: Operator, releases: tuple[ReleaseView, ReleaseView]) -> tuple[ReleaseView, ReleaseView]:
    """The same, with no traffic set."""
    operator.must("device", "traffic", "clear", "turnstiles", "-l", "device!=gate-9", "--yes")
    return releases


def shown(operator: Operator) -> str:
    return operator.must("device", "traffic", "show", "gate-1").out


def test_variant_set_on_one_device_is_shown_with_its_share(
    operator: Operator, quiet: tuple[ReleaseView, ReleaseView]
) -> None:
    words = ("--variant", f"blue={quiet[1].name}", "--weights", "main=90,blue=10", "--sticky", "header:X-User")
    told = operator.must("device", "traffic", "set", "gate-1", "turnstiles", *words, "--pin", "7=blue")
    first, undo = told.out.splitlines()
    assert first == "changed 1 device; 0 stay as they are, 0 cannot"
    assert undo.startswith("to take it back for ever: litefleet device traffic halt 0")
    assert "turnstiles: main=90 blue=10, sticky by header x-user, 7 always blue" in shown(operator)
    assert "  blue         turnstiles/2  (change " in shown(operator)
    device = operator.must("device", "show", "gate-1").out
    assert "desired     turnstiles/2 as blue" in device
    assert "traffic     turnstiles: main=90 blue=10" in device
    again = operator.must("device", "traffic", "set", "gate-1", "turnstiles", *words, "--pin", "7=blue")
    assert "changed 0 devices; 1 stay as they are" in again.out


def test_shadow_alone_leaves_the_answers_where_they_are(
    operator: Operator, quiet: tuple[ReleaseView, ReleaseView]
) -> None:
    operator.must(
        "device", "traffic", "set", "gate-1", "turnstiles", "--variant", f"green={quiet[1].name}", "--shadow", "green"
    )
    assert "turnstiles: main=100, shadow green" in shown(operator)


def test_cohort_is_counted_before_it_is_changed_and_needs_a_yes(
    operator: Operator, quiet: tuple[ReleaseView, ReleaseView]
) -> None:
    asked = ("device", "traffic", "set", "turnstiles", "--selector", "site=gate", "--variant", f"blue={quiet[1].name}")
    dry = operator.types(*asked, "--dry-run", "-o", "json")
    planned = dry.read(ChangeView)
    assert (dry.code, planned.devices, planned.changed, planned.refused) == (1, 3, 2, 1)
    unasked = operator.types(*asked)
    assert (unasked.code, "add --yes, or look first with --dry-run" in unasked.err) == (2, True)
    assert "gate-9: variants.blue.release_id: no_fitting_artifact" in unasked.err
    done = operator.types(*asked, "--yes", "-o", "json")
    assert (done.code, done.read(ChangeView).changed) == (1, 2)
    assert "turnstiles: no rule: main answers everything" in shown(operator)


def test_change_halted_is_told_and_can_be_set_again(operator: Operator, quiet: tuple[ReleaseView, ReleaseView]) -> None:
    asked = ("device", "traffic", "set", "gate-1", "turnstiles", "--variant", f"blue={quiet[1].name}", "-o", "json")
    change = operator.must(*asked).read(ChangeView)
    assert operator.must("device", "traffic", "halt", change.change_id).out == f"halted {change.change_id} (revert)\n"
    assert operator.must(*asked).read(ChangeView).changed == 1
    found = operator.must("device", "traffic", "show", "gate-1", "-o", "json").read(DeviceTrafficView)
    assert change.change_id not in {variant.change_id for variant in found.items[0].variants}


def test_removing_a_variant_that_the_rule_names_ends_with_1_and_says_why(
    operator: Operator, quiet: tuple[ReleaseView, ReleaseView]
) -> None:
    words = ("--variant", f"blue={quiet[1].name}", "--weights", "main=1,blue=1")
    operator.must("device", "traffic", "set", "gate-1", "turnstiles", *words)
    refused = operator.types("device", "traffic", "set", "gate-1", "turnstiles", "--remove", "blue")
    assert (refused.code, "names blue, which the device does not have" in refused.err) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ("set", "gate-1"),
        ("set", "gate-1", "turnstiles"),
        ("set", "gate-1", "turnstiles", "--selector", "all"),
        ("set", "gate-1", "turnstiles", "--variant", "blue"),
        ("set", "gate-1", "turnstiles", "--weights", "main"),
        ("set", "gate-1", "turnstiles", "--weights", "main=half"),
        ("set", "gate-1", "turnstiles", "--sticky", "key"),
        ("set", "gate-1", "turnstiles", "--weights", "main=1", "--sticky", "cookie"),
        ("set", "gate-1", "turnstiles", "--mode", "bandit"),
        ("set", "gate-1", "turnstiles", "--weights", "main=1,main=2"),
    ],
    ids=lambda words: " ".join(words[2:]) or "no model",
)
def test_traffic_usage_that_is_wrong_ends_with_2(operator: Operator, words: tuple[str, ...]) -> None:
    answer = operator.types("device", "traffic", *words)
    assert (answer.code, answer.out) == (2, "")
    assert "error" in answer.err


def test_request_log_is_set_shown_and_cleared(operator: Operator, quiet: tuple[ReleaseView, ReleaseView]) -> None:
    assert quiet
    said = operator.must("device", "request-log", "set", "gate-1", "turnstiles", "--rate", "0.01", "--upstream")
    assert "1 device will write nothing down: no release there consents" in said.err
    assert "request log  1.00% of the requests, and sent upstream" in shown(operator)
    operator.must("device", "request-log", "clear", "gate-1", "turnstiles")
    assert "request log" not in shown(operator)


def test_rollout_with_a_canary_share_is_planned_and_one_that_is_no_share_refused(
    operator: Operator, releases: tuple[ReleaseView, ReleaseView]
) -> None:
    operator.enrols("canary-1", BOARD, site="lab")
    asked = ("rollout", "start", releases[1].name, "--cohort", "site=lab", "--dry-run", "--canary-share")
    assert "turnstiles/2" in operator.must(*asked, "0.1").out
    assert operator.types(*asked, "1.5").code == 2


def test_release_created_with_pipeline_component_and_consent(
    operator: Operator, releases: tuple[ReleaseView, ReleaseView]
) -> None:
    pipeline = operator.folder / "both.toml"
    pipeline.write_text(
        'answers = ["own", "other"]\n'
        '[[steps]]\ntype = "run_model"\nid = "own"\ntakes = ["request"]\n'
        '[[steps]]\ntype = "run_model"\nid = "other"\ntakes = ["request"]\nmodel = "finder"\n'
    )
    asked = (
        "release",
        "create",
        "turnstiles/2",
        "--pipeline",
        str(pipeline),
        "--component",
        f"finder={releases[0].name}",
    )
    made = operator.must(*asked, "--log-consent", "inputs,upstream,hide:name", "-o", "json").read(ReleaseView)
    assert made.release_id != releases[1].release_id
    told = operator.must("release", "show", made.release_id[-8:]).out
    assert f"component finder: turnstiles {releases[0].release_id[-8:]}" in told
    assert "log       inputs, upstream, hide:name" in told
    assert operator.types(*asked, "--log-consent", "everything").code == 2
    missing = operator.types("release", "create", "turnstiles/2", "--pipeline", str(pipeline))
    assert (missing.code, "no component 'finder'" in missing.err) == (2, True)
    unknown = operator.types("release", "create", "turnstiles/77")
    assert (unknown.code, "no conversion 'turnstiles/77'" in unknown.err) == (1, True)


def test_release_exported_verifies_on_its_own_until_a_byte_is_flipped(
    operator: Operator, releases: tuple[ReleaseView, ReleaseView]
) -> None:
    folder = operator.folder / "image"
    told = operator.must("release", "export", releases[0].name, "--image-context", str(folder))
    assert f"next: docker build --tag turnstiles {folder}" in told.out
    assert {"Dockerfile", "README.md", "agent", "shared", "deploy", "exported"} <= {
        entry.name for entry in folder.iterdir()
    }
    assert not list(folder.rglob("__pycache__"))
    # The code in the folder, not ours: it is what the image is built from.
    assert _verifies(folder).returncode == 0
    model = folder / "exported" / "release" / "model.tflite"
    model.write_bytes(model.read_bytes().replace(b"a", b"b", 1))
    refused = _verifies(folder)
    assert (refused.returncode, "model.tflite: sha256 is" in refused.stderr) == (1, True), refused.stderr
    again = operator.types("release", "export", releases[0].name, "--image-context", str(folder))
    assert (again.code, "is not empty" in again.err) == (2, True)
    other = operator.folder / "elsewhere"
    nothing = operator.types(
        "release", "export", releases[0].name, "--image-context", str(other), "--source", str(operator.folder)
    )
    assert (nothing.code, "name a checkout of litefleet" in nothing.err) == (2, True)
    wrong = operator.types("release", "export", releases[0].name, "--image-context", str(other), "--profile", "pi")
    assert (wrong.code, "has no artifact for pi" in wrong.err) == (1, True)
    assert not other.exists()


def test_release_whose_export_fails_midway_leaves_no_folder_and_ends_with_1(
    operator: Operator, releases: tuple[ReleaseView, ReleaseView]
) -> None:
    source, folder = operator.folder / "checkout", operator.folder / "half"
    source.mkdir()
    (source / "locks").write_text("there")
    # Its locks are copied; then there is a folder where the recipe is to be written.
    (source / "Dockerfile").mkdir()
    (source / "Dockerfile.agent").write_text("FROM python:3\nCOPY locks Dockerfile to/\n")
    failed = operator.types(
        "release", "export", releases[0].name, "--image-context", str(folder), "--source", str(source)
    )
    assert (failed.code, "Is a directory" in failed.err) == (1, True), failed.err
    assert not folder.exists()
    assert not list(operator.folder.glob(".unfinished-*"))


def test_conversions_are_named_by_their_version(operator: Operator, releases: tuple[ReleaseView, ReleaseView]) -> None:
    found = operator.must("conversion", "ls", "-o", "json").read(list[ConversionView])
    newest = next(one for one in found if (one.model, one.version_number) == ("turnstiles", 2))
    made = operator.must("release", "create", "turnstiles/2", "-o", "json").read(ReleaseView)
    assert (made.release_id, newest.state) == (releases[1].release_id, "succeeded")


def _verifies(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.exported", "verify", str(folder / "exported")],
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
