"""What the parameters of each step must be: each rule names the field, and mostly what would mend it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from shared.box_terms import BoxFormat
from shared.errors import InvalidInputError
from shared.steps import (
    Cascade,
    CropImage,
    DecodeAudio,
    DecodeImage,
    DetectBoxes,
    Ensemble,
    EnsembleMethod,
    Fit,
    FrameAudio,
    Json,
    Normalise,
    ResizeImage,
    RunModel,
    Segment,
    Step,
    Switch,
    TensorMap,
    Threshold,
    TopLabels,
    given,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SIDE = 8192
MAX_IMAGE_PIXELS = 40_000_000
"""Larger images are refused before their pixels are read: a small file can claim gigabytes. Most cameras make 8 to 24
million; this many take 120 MB decoded."""
MAX_AUDIO_S, MAX_RATE_HZ = 600.0, 192_000
MAX_AUDIO_SAMPLES = 12_000_000
"""What a recording may become, 48 MB: one of 600 bytes can claim ten minutes, which at the highest rate are half a
gigabyte. Ten minutes for speech at 16 kHz, four for music."""
MAX_FRAME, MAX_MELS = 65_536, 512
MAX_ANCHORS, MAX_BOXES = 200_000, 1000
_MAX_AXES, _MAX_CHANNELS, _MAX_SELECTED, _MAX_DIGITS = 6, 1024, 65_536, 12


def check_parameters(step: Step, labels: Sequence[str], field: str) -> None:  # noqa: C901, PLR0912 - a table of rules
    """Refuse a step whose own parameters cannot be; `labels` are the pipeline's. Raises InvalidInputError."""
    match step:
        case DecodeImage():
            _within(given(step.max_pixels, MAX_IMAGE_PIXELS), 1, MAX_IMAGE_PIXELS, f"{field}.max_pixels")
        case ResizeImage():
            _resize(step, field)
        case CropImage():
            _crop(step, field)
        case Normalise():
            _normalise(step, field)
        case DecodeAudio():
            _decode_audio(step, field)
        case FrameAudio():
            _frame_audio(step, field)
        case RunModel():
            _run_model(step, field)
        case TensorMap():
            _tensor_map(step, field)
        case Switch():
            _switch(step, field)
        case Ensemble():
            _ensemble(step, field)
        case Cascade():
            _cascade(step, field)
        case TopLabels():
            _top_labels(step, labels, field)
        case Threshold():
            _finite(step.min_score, f"{field}.min_score")
        case DetectBoxes():
            _detect_boxes(step, field)
        case Segment():
            _share(step.min_share, f"{field}.min_share")
            _at_least(step.background or 0, 0, f"{field}.background")
        case Json():
            _json(step, field)
        case _:
            # Without parameters, or with an enumeration that the decoder has checked.
            return


def _within(value: float, least: float, most: float, field: str) -> None:
    # So written that NaN is refused.
    if not least <= value <= most:
        raise InvalidInputError(field=field, problem=f"{value:g} is not within {least:g}..{most:g}")


def _at_least(value: float, least: float, field: str) -> None:
    if not (value >= least and math.isfinite(value)):
        raise InvalidInputError(field=field, problem=f"{value:g} must be at least {least:g}")


def _share(value: float, field: str) -> None:
    _within(value, 0, 1, field)


def _finite(value: float, field: str) -> None:
    if not math.isfinite(value):
        raise InvalidInputError(field=field, problem=f"{value} must be finite")


def _resize(step: ResizeImage, field: str) -> None:
    if not (1 <= step.height <= MAX_SIDE and 1 <= step.width <= MAX_SIDE):
        raise InvalidInputError(field=field, problem=f"height and width must be 1..{MAX_SIDE}")
    fill = given(step.fill, None)
    if fill is not None and given(step.fit, Fit.STRETCH) is not Fit.LETTERBOX:
        raise InvalidInputError(field=f"{field}.fill", problem="only a letterbox has bars", remedy="fit: letterbox")
    _within(fill or 0, 0, 255, f"{field}.fill")


def _crop(step: CropImage, field: str) -> None:
    height, width, box = given(step.height, None), given(step.width, None), given(step.box, None)
    if (height is None) != (width is None) or (height is None) == (box is None):
        remedy = "height and width in pixels for the middle, or box: [left, top, right, bottom] in shares"
        raise InvalidInputError(field=field, problem="says not what to cut out, or says it twice", remedy=remedy)
    if box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            remedy = "0 <= left < right <= 1 and 0 <= top < bottom <= 1"
            raise InvalidInputError(field=f"{field}.box", problem="is empty or outside of the image", remedy=remedy)
    elif not (1 <= (height or 0) <= MAX_SIDE and 1 <= (width or 0) <= MAX_SIDE):
        raise InvalidInputError(field=field, problem=f"height and width must be 1..{MAX_SIDE}")


