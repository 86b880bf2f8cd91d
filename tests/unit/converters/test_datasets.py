from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from converters.data import datasets
from shared.conversion import ConversionRequest, SourceFormat
from shared.dataset import DATASET_FILE, DatasetKind, DatasetSpec, Shard, Split, encode
from shared.errors import InvalidInputError
from shared.hardware import GENERIC
from shared.ids import ConversionId
from shared.manifest import digest
from shared.pipeline import MODEL_ONLY, ColourMode, DecodeImage, Normalise, PipelineSpec, ResizeImage, RunModel
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline
from tests.support.models import random_classifier

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from converters.data.datasets import Dataset

    Tensor = NDArray[Any]

RNG = np.random.default_rng(5)
ITEMS = RNG.random((60, 4), dtype=np.float32)
PICTURES = PipelineSpec(steps=(DecodeImage(colour=ColourMode.GREY), ResizeImage(height=6, width=6), RunModel()))


def split_arrays(items: Tensor = ITEMS, **more: Tensor) -> dict[Split, dict[str, Tensor]]:
    """A third of the items for each split."""
    third = len(items) // 3
    arrays = {"x": items} | more
    return {
        split: {name: array[number * third : (number + 1) * third] for name, array in arrays.items()}
        for number, split in enumerate(Split)
    }


def written(
    folder: Path, splits: dict[Split, dict[str, Tensor]], *, slices: tuple[str, ...] = (), labels: tuple[str, ...] = ()
) -> Path:
    shards = []
    for split, arrays in splits.items():
        path = folder / f"{split}.npz"
        np.savez(path, allow_pickle=True, **arrays)
        shards.append(described(path, split))
    return document(folder, shards, slices=slices, labels=labels)


def described(path: Path, split: Split, *, array: str = "", part: int = 0) -> Shard:
    content = path.read_bytes()
    return Shard(path=path.name, sha256=digest(content), length_bytes=len(content), split=split, array=array, part=part)


def document(
    folder: Path,
    shards: list[Shard],
    *,
    kind: DatasetKind = DatasetKind.ARRAYS,
    slices: tuple[str, ...] = (),
    labels: tuple[str, ...] = (),
) -> Path:
    spec = DatasetSpec(name="test", licence="MIT", kind=kind, shards=tuple(shards), slices=slices, labels=labels)
    (folder / DATASET_FILE).write_bytes(encode(spec))
    return folder


def opened(folder: Path, pipeline: PipelineSpec = MODEL_ONLY) -> Dataset:
    request = ConversionRequest(
        conversion_id=ConversionId("c"),
        source_path="/nowhere",
        source_format=SourceFormat.KERAS,
        scratch_path="/nowhere",
        pipeline=pipeline,
        profiles=(GENERIC,),
        dataset_path=str(folder),
    )
    return datasets.open_dataset(request, folder / "scratch")


def problem_of(folder: Path, pipeline: PipelineSpec = MODEL_ONLY) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        opened(folder, pipeline)
    return caught.value


def test_dataset_is_read_split_by_split(tmp_path: Path) -> None:
    data = opened(written(tmp_path, split_arrays(y=np.arange(60) % 3)))
    gate = data.splits[Split.GATE]
    assert {split: len(samples) for split, samples in data.splits.items()} == dict.fromkeys(Split, 20)
    np.testing.assert_array_equal(np.concatenate(list(gate.blocks(7))), ITEMS[40:])
    np.testing.assert_array_equal(gate.item(3), ITEMS[43])
    assert gate.labels is not None
    assert gate.labels.tolist() == (np.arange(40, 60) % 3).tolist()
    assert data.doubts == ()


def test_dataset_without_labels_has_none(tmp_path: Path) -> None:
    assert opened(written(tmp_path, split_arrays())).splits[Split.GATE].labels is None


def test_labels_by_another_name_are_refused(tmp_path: Path) -> None:
    problem = problem_of(written(tmp_path, split_arrays(labels=np.arange(60) % 3)))
    assert "holds labels, and no y (call labels y" in str(problem)


def test_samples_come_in_blocks_across_their_parts(tmp_path: Path) -> None:
    shards = []
    for split, arrays in split_arrays(y=np.arange(60) % 3).items():
        for part in range(2):
            for name, array in arrays.items():
                path = tmp_path / f"{split}-{name}-{part}.npy"
                np.save(path, array[part * 9 : part * 9 + 9 + part * 2])
                shards.append(described(path, split, array=name, part=part))
    gate = opened(document(tmp_path, shards)).splits[Split.GATE]
    assert [len(part) for part in gate.parts] == [9, 11]
    assert [len(block) for block in gate.blocks(4)] == [4, 4, 1, 4, 4, 3]
    assert [len(block) for block in gate.blocks(4, 10)] == [4, 4, 1, 1]
    np.testing.assert_array_equal(np.concatenate(list(gate.blocks(4))), ITEMS[40:])
    np.testing.assert_array_equal(gate.item(19), ITEMS[59])
    with pytest.raises(IndexError):
        gate.item(20)


