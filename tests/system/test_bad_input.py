"""What a person can get wrong: each is refused or explained in a sentence that names it, and nothing is lost by it.

One controller process with the real converters; devices are enrolled for real and stay offline, so that whatever a
rollout does with them is decided by the controller alone.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from controller.views import AssignmentView, ConversionView, PlanView, ReleaseView, RolloutView, UploadView, VersionView
from shared.dataset import Split
from shared.hardware import DeviceHardware, Runtime
from shared.manifest import digest
from tests.support.controller_process import ControllerProcess
from tests.support.datasets import written
from tests.support.operator import Operator
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# Read when TensorFlow is imported.
os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

BOARD = DeviceHardware(
    architecture="aarch64", memory_bytes=2**30, cores=4, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.3.0"
)
EXOTIC = msgspec.structs.replace(BOARD, architecture="riscv64")
SOON_S = 30.0
ONE_WAVE = ("--wave", "100%", "--soak", "0")
"""A rollout of one wave. It holds as soon as its devices were told: none of them was ever heard of."""


class Shown(msgspec.Struct, frozen=True):
    rollout: RolloutView
    assignments: list[AssignmentView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A controller, somebody at its terminal, and files good and bad."""

    controller: ControllerProcess
    operator: Operator
    files: Path

    def push_words(self, model: str = "good.keras", **changed: str) -> list[str]:
        names = {"data": "data", "name": "thing", **changed}
        # Loose: two hundred samples cannot prove that little was lost.
        options = [f"--data={self.files / names['data']}", "--max-drop=0.2"]
        return ["model", "push", str(self.files / model), "--name", names["name"], *options, "-o", "json"]

    def shown(self, rollout: str) -> Shown:
        return self.operator.must("rollout", "show", rollout, "-o", "json").read(Shown)

    def start(self, cohort: str, *words: str) -> RolloutView:
        """Start a rollout of the good release."""
        began = self.operator.must("rollout", "start", "thing/1", "--cohort", cohort, *words, "-o", "json")
        return began.read(RolloutView)

    def held(self, rollout: RolloutView) -> RolloutView:
        """Wait until the rollout holds, and return how it stands."""

        def paused() -> RolloutView | None:
            found = self.shown(rollout.rollout_id).rollout
            return found if found.state == "paused" else None

        return wait_until(paused, within_s=SOON_S, what="the rollout holds")

    def abort(self, rollout: RolloutView) -> None:
        """End a rollout, and wait until it has ended, so that the next may have its devices."""
        self.operator.must("rollout", "abort", rollout.rollout_id, "--mode", "stop")
        ended = {"rolled_back", "aborted"}
        wait_until(
            lambda: self.shown(rollout.rollout_id).rollout.state in ended, within_s=SOON_S, what="the rollout ends"
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    write_files(folder)
    with ControllerProcess(folder, convert_parallel=2) as controller:
        url = f"http://127.0.0.1:{controller.api_port}"
        operator = Operator(url=url, token_file=controller.state_dir / "operator-token", folder=folder)
        yield Shop(controller=controller, operator=operator, files=folder)


@pytest.fixture(scope="module")
def release(shop: Shop) -> ReleaseView:
    """One good release: what the bad must not disturb."""
    return shop.operator.must(*shop.push_words()).read(ReleaseView)


def write_files(folder: Path) -> None:
    import keras

    def network(*layers: Any) -> Any:  # noqa: ANN401 - Keras ships no types
        return keras.Sequential([keras.Input((4,)), *layers])

    good = network(keras.layers.Dense(3, activation="softmax"))
    good.set_weights([np.eye(4, 3, dtype=np.float32) * 5, np.zeros(3, np.float32)])
    good.save(folder / "good.keras")
    good.set_weights([np.full((4, 3), np.nan, np.float32), np.zeros(3, np.float32)])
    good.save(folder / "nan.keras")
    network(keras.layers.Lambda(lambda item: item * 2, name="twice")).save(folder / "lambda.keras")
    (folder / "notes.keras").write_text("these are my notes on the model\n")
    drawn = np.random.default_rng(3).random((500, 4), dtype=np.float32)
    parts = {Split.CALIBRATION: drawn[:100], Split.SEARCH: drawn[100:300], Split.GATE: drawn[300:]}
    write_dataset(folder / "data", parts)
    write_dataset(folder / "empty", {**parts, Split.CALIBRATION: drawn[:0]})
    write_dataset(folder / "narrow", {**parts, Split.CALIBRATION: drawn[:100, :3]})


def write_dataset(folder: Path, parts: dict[Split, NDArray[np.float32]]) -> None:
    shards = {}
    for split, items in parts.items():
        sink = io.BytesIO()
        np.savez(sink, x=items, y=items[:, :3].argmax(axis=1))
        shards[f"{split}.npz"] = sink.getvalue()
    written(folder, shards)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "notes.keras"}, "source: is no Keras model"),
        ({"model": "lambda.keras"}, "layer 'twice' is or holds a Lambda"),
        ({"data": "empty"}, "calibration"),
        ({"data": "narrow"}, "calibration"),
        ({"model": "nan.keras"}, "NaN"),
    ],
    ids=["no Keras model", "Lambda layer", "empty calibration", "wrongly shaped calibration", "NaN outputs"],
)
def test_model_that_cannot_be_released_is_refused_with_what_is_wrong(
    shop: Shop, release: ReleaseView, changed: dict[str, str], said: str
) -> None:
    answer = shop.operator.types(*shop.push_words(**{"name": "bad", **changed}))
    assert (answer.code, answer.out) == (1, "")
    assert said in answer.err
    assert "Traceback" not in answer.err
    kept = shop.operator.must("release", "ls", "-o", "json").read(list[ReleaseView])
    assert [one.release_id for one in kept] == [release.release_id]