def _normalise(step: Normalise, field: str) -> None:
    if not (math.isfinite(step.scale) and math.isfinite(step.offset)):
        raise InvalidInputError(field=field, problem="scale and offset must be finite")
    # Every item would be the same to the model: a slip such as 1 // 255, which no accuracy gate sees, since source and
    # artifact then guess alike.
    if step.scale == 0:
        raise InvalidInputError(field=field, problem="scale is 0", remedy="to bring bytes to 0..1: 0.00392156862745098")
    mean, std = given(step.mean, (0.0,)), given(step.std, (1.0,))
    for name, values in (("mean", mean), ("std", std)):
        if not 1 <= len(values) <= _MAX_CHANNELS or not all(map(math.isfinite, values)):
            problem = "takes a finite number for each channel, or one for all"
            raise InvalidInputError(field=f"{field}.{name}", problem=problem)
    # As what a float32 holds: a reciprocal beyond it would be an infinity.
    if any(abs(value) < 1e-30 for value in std):  # noqa: PLR2004 - see above
        raise InvalidInputError(field=f"{field}.std", problem="is 0", remedy="leave it out where nothing is divided")
    if 1 not in {len(mean), len(std)} and len(mean) != len(std):
        raise InvalidInputError(field=field, problem=f"mean has {len(mean)} channels and std {len(std)}")


def _decode_audio(step: DecodeAudio, field: str) -> None:
    _within(step.sample_rate_hz, 1000, MAX_RATE_HZ, f"{field}.sample_rate_hz")
    _within(step.max_seconds, 0.001, MAX_AUDIO_S, f"{field}.max_seconds")
    if step.max_seconds * step.sample_rate_hz > MAX_AUDIO_SAMPLES:
        problem = f"{step.max_seconds:g} s at {step.sample_rate_hz} Hz are more than {MAX_AUDIO_SAMPLES} samples"
        remedy = f"at most {MAX_AUDIO_SAMPLES / step.sample_rate_hz:.0f} s, or a lower rate"
        raise InvalidInputError(field=f"{field}.max_seconds", problem=problem, remedy=remedy)
    if step.samples is not None:
        _within(step.samples, 1, MAX_AUDIO_SAMPLES, f"{field}.samples")


def _frame_audio(step: FrameAudio, field: str) -> None:
    _within(step.length, 1, MAX_FRAME, f"{field}.length")
    _within(step.hop, 1, MAX_FRAME, f"{field}.hop")
    if step.fft_length is not None:
        if step.fft_length < step.length:
            problem = f"{step.fft_length} holds no frame of {step.length}"
            raise InvalidInputError(field=f"{field}.fft_length", problem=problem)
        _within(step.fft_length, 1, MAX_FRAME, f"{field}.fft_length")
    if step.sample_rate_hz is not None:
        _within(step.sample_rate_hz, 1000, MAX_RATE_HZ, f"{field}.sample_rate_hz")
    _within(step.mels, 1, MAX_MELS, f"{field}.mels")
    if not 0 <= step.low_hz < step.high_hz or not math.isfinite(step.high_hz):
        raise InvalidInputError(field=field, problem="low_hz must be at least 0 and below high_hz")
    if not (step.floor > 0 and math.isfinite(step.floor)):
        raise InvalidInputError(field=f"{field}.floor", problem="must be above 0, or silence is infinite")


def _run_model(step: RunModel, field: str) -> None:
    outputs, inputs = given(step.outputs, (0,)), given(step.inputs, None)
    if not outputs or len(set(outputs)) < len(outputs):
        raise InvalidInputError(field=f"{field}.outputs", problem="is empty or names an output twice")
    if any(isinstance(each, int) and each < 0 for each in outputs):
        raise InvalidInputError(field=f"{field}.outputs", problem="counts from 0")
    if inputs is None:
        return
    if len(set(inputs)) < len(inputs) or len(inputs) != len(given(step.takes, ("",))):
        raise InvalidInputError(field=f"{field}.inputs", problem="must name one input for each of takes")


def _tensor_map(step: TensorMap, field: str) -> None:
    joins = len(given(step.takes, ("",))) > 1
    if joins != (step.concat is not None):
        problem = "takes several values" if joins else "has nothing to join"
        raise InvalidInputError(
            field=f"{field}.concat", problem=problem, remedy="concat: the axis, if it takes several"
        )
    reduce = given(step.reduce, None)
    if (step.concat, step.select, reduce, step.transpose, step.reshape) == (None,) * 5:
        remedy = "give concat, select, reduce, transpose or reshape"
        raise InvalidInputError(field=field, problem="does nothing", remedy=remedy)
    axes = {
        "concat": step.concat,
        "select.axis": step.select.axis if step.select is not None else None,
        "reduce.axis": reduce.axis if reduce is not None else None,
    }
    for name, axis in axes.items():
        _within(axis or 0, -_MAX_AXES, _MAX_AXES - 1, f"{field}.{name}")
    if step.select is not None and not 1 <= len(step.select.indices) <= _MAX_SELECTED:
        raise InvalidInputError(field=f"{field}.select.indices", problem=f"must name 1..{_MAX_SELECTED} places")
    if step.transpose is not None and sorted(step.transpose) != list(range(len(step.transpose))):
        raise InvalidInputError(field=f"{field}.transpose", problem="must name each axis once, from 0")
    if step.reshape is not None:
        _reshape(step.reshape, f"{field}.reshape")


