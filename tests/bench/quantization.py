"""What each recipe keeps of a float model's answers: `python tests/bench/quantization.py MODEL.tflite CROPS.npz`.

CROPS holds `calibration`, `search` and `gate`, uint8 images, `scale` and `offset` of the normalisation, and the
photograph that each image was cut from (`calibration_photo`, `gate_photo`). A row has megabytes, agreement with the
float model, agreement where it is more than half sure, signal-to-noise ratio of the answers, and seconds to make.
`--baseline` adds the quantizer's own calibration; `--other-photos` calibrates on one half of the photographs and judges
on the other.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.quantization import restamp, sensitivity
from converters.quantization.quantize import quantize
from shared.conversion import CalibrationMethod, Recipe
from shared.manifest import Scheme
from shared.runtime.interpreter import LiteRtInterpreter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_SURE = 0.5
_MIXED_STEPS = (2, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photographs:
    """Images as the model takes them."""

    calibration: Tensor
    search: Tensor
    gate: Tensor


def load(path: Path, *, other_photos: bool) -> Photographs:
    """Read and normalise the images."""
    with np.load(path) as crops:
        scale, offset = np.float32(crops["scale"]), np.float32(crops["offset"])
        calibration, gate = crops["calibration"], crops["gate"]
        if other_photos:
            calibration, gate = calibration[crops["calibration_photo"] % 2 == 0], gate[crops["gate_photo"] % 2 == 1]
        parts = {"calibration": calibration, "search": crops["search"], "gate": gate}
    return Photographs(**{name: part.astype(np.float32) * scale + offset for name, part in parts.items()})


def answers(model: bytes, images: Tensor) -> Tensor:
    """Return the model's answers, one image at a time."""
    interpreter = LiteRtInterpreter(model, threads=2)
    return np.concatenate([interpreter.run([image[np.newaxis]])[0] for image in images])


def row(name: str, model: bytes, right: Tensor, photographs: Photographs, seconds: float) -> str:
    """Judge one file."""
    given = answers(model, photographs.gate)
    powers = np.exp(right - right.max(axis=1, keepdims=True))
    sure = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1) > _SURE
    same = right.argmax(axis=1) == given.argmax(axis=1)
    ratio = sensitivity.snr_db(right, given)
    return (
        f"{name:44} {len(model) / 1e6:6.2f} {same.mean() * 100:6.1f} {same[sure].mean() * 100:6.1f}"
        f" {ratio:6.1f} {seconds:6.1f}"
    )


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Yield what is compared, without those that need a ranking."""
    for method in CalibrationMethod:
        yield f"full_int8, {method}", Recipe(scheme=Scheme.FULL_INT8, calibration=method)
        corrected = Recipe(scheme=Scheme.FULL_INT8, calibration=method, correct_bias=True)
        yield f"full_int8, {method}, bias corrected", corrected
    yield "full_int8, bias corrected, equalised", Recipe(scheme=Scheme.FULL_INT8, correct_bias=True, equalise=True)
    for scheme in (Scheme.FLOAT16, Scheme.WEIGHT_INT8, Scheme.DYNAMIC_INT8):
        yield scheme.value, Recipe(scheme=scheme)
    for scheme in (Scheme.WEIGHT_INT8, Scheme.DYNAMIC_INT8, Scheme.BLOCK_INT4, Scheme.WEIGHT_INT4):
        yield f"{scheme}, bias corrected", Recipe(scheme=scheme, correct_bias=True)
    yield "dynamic_int8, one scale a tensor", Recipe(scheme=Scheme.DYNAMIC_INT8, per_tensor=True)


def mixed(model: bytes, photographs: Photographs) -> Iterator[tuple[str, Recipe]]:
    """Yield mixtures that keep the layers with the most error for their size."""
    ranked = sensitivity.rank(model, list(photographs.calibration), list(photographs.search))
    order = sorted(ranked, key=lambda layer: 10 ** (layer.snr_db / 10) * layer.weights)
    for kept in _MIXED_STEPS:
        names = tuple(layer.output_tensor for layer in order[:kept])
        yield (
            f"mixed, {kept} layers float16, bias corrected",
            Recipe(scheme=Scheme.MIXED, kept_float=names, correct_bias=True),
        )
        yield (
            f"full_int8, {kept} layers float, bias corrected",
            Recipe(scheme=Scheme.FULL_INT8, kept_float=names, correct_bias=True),
        )


def slow() -> Iterator[tuple[str, Recipe]]:
    """Yield what no fast kernel computes, and so comes last."""
    yield "int16x8, bias corrected", Recipe(scheme=Scheme.INT16X8, correct_bias=True)


def baseline(model: bytes, photographs: Photographs) -> bytes:
    """Return full int8 by the quantizer's own calibration: a moving average of the images' ranges."""
    from litert_quantizer.qtyping import TFLOperationName
    from litert_quantizer.quantizer import AlgorithmName, Quantizer

    quantizer = Quantizer(model)
    quantizer.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, 8, 8)
    for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        quantizer.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    data = [{"args_0": image[np.newaxis]} for image in photographs.calibration]
    measured = quantizer.calibrate({"serving_default": data}, num_threads=1)
    return restamp.restamp(bytes(quantizer.quantize(measured, enable_progress_report=False).quantized_model))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare recipes on one model.")
    parser.add_argument("model", type=Path)
    parser.add_argument("crops", type=Path)
    parser.add_argument("--baseline", action="store_true", help="also the quantizer's own calibration")
    parser.add_argument("--other-photos", action="store_true", help="judge on photographs that calibrated nothing")
    options = parser.parse_args()
    model, photographs = options.model.read_bytes(), load(options.crops, other_photos=options.other_photos)
    right = answers(model, photographs.gate)
    head = f"{'recipe':44} {'MB':>6} {'agree':>6} {'sure':>6} {'dB':>6} {'s':>6}"
    print(f"{len(right)} images\n{head}", flush=True)  # noqa: T201 - the table is what it is for
    if options.baseline:
        made = baseline(model, photographs)
        print(row("full_int8, moving average", made, right, photographs, 0.0), flush=True)  # noqa: T201 - likewise
    for plans in (recipes(), mixed(model, photographs), slow()):
        for name, recipe in plans:
            begin = time.perf_counter()
            made = quantize(model, recipe, list(photographs.calibration))
            spent = time.perf_counter() - begin
            print(row(name, made, right, photographs, spent), flush=True)  # noqa: T201 - likewise


if __name__ == "__main__":
    main()