def test_same_files_pushed_again_are_the_same_release(shop: Shop, release: ReleaseView) -> None:
    again = shop.operator.must(*shop.push_words()).read(ReleaseView)
    assert again.release_id == release.release_id

    class History(msgspec.Struct):
        versions: list[VersionView]
        conversions: list[ConversionView]

    history = shop.operator.must("model", "show", "thing", "-o", "json").read(History)
    assert [len(history.versions), len(history.conversions)] == [1, 1]


async def test_upload_cut_in_the_middle_goes_on_where_it_was_cut(shop: Shop) -> None:
    content = np.random.default_rng(7).bytes(3_000_000)
    path = shop.files / "large.npz"
    path.write_bytes(content)
    name = digest(content)
    async with shop.controller.client() as api:
        await api.post("/uploads", {"sha256": name, "size_bytes": len(content)}, UploadView)
        await api.call("PATCH", f"/uploads/{name}", data=content[:1_000_000], headers={"Upload-Offset": "0"})
    shop.controller.kill()
    shop.controller.start()
    told: list[int] = []
    async with shop.controller.client() as api:
        await api.upload(path, lambda sent, _total: told.append(sent))
        stored = await api.call("GET", f"/blobs/{name}")
    assert told[0] == 1_000_000
    assert stored == content


@pytest.mark.usefixtures("release")
def test_cohort_that_cannot_be_meant_is_refused_by_field(shop: Shop) -> None:
    shop.operator.enrols("meant-1", BOARD, "kind=meant")
    for cohort, said in (
        ("colour=red", "cohort: no device has a label 'colour' (known keys: device, site, arch"),
        ("kind=unmeant", "cohort: 'kind=unmeant' holds no device"),
    ):
        answer = shop.operator.types("rollout", "start", "thing/1", "--cohort", cohort)
        assert answer.code == 1
        assert said in answer.err


@pytest.mark.usefixtures("release")
def test_waves_that_do_not_reach_everybody_are_refused_with_remedy(shop: Shop) -> None:
    for number in (1, 2):
        shop.operator.enrols(f"wave-{number}", BOARD, "kind=wave")
    answer = shop.operator.types("rollout", "start", "thing/1", "--cohort", "kind=wave", "--wave", "1", "--wave", "50%")
    assert answer.code == 1
    assert 'waves: the last wave reaches 1 of 2 devices (add "100%" as the last wave)' in answer.err


@pytest.mark.usefixtures("release")
def test_cohort_that_never_enrolled_is_refused_and_told_apart(shop: Shop) -> None:
    shop.operator.must(
        "device", "invite", "ghost-1", "--label", "kind=ghost", "--out", str(shop.files / "ghost.invite")
    )
    answer = shop.operator.types("rollout", "start", "thing/1", "--cohort", "kind=ghost")
    assert answer.code == 1
    assert "none of which has enrolled (enrol them, then start again)" in answer.err