def _reshape(sizes: tuple[int, ...], field: str) -> None:
    whole = [size for size in sizes if size != -1]
    if not 1 <= len(sizes) <= _MAX_AXES or len(sizes) - len(whole) > 1 or any(size < 1 for size in whole):
        raise InvalidInputError(field=field, problem=f"takes up to {_MAX_AXES} sizes above 0, one of which may be -1")


def _switch(step: Switch, field: str) -> None:
    takes = len(given(step.takes, ()))
    if not step.cases or takes != len(step.cases) + 2:
        problem = f"has {len(step.cases)} cases and takes {takes} values"
        remedy = "takes: what it looks at, a branch for each case, and the one for all others"
        raise InvalidInputError(field=field, problem=problem, remedy=remedy)
    for number, case in enumerate(step.cases):
        if case.label is None and case.min_score is None:
            remedy = "give label, min_score or both"
            raise InvalidInputError(field=f"{field}.cases[{number}]", problem="always holds", remedy=remedy)
        _finite(case.min_score or 0.0, f"{field}.cases[{number}].min_score")


def _ensemble(step: Ensemble, field: str) -> None:
    weighted, takes = step.method is EnsembleMethod.WEIGHTED, len(given(step.takes, ()))
    if weighted != bool(step.weights) or (weighted and len(step.weights) != takes):
        problem = f"has {len(step.weights)} weights for {takes} values and method {step.method}"
        raise InvalidInputError(field=f"{field}.weights", problem=problem, remedy="one each, for method weighted only")
    for weight in step.weights:
        _at_least(weight, 0, f"{field}.weights")
    if weighted and not sum(step.weights) > 0:
        raise InvalidInputError(field=f"{field}.weights", problem="are all 0")


def _cascade(step: Cascade, field: str) -> None:
    if step.min_score is None and step.min_margin is None:
        problem = "says not when the first is sure enough"
        raise InvalidInputError(field=field, problem=problem, remedy="give min_score, min_margin or both")
    _finite(step.min_score or 0.0, f"{field}.min_score")
    _at_least(step.min_margin or 0.0, 0, f"{field}.min_margin")


def _top_labels(step: TopLabels, labels: Sequence[str], field: str) -> None:
    if step.count < 1:
        raise InvalidInputError(field=field, problem="count must be at least 1")
    if not given(step.labels, tuple(labels)):
        raise InvalidInputError(field="pipeline.labels", problem="top_labels needs labels")


def _detect_boxes(step: DetectBoxes, field: str) -> None:
    is_ssd, takes = step.format is BoxFormat.SSD, len(given(step.takes, ("",)))
    wanted = {BoxFormat.YOLO: {1}, BoxFormat.SSD: {2}, BoxFormat.CORNERS: {2, 3, 4}}[step.format]
    if takes not in wanted:
        problem, remedy = f"{step.format} takes {' or '.join(map(str, sorted(wanted)))} values, not {takes}", ""
        raise InvalidInputError(field=f"{field}.takes", problem=problem, remedy=remedy)
    if is_ssd != bool(step.anchors):
        problem = "ssd needs anchors" if is_ssd else f"{step.format} has no anchors"
        raise InvalidInputError(field=f"{field}.anchors", problem=problem)
    if given(step.sizes, None) is not None and not is_ssd:
        raise InvalidInputError(field=f"{field}.sizes", problem=f"{step.format} has no anchors to be sized by")
    if step.objectness and step.format is not BoxFormat.YOLO:
        raise InvalidInputError(field=f"{field}.objectness", problem=f"{step.format} has none")
    _anchors(step, field)
    _share(step.min_score, f"{field}.min_score")
    _share(step.max_overlap, f"{field}.max_overlap")
    _within(step.count, 1, MAX_BOXES, f"{field}.count")
    for variance in step.variances:
        if not (variance > 0 and math.isfinite(variance)):
            raise InvalidInputError(field=f"{field}.variances", problem="must be above 0")


def _anchors(step: DetectBoxes, field: str) -> None:
    count = 0
    for number, layer in enumerate(step.anchors):
        where = f"{field}.anchors[{number}]"
        if min(layer.rows, layer.columns, len(layer.sizes)) < 1:
            raise InvalidInputError(field=where, problem="rows, columns and sizes must be at least 1")
        for size in layer.sizes:
            if not all(0 < side <= 10 for side in size):  # noqa: PLR2004 - anchors may be larger than the image, a bit
                raise InvalidInputError(field=f"{where}.sizes", problem="heights and widths are shares of the image")
        count += layer.rows * layer.columns * len(layer.sizes)
    if count > MAX_ANCHORS:
        raise InvalidInputError(field=f"{field}.anchors", problem=f"are {count}, more than {MAX_ANCHORS}")


def _json(step: Json, field: str) -> None:
    if len(set(step.keys)) < len(step.keys) or len(step.keys) != len(given(step.takes, ("",))):
        raise InvalidInputError(field=f"{field}.keys", problem="must be one for each of takes, each another")
    if step.digits is not None:
        _within(step.digits, 0, _MAX_DIGITS, f"{field}.digits")