def test_same_data_has_the_same_digest_and_other_data_another(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    one = opened(written(first, split_arrays(y=np.arange(60) % 3))).splits[Split.GATE].digest
    assert one == opened(first).splits[Split.GATE].digest
    assert one != opened(written(second, split_arrays(y=np.arange(60) % 4))).splits[Split.GATE].digest


def test_same_shards_in_another_order_or_pairing_have_another_digest(tmp_path: Path) -> None:
    shards = []
    for split, arrays in split_arrays(y=np.arange(60) % 3).items():
        for name, array in arrays.items():
            for part in range(2):
                path = tmp_path / f"{split}-{name}-{part}.npy"
                np.save(path, array[part * 10 : part * 10 + 10])
                shards.append(described(path, split, array=name, part=part))
    turned = [msgspec.structs.replace(shard, part=1 - shard.part) for shard in shards]
    crossed = [msgspec.structs.replace(shard, part=1 - shard.part) if shard.array == "y" else shard for shard in shards]
    opened_anew = [opened(document(tmp_path, made)) for made in (shards, turned, crossed)]
    assert len({made.splits[Split.GATE].digest for made in opened_anew}) == 3


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"x": ITEMS[:0]}, "dataset.gate.x", "empty"),
        ({"x": np.float32(1)}, "dataset.gate.x", "empty"),
        ({"x": ITEMS[:6] * np.nan}, "dataset.gate.x", "6 of 6 items hold NaN"),
        ({"x": ITEMS[40:], "y": np.zeros(5, int)}, "dataset.gate.y", "(5,) for 20 items"),
        ({"x": ITEMS[40:], "y": np.zeros((20, 10), int)}, "dataset.gate.y", "(20, 10) for 20 items"),
        ({"x": ITEMS[40:], "y": np.zeros(20)}, "dataset.gate.y", "float64"),
        ({"x": ITEMS[40:], "slice": np.full(20, 2)}, "dataset.gate.slice", "20 numbers are out of range"),
        ({"x": ITEMS[40:], "slice": np.full(20, -1)}, "dataset.gate.slice", "20 numbers are out of range"),
    ],
)
def test_split_that_cannot_be_used_is_refused_by_field(
    tmp_path: Path, change: dict[str, Tensor], field: str, said: str
) -> None:
    problem = problem_of(written(tmp_path, split_arrays() | {Split.GATE: change}, slices=("day", "night")))
    assert problem.field == field
    assert said in problem.problem


def test_shard_changed_after_it_was_described_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, split_arrays())
    content = bytearray((folder / "gate.npz").read_bytes())
    content[-100] ^= 1
    (folder / "gate.npz").write_bytes(content)
    assert "has sha256" in problem_of(folder).problem


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b"\xff"])
def test_document_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATASET_FILE).write_bytes(content)
    assert problem_of(tmp_path).field.startswith(DATASET_FILE)


def test_folder_without_a_document_is_refused_with_how_to_write_one(tmp_path: Path) -> None:
    assert "describe" in problem_of(tmp_path).remedy


def test_names_that_repeat_are_refused(tmp_path: Path) -> None:
    assert problem_of(written(tmp_path, split_arrays(), labels=("a", "a"))).field == "dataset.json.labels"


@pytest.mark.parametrize(
    ("later", "earlier"), [(Split.GATE, "calibration"), (Split.GATE, "search"), (Split.SEARCH, "calibration")]
)
def test_samples_in_two_splits_are_refused_with_numbers_and_remedy(tmp_path: Path, later: Split, earlier: str) -> None:
    splits = split_arrays()
    splits[later]["x"] = np.concatenate([splits[later]["x"][:10], splits[Split(earlier)]["x"][:10]])
    problem = problem_of(written(tmp_path, splits))
    assert problem.field == f"dataset.{later}.x"
    assert problem.problem == f"10 of 20 items are also in the {earlier} data"
    assert "split" in problem.remedy


def test_few_samples_in_two_splits_are_said(tmp_path: Path) -> None:
    splits = split_arrays()
    splits[Split.GATE]["x"][:2] = splits[Split.SEARCH]["x"][:2]
    data = opened(written(tmp_path, splits))
    assert data.doubts == ("dataset.gate: 2 of 20 items are also in the search data",)


def test_gate_that_asks_the_same_again_and_again_is_said(tmp_path: Path) -> None:
    splits = split_arrays(np.random.default_rng(6).random((60, 4), dtype=np.float32))
    splits[Split.GATE]["x"] = np.tile(splits[Split.GATE]["x"], (20, 1))
    (said,) = opened(written(tmp_path, splits)).doubts
    assert said.startswith("dataset.gate: 380 of 400 items repeat another one")


def test_samples_are_the_same_whatever_type_they_are_stored_in(tmp_path: Path) -> None:
    splits = split_arrays(RNG.integers(0, 255, (60, 4)).astype(np.uint8))
    splits[Split.GATE]["x"] = splits[Split.SEARCH]["x"].astype(np.float32)
    assert "20 of 20 items" in problem_of(written(tmp_path, splits)).problem


