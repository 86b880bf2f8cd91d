from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from shared import dataset
from shared.conversion import LADDER, ConversionRequest, SourceFormat
from shared.dataset import DATASET_FILE, DatasetSpec, Shard, Split
from shared.hardware import GENERIC
from shared.ids import ConversionId
from shared.manifest import digest
from shared.pipeline import MODEL_ONLY, PipelineSpec
from tests.support.workers import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

# Read when TensorFlow is imported, which the first test that needs it does.
os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


def write_dataset(folder: Path, splits: Mapping[Split, Mapping[str, Tensor]], *, slices: tuple[str, ...] = ()) -> Path:
    """Write one shard for each split, and the document."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for split, arrays in splits.items():
        path = folder / f"{split}.npz"
        np.savez(path, allow_pickle=False, **arrays)
        content = path.read_bytes()
        shards.append(Shard(path=path.name, sha256=digest(content), length_bytes=len(content), split=split))
    spec = DatasetSpec(name="test", licence="MIT", shards=tuple(shards), slices=slices)
    (folder / DATASET_FILE).write_bytes(dataset.encode(spec))
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """A folder with what a conversion needs."""

    folder: Path

    def request(
        self,
        source: bytes,
        splits: Mapping[Split, Mapping[str, Tensor]],
        *,
        source_format: SourceFormat = SourceFormat.TFLITE,
        pipeline: PipelineSpec = MODEL_ONLY,
        slices: tuple[str, ...] = (),
    ) -> ConversionRequest:
        """Save model and data, and return the request to convert them."""
        path = self.folder / f"source.{source_format}"
        path.write_bytes(source)
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return ConversionRequest(
            conversion_id=ConversionId("c-1"),
            source_path=str(path),
            source_format=source_format,
            scratch_path=str(scratch),
            dataset_path=str(write_dataset(self.folder / "data", splits, slices=slices)),
            pipeline=pipeline,
            schemes=LADDER,
            profiles=(GENERIC,),
        )


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(folder=tmp_path)


@pytest.fixture(scope="session")
def digits_request(tmp_path_factory: pytest.TempPathFactory) -> ConversionRequest:
    """The request to convert the really trained digits, variant v1."""
    from converters.examples.digits import PIPELINE, Variant, write

    folder = tmp_path_factory.mktemp("digits")
    write(folder, Variant.V1)
    scratch = folder / "scratch"
    scratch.mkdir()
    assert msgspec.json.decode((folder / "pipeline.json").read_bytes(), type=PipelineSpec) == PIPELINE
    return ConversionRequest(
        conversion_id=ConversionId("c-digits"),
        source_path=str(folder / "model.keras"),
        source_format=SourceFormat.KERAS,
        scratch_path=str(scratch),
        dataset_path=str(folder / "data"),
        pipeline=PIPELINE,
        schemes=LADDER,
        profiles=(GENERIC,),
    )


@pytest.fixture(scope="session")
def mnist_request(tmp_path_factory: pytest.TempPathFactory) -> ConversionRequest:
    """The request to convert the network trained on ten thousand written digits; what it makes is kept for the next."""
    from tests.support import mnist_network, real_data

    folder = tmp_path_factory.mktemp("mnist")
    mnist_network.train(folder / "model.keras")
    (folder / "scratch").mkdir()
    return ConversionRequest(
        conversion_id=ConversionId("c-mnist"),
        source_path=str(folder / "model.keras"),
        source_format=SourceFormat.KERAS,
        scratch_path=str(folder / "scratch"),
        dataset_path=str(real_data.mnist_dataset(folder / "data")),
        pipeline=real_data.DIGITS_PIPELINE,
        profiles=(GENERIC,),
        cache_path=str(folder / "cache"),
        environments_path=str(ROOT),
    )
