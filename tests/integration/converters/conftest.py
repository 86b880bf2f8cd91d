from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from shared.conversion import ConversionRequest, SourceFormat
from shared.hardware import GENERIC
from shared.ids import ConversionId
from shared.pipeline import MODEL_ONLY, PipelineSpec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

# Read when TensorFlow is imported, which the first test that needs it does.
os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """A folder with what a conversion needs; labels are what the model itself answers unless others are given."""

    folder: Path

    def request(
        self,
        model: Any,  # noqa: ANN401 - a Keras model; Keras ships no types
        items: Tensor,
        *,
        labels: Tensor | None = None,
        calibration: Tensor | None = None,
        pipeline: PipelineSpec = MODEL_ONLY,
        scale: float = 1.0,
    ) -> ConversionRequest:
        """Save model and data, and return the request to convert them."""
        model.save(self.folder / "model.keras")
        if labels is None:
            labels = np.asarray(model(items.astype(np.float32) * scale, training=False)).argmax(axis=1)
        return self.request_of_file(items, labels, calibration=calibration, pipeline=pipeline)

    def request_of_file(
        self,
        items: Tensor,
        labels: Tensor,
        *,
        calibration: Tensor | None = None,
        pipeline: PipelineSpec = MODEL_ONLY,
    ) -> ConversionRequest:
        """Save the data, and return the request to convert the `model.keras` that lies there already."""
        # Near the evaluation, and none of it: what calibrates may not judge.
        near = (items * 0.99).astype(items.dtype) if calibration is None else calibration
        np.savez(self.folder / "calibration.npz", x=near)
        np.savez(self.folder / "evaluation.npz", x=items, y=labels)
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return ConversionRequest(
            conversion_id=ConversionId("c-1"),
            source_path=str(self.folder / "model.keras"),
            source_format=SourceFormat.KERAS,
            scratch_path=str(scratch),
            calibration_path=str(self.folder / "calibration.npz"),
            evaluation_path=str(self.folder / "evaluation.npz"),
            pipeline=pipeline,
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
        calibration_path=str(folder / "calibration.npz"),
        evaluation_path=str(folder / "evaluation.npz"),
        pipeline=PIPELINE,
        profiles=(GENERIC,),
    )