def test_samples_are_the_same_that_the_pipeline_resizes_to_the_same(tmp_path: Path) -> None:
    images = RNG.integers(0, 255, (60, 12, 12, 1)).astype(np.uint8)
    splits = split_arrays(images)
    small = opened(written(tmp_path, splits), PICTURES).splits[Split.SEARCH]
    assert small.item(0).shape == (6, 6, 1)
    splits[Split.GATE]["x"] = np.concatenate(list(small.blocks(100)))
    assert "20 of 20 items" in problem_of(written(tmp_path, splits), PICTURES).problem


def zipped(path: Path, images: dict[str, Tensor]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in images.items():
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())


def pictures(folder: Path, *, name: str = "{label}/{number}.png", labels: tuple[str, ...] = ("cat", "dog")) -> Path:
    shards = []
    for split in Split:
        images = {
            name.format(label=("cat", "dog")[number % 2], number=number): RNG.integers(0, 255, (9, 9)).astype(np.uint8)
            for number in range(6)
        }
        zipped(folder / f"{split}.zip", images)
        shards.append(described(folder / f"{split}.zip", split))
    return document(folder, shards, kind=DatasetKind.IMAGES, labels=labels)


def test_images_are_decoded_and_resized_as_on_a_device(tmp_path: Path) -> None:
    gate = opened(pictures(tmp_path), PICTURES).splits[Split.GATE]
    assert gate.labels is not None
    assert gate.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert gate.item(0).shape == (6, 6, 1)
    assert gate.item(0).dtype == np.uint8


@pytest.mark.parametrize("answers", [("dog", "cat"), ("bird", "cat", "dog")])
def test_classes_in_another_order_than_the_models_are_refused(tmp_path: Path, answers: tuple[str, ...]) -> None:
    problem = problem_of(pictures(tmp_path), msgspec.structs.replace(PICTURES, labels=answers))
    assert problem.field == "dataset.json.labels"
    assert "cat is class 0 of the data, and 1 of the pipeline" in str(problem)


def test_classes_in_the_models_order_or_of_other_names_are_taken(tmp_path: Path) -> None:
    for answers in (("cat", "dog", "owl"), ("Katze", "Hund")):
        assert opened(pictures(tmp_path), msgspec.structs.replace(PICTURES, labels=answers)).spec.labels


def test_images_in_no_folders_have_no_labels(tmp_path: Path) -> None:
    assert opened(pictures(tmp_path, name="{number}.png"), PICTURES).splits[Split.GATE].labels is None


def test_images_in_a_folder_of_no_label_are_refused(tmp_path: Path) -> None:
    problem = problem_of(pictures(tmp_path, labels=("cat",)), PICTURES)
    assert "lies in no folder of a label" in problem.problem


def test_images_for_a_pipeline_that_takes_tensors_are_refused(tmp_path: Path) -> None:
    assert problem_of(pictures(tmp_path)).field == "pipeline.steps"


def test_image_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    pictures(tmp_path)
    with zipfile.ZipFile(tmp_path / "gate.zip", "w") as archive:
        archive.writestr("cat/broken.png", b"\x89PNG no image")
    shards = [described(tmp_path / f"{split}.zip", split) for split in Split]
    folder = document(tmp_path, shards, kind=DatasetKind.IMAGES, labels=("cat", "dog"))
    assert problem_of(folder, PICTURES).field == "dataset.gate.cat/broken.png"


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(tmp_path: Path, label: int) -> None:
    labels = np.arange(60) % 3
    labels[45] = label
    gate = opened(written(tmp_path, split_arrays(y=labels))).splits[Split.GATE]
    with pytest.raises(InvalidInputError, match=r"1 labels are out of range.*0\.\.2"):
        datasets.check_labels(gate, 3)


def test_labels_of_yes_and_no_suit_one_output(tmp_path: Path) -> None:
    datasets.check_labels(opened(written(tmp_path, split_arrays(y=np.arange(60) % 2))).splits[Split.GATE], 1)


def test_items_of_another_shape_are_refused_with_both_shapes(tmp_path: Path) -> None:
    pipeline = CompiledPipeline(MODEL_ONLY, LiteRtInterpreter(random_classifier(5, 3, seed=1), threads=1))
    gate = opened(written(tmp_path, split_arrays())).splits[Split.GATE]
    with pytest.raises(InvalidInputError, match=r"become \(4,\), and the model takes \(5,\)"):
        datasets.check_items(gate, pipeline)


def test_items_that_the_pipeline_makes_fit_are_accepted(tmp_path: Path) -> None:
    spec = PipelineSpec(steps=(Normalise(scale=0.5), RunModel()))
    pipeline = CompiledPipeline(spec, LiteRtInterpreter(random_classifier(4, 3, seed=1), threads=1))
    datasets.check_items(opened(written(tmp_path, split_arrays())).splits[Split.GATE], pipeline)


def test_document_keeps_what_it_says(tmp_path: Path) -> None:
    data = opened(written(tmp_path, split_arrays(), slices=("day",)))
    assert (data.spec.name, data.spec.slices) == ("test", ("day",))
    assert msgspec.json.decode((tmp_path / DATASET_FILE).read_bytes(), type=DatasetSpec) == data.spec
