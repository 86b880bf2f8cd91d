"""From files to a model in memory: nothing that was not signed is ever handed to the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agent.serving.models.loading import load_model, load_slot
from shared import manifest
from shared.errors import DigestMismatchError, ModelLoadError, UntrustedError
from shared.ids import ModelName, ReleaseId
from shared.pipeline import MODEL_ONLY
from tests.support import models
from tests.support.interpreters import DirectedInterpreter
from tests.support.serving import make_slot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agent.core.plan import SlotSpec
    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

_MODEL = models.one_hot_classifier()


class _Opened:
    """Opens directed models, and remembers which bytes came as far as that."""

    def __init__(self) -> None:
        self.models: list[bytes] = []

    def __call__(self, model: bytes, _threads: int) -> Interpreter:
        self.models.append(model)
        return DirectedInterpreter(lambda items: items)


@pytest.fixture
def slot(tmp_path: Path) -> SlotSpec:
    return make_slot(tmp_path, _MODEL)


def _load(slot: SlotSpec, opened: _Opened) -> None:
    load_slot(slot, cores=1, open_interpreter=opened)


def test_release_as_it_was_signed_is_loaded(slot: SlotSpec) -> None:
    opened = _Opened()
    _load(slot, opened)
    assert set(opened.models) == {_MODEL}


@pytest.mark.parametrize("name", ["model.tflite", "manifest.json"])
def test_attack_file_changed_on_disk_is_never_interpreted(slot: SlotSpec, name: str) -> None:
    path = Path(slot.folder) / name
    path.write_bytes(path.read_bytes() + b" ")
    opened = _Opened()
    with pytest.raises(DigestMismatchError, match=name):
        _load(slot, opened)
    assert opened.models == []


@pytest.mark.parametrize("name", ["model.tflite", "manifest.json"])
def test_file_that_is_gone_says_which(slot: SlotSpec, name: str) -> None:
    (Path(slot.folder) / name).unlink()
    with pytest.raises(ModelLoadError, match=name):
        _load(slot, _Opened())


@pytest.mark.parametrize(
    "claimed", [{"release_id": ReleaseId("another-release")}, {"model": ModelName("letters")}], ids=["release", "model"]
)
def test_attack_signed_files_of_another_release_are_not_loaded_in_its_place(
    slot: SlotSpec, claimed: dict[str, str]
) -> None:
    opened = _Opened()
    with pytest.raises(UntrustedError, match="not what was asked for"):
        _load(msgspec.structs.replace(slot, **claimed), opened)
    assert opened.models == []


def test_manifest_that_is_none_is_not_believed_whatever_its_digest(slot: SlotSpec) -> None:
    (Path(slot.folder) / "manifest.json").write_bytes(b"{}")
    with pytest.raises(UntrustedError):
        _load(msgspec.structs.replace(slot, manifest_sha256=manifest.digest(b"{}")), _Opened())


def test_fast_model_answers_on_the_loop_and_keeps_a_worker_for_the_rest() -> None:
    opened = _Opened()
    loaded = load_model(_MODEL, MODEL_ONLY, threads=1, cores=4, open_interpreter=opened)
    assert loaded.inline is not None
    assert [each.interpreters for each in loaded.workers] == [1]
    assert loaded.interpreters == len(opened.models) == 2