@pytest.mark.usefixtures("release")
def test_cohort_offline_holds_and_says_so(shop: Shop) -> None:
    shop.operator.enrols("away-1", BOARD, "kind=away")
    rollout = shop.start("kind=away", *ONE_WAVE)
    number = rollout.rollout_id
    shop.held(rollout)
    explained = shop.operator.must("rollout", "explain", number[-8:]).out
    assert "no device of wave 1 gave a result: 1 not seen" in " ".join(explained.split())
    waited = shop.operator.types("rollout", "watch", number[-8:], "--timeout", "1")
    assert waited.code == 3
    assert "no device of wave 1 gave a result" in waited.err
    shop.abort(rollout)


@pytest.mark.usefixtures("release")
def test_device_without_fitting_artifact_is_rejected_by_name(shop: Shop) -> None:
    shop.operator.enrols("exotic-1", EXOTIC, "kind=exotic")
    rollout = shop.start("kind=exotic", *ONE_WAVE)
    [share] = wait_until(
        lambda: [one for one in shop.shown(rollout.rollout_id).assignments if one.status == "rejected"],
        within_s=SOON_S,
        what="the device is rejected",
    )
    assert share.device_id == "exotic-1"
    assert share.reason.startswith("no_fitting_artifact")
    assert "riscv64" in share.reason
    shop.abort(rollout)


@pytest.mark.usefixtures("release")
def test_device_removed_in_its_wave_is_named_and_not_waited_for(shop: Shop) -> None:
    shop.operator.enrols("leaver-1", BOARD, "kind=leaver")
    rollout = shop.start("kind=leaver", *ONE_WAVE)
    wait_until(lambda: shop.shown(rollout.rollout_id).assignments, within_s=SOON_S, what="it is told")
    shop.operator.must("device", "rm", "leaver-1")
    wait_until(
        lambda: shop.shown(rollout.rollout_id).assignments[0].status == "removed", within_s=SOON_S, what="it is let go"
    )
    assert "no device of wave 1 gave a result" in shop.held(rollout).explanation
    shop.abort(rollout)


@pytest.mark.usefixtures("release")
def test_label_changed_in_a_wave_leaves_the_assignment_as_it_is(shop: Shop) -> None:
    for number in (1, 2):
        shop.operator.enrols(f"mover-{number}", BOARD, "kind=mover")
    rollout = shop.start("kind=mover", "--wave", "1", "--wave", "100%")
    [share] = wait_until(lambda: shop.shown(rollout.rollout_id).assignments, within_s=SOON_S, what="it is told")
    shop.operator.must("device", "label", share.device_id, "--label", "kind=settled")
    after = shop.shown(rollout.rollout_id)
    assert [one.device_id for one in after.assignments] == [share.device_id]
    assert after.rollout.state in {"running", "paused"}
    shop.abort(rollout)


@pytest.mark.usefixtures("release")
def test_release_and_devices_in_use_are_kept(shop: Shop) -> None:
    shop.operator.enrols("busy-1", BOARD, "kind=busy")
    rollout = shop.start("kind=busy", *ONE_WAVE)
    removed = shop.operator.types("release", "rm", "thing/1")
    assert removed.code == 1
    assert f"is in use: rollout {rollout.rollout_id}" in removed.err
    second = shop.operator.types("rollout", "start", "thing/1", "--cohort", "kind=busy")
    assert second.code == 1
    assert "is bringing thing to the same devices: busy-1; wait for its end or abort it" in second.err
    planned = shop.operator.must("rollout", "show", rollout.rollout_id[-8:], "-o", "json").read(Shown)
    assert planned.rollout.state in {"running", "paused"}
    shop.abort(rollout)


@pytest.mark.usefixtures("release")
def test_dry_run_starts_nothing(shop: Shop) -> None:
    shop.operator.enrols("dry-1", BOARD, "kind=dry")
    before = shop.operator.must("rollout", "ls", "-o", "json").read(list[RolloutView])
    plan = shop.operator.must("rollout", "start", "thing/1", "--cohort", "kind=dry", "--dry-run", "-o", "json").read(
        PlanView
    )
    assert plan.waves[0].device_ids == ["dry-1"]
    assert plan.waves[0].gates
    assert shop.operator.must("rollout", "ls", "-o", "json").read(list[RolloutView]) == before
