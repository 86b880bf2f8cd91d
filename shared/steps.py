"""The steps that a pipeline may consist of, as they are declared. What they compute is in `shared.runtime`.

A member that a device does not know would silently change its answers, so that steps, unlike messages, refuse it.
Fields that came after a step's first release are `UNSET` by default: they are then not written, and the canonical bytes
of manifests that were signed before stay what they were.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from shared.box_terms import BoxFormat, BoxSizes, BoxUnits, CornerOrder

T = TypeVar("T")

StepId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Reference = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}(:[0-9]{1,3})?$")]
"""An earlier step by its id, `request`, or one of several outputs of a `run_model`, from 0: `detector:2`."""


def given(value: T | UnsetType, default: T) -> T:
    """Return a field's value, or what it means when it is not set."""
    return default if isinstance(value, UnsetType) else value


class ColourMode(StrEnum):
    """Pillow's name of what an image is decoded to."""

    GREY = "L"
    RGB = "RGB"


class ChannelOrder(StrEnum):
    """What the last axis of an image means."""

    GREY = "grey"
    RGB = "rgb"
    BGR = "bgr"
    """As OpenCV has it, and models that were trained with it."""


class Fit(StrEnum):
    """What becomes of an image whose sides have another ratio than the wanted ones."""

    STRETCH = "stretch"
    CROP = "crop"
    """Its middle, as large as the ratio allows."""
    LETTERBOX = "letterbox"
    """The whole image in the middle, and bars of one colour around it."""


class Resampling(StrEnum):
    """How sound gets another sample rate."""

    LINEAR = "linear"
    """A straight line between neighbours: fast; what lies above half of the new rate folds back as noise."""
    POLYPHASE = "polyphase"
    """A windowed-sinc low pass of 16 zero crossings: what folds back is damped by some 60 dB."""


class Window(StrEnum):
    """What a frame of sound is multiplied with before its spectrum is taken; periodic, as TensorFlow's `tf.signal`."""

    NONE = "none"
    HANN = "hann"
    HAMMING = "hamming"


class FrameContent(StrEnum):
    """What is told of a frame of sound."""

    SAMPLES = "samples"
    MAGNITUDES = "magnitudes"
    """`|FFT|`, `fft_length // 2 + 1` bins."""
    LOG_MELS = "log_mels"
    """`ln(mel filters · |FFT| + floor)`."""


class EnsembleMethod(StrEnum):
    """How several opinions become one."""

    MEAN = "mean"
    WEIGHTED = "weighted"
    VOTE = "vote"
    """The share of the opinions that have a class at the top."""


class Reduction(StrEnum):
    """How the numbers along an axis become one."""

    MEAN = "mean"
    MAX = "max"


class _Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What every step may say."""

    id: StepId | UnsetType = UNSET
    """By which later steps and the answer name it; unset: its type, and `type_2` for the second of it."""
    takes: tuple[Reference, ...] | UnsetType = UNSET
    """Whose values it takes; unset: the step before; the first takes the request."""


class DecodeImage(_Step, frozen=True, kw_only=True, tag="decode_image"):
    """JPEG or PNG bytes → `(H, W, C) uint8`, C = 1 for grey and 3 for RGB."""

    colour: ColourMode = ColourMode.RGB
    orient: bool | UnsetType = UNSET
    """Turn the image upright as its EXIF says; unset: no, as training frameworks do not."""
    max_pixels: int | UnsetType = UNSET
    """Larger images are refused unread; unset: 40 million."""


class ResizeImage(_Step, frozen=True, kw_only=True, tag="resize_image"):
    """`(H, W, C) uint8` → `(height, width, C) uint8`, bilinear."""

    height: int
    width: int
    fit: Fit | UnsetType = UNSET
    """Unset: stretch."""
    fill: int | UnsetType = UNSET
    """Of a letterbox's bars, 0..255; unset: 0, black."""


class CropImage(_Step, frozen=True, kw_only=True, tag="crop_image"):
    """A part of an image: its middle of a size in pixels, or a box in shares of its sides."""

    height: int | UnsetType = UNSET
    width: int | UnsetType = UNSET
    box: tuple[float, float, float, float] | UnsetType = UNSET
    """Left, top, right, bottom, each 0..1."""


class Colour(_Step, frozen=True, kw_only=True, tag="colour"):
    """An image, grey or RGB, with other channels."""

    to: ChannelOrder


class Normalise(_Step, frozen=True, kw_only=True, tag="normalise"):
    """Any number → `(x * scale + offset - mean) / std` as float32."""

    scale: float = 1.0
    offset: float = 0.0
    mean: tuple[float, ...] | UnsetType = UNSET
    """For each channel (the last axis), or one for all; unset: 0."""
    std: tuple[float, ...] | UnsetType = UNSET
    """As `mean`; unset: 1."""


class DecodeAudio(_Step, frozen=True, kw_only=True, tag="decode_audio"):
    """WAV bytes (PCM of 8, 16, 24, 32 bits, or float) → `(N,) float32`, -1..1, the mean of the channels."""

    sample_rate_hz: int
    resampling: Resampling = Resampling.POLYPHASE
    samples: int | None = None
    """Cut to so many, or filled up with silence; None: as long as it is."""
    max_seconds: float = 60.0
    """Longer recordings are refused."""


class FrameAudio(_Step, frozen=True, kw_only=True, tag="frame_audio"):
    """`(N,) float32` → `(frames, length)`, `(frames, bins)` or `(frames, mels)`: only whole frames."""

    length: int
    hop: int
    window: Window = Window.NONE
    content: FrameContent = FrameContent.SAMPLES
    fft_length: int | None = None
    """None: the least power of two that holds a frame."""
    sample_rate_hz: int | None = None
    """Of what it is given, for mels; None: what `decode_audio` makes."""
    mels: int = 40
    low_hz: float = 20.0
    high_hz: float = 4000.0
    floor: float = 1e-6
    """Added before the logarithm, which silence would make infinite."""


class Quantise(_Step, frozen=True, kw_only=True, tag="quantise"):
    """Floats → the integers of the model input that takes them, by its scale and zero point; floats for floats.

    Thus one pipeline serves a release's float and full-integer artifacts alike.
    """


class Dequantise(_Step, frozen=True, kw_only=True, tag="dequantise"):
    """A model output → float32, by its scale and zero point; floats stay what they are."""


class RunModel(_Step, frozen=True, kw_only=True, tag="run_model"):
    """One item → the model's outputs for it; the batch axis is added and removed here."""

    model: str | UnsetType = UNSET
    """A component's name; unset or empty: the release's own model."""
    inputs: tuple[str, ...] | UnsetType = UNSET
    """Names of the model's inputs, one for each of `takes`; unset: in the model's order."""
    outputs: tuple[int | str, ...] | UnsetType = UNSET
    """Which of the model's outputs, by place or name, `id:0` being the first of them; unset: the first output alone."""


class Select(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parts of a tensor along an axis."""

    axis: int
    indices: tuple[int, ...]


class Reduce(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number for all along an axis, as one opinion on a recording that a model judges frame by frame."""

    axis: int
    by: Reduction = Reduction.MEAN


class TensorMap(_Step, frozen=True, kw_only=True, tag="tensor_map"):
    """Joins tensors and shapes them anew: `concat`, `select`, `reduce`, `transpose`, `reshape`, in this order.

    Axes are counted without the batch's.
    """

    concat: int | None = None
    """Axis along which all that it takes is joined."""
    select: Select | None = None
    reduce: Reduce | UnsetType = UNSET
    transpose: tuple[int, ...] | None = None
    reshape: tuple[int, ...] | None = None
    """One size may be -1: whatever is left."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a switch takes a branch; both must hold where both are given."""

    label: str | None = None
    """The best label (its number, as text, where there are no names) is this one."""
    min_score: float | None = None
    """The best score is at least so much."""


class Switch(_Step, frozen=True, kw_only=True, tag="switch"):
    """One of several branches: takes what it looks at, then a branch for each case, then the one for all others.

    Only the branch that is taken is computed.
    """

    cases: tuple[Case, ...]


class Ensemble(_Step, frozen=True, kw_only=True, tag="ensemble"):
    """Scores of several models → one opinion, of the same shape."""

    method: EnsembleMethod = EnsembleMethod.MEAN
    weights: tuple[float, ...] = ()
    """For `weighted`: one for each of `takes`, in any unit."""


class Cascade(_Step, frozen=True, kw_only=True, tag="cascade"):
    """The first of several scores that is sure enough, else the last; those behind it are not computed."""

    min_score: float | None = None
    """The best score is at least so much."""
    min_margin: float | None = None
    """The best score is at least so much above the second."""


class FanOut(_Step, frozen=True, kw_only=True, tag="fan_out"):
    """All of several answers, by the ids of their steps; what fails of them says so in its own place."""


class Softmax(_Step, frozen=True, kw_only=True, tag="softmax"):
    """Logits `(K,)` → probabilities `(K,)`."""


class Sigmoid(_Step, frozen=True, kw_only=True, tag="sigmoid"):
    """Logits → probabilities, each by itself."""


class TopLabels(_Step, frozen=True, kw_only=True, tag="top_labels"):
    """Scores `(K,)` → the `count` best labels with their scores, best first."""

    count: int = 3
    labels: tuple[str, ...] | UnsetType = UNSET
    """Names of the scores; unset: the pipeline's."""


class Threshold(_Step, frozen=True, kw_only=True, tag="threshold"):
    """Labels, or boxes → those of at least a score."""

    min_score: float
    otherwise: str | None = None
    """Label that is said where none is left; None: none. Not for boxes."""


class AnchorLayer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anchors of one feature map: in every cell, at its middle, one of each size; row by row."""

    rows: int
    columns: int
    sizes: tuple[tuple[float, float], ...]
    """Height and width, in shares of the image."""


class DetectBoxes(_Step, frozen=True, kw_only=True, tag="detect_boxes"):
    """A detector's outputs → boxes, best first, of which no two of a class overlap more than said."""

    format: BoxFormat
    order: CornerOrder = CornerOrder.YXYX
    """For `corners`; and whether the offsets of `ssd` are dy, dx, dh, dw (`yxyx`) or dx, dy, dw, dh (`xyxy`)."""
    units: BoxUnits = BoxUnits.NORMALISED
    """Of what the model says: shares, or pixels of the image that it was fed. Not for `ssd`."""
    objectness: bool = False
    """For `yolo`: the fifth number is how sure the model is of any object, and multiplies the classes' scores."""
    background: bool = False
    """Class 0 is "nothing", and has no label."""
    anchors: tuple[AnchorLayer, ...] = ()
    """For `ssd`, in the model's order."""
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """For `ssd`: what dy, dx, dh, dw are multiplied with."""
    sizes: BoxSizes | UnsetType = UNSET
    """For `ssd`; unset: exponential."""
    min_score: float = 0.5
    max_overlap: float = 0.5
    """Intersection over union (0..1) above which the less sure of two boxes is dropped."""
    per_class: bool = True
    """Boxes of different classes may overlap as they like."""
    count: int = 100
    answer: BoxUnits = BoxUnits.PIXELS
    """In pixels or in shares of the image as it was sent."""
    labels: tuple[str, ...] | UnsetType = UNSET
    """Names of the classes; unset: the pipeline's."""


class Segment(_Step, frozen=True, kw_only=True, tag="segment"):
    """Scores `(H, W, classes)` or classes `(H, W)` → what covers which part of the image, the largest first."""

    background: int | None = None
    """Class that is not told."""
    min_share: float = 0.0
    """Of the image (0..1), below which a class is not told."""
    runs: bool = True
    """Say which pixels, too: pairs of start and length in the mask, row by row."""
    labels: tuple[str, ...] | UnsetType = UNSET
    """Names of the classes; unset: the pipeline's."""


class Json(_Step, frozen=True, kw_only=True, tag="json"):
    """The answer's own shape: an object with what it takes under other names."""

    keys: tuple[str, ...]
    """One for each of `takes`."""
    digits: int | None = None
    """Decimals to which numbers are rounded; None: all."""


Step = (
    DecodeImage
    | ResizeImage
    | CropImage
    | Colour
    | Normalise
    | DecodeAudio
    | FrameAudio
    | Quantise
    | Dequantise
    | RunModel
    | TensorMap
    | Switch
    | Ensemble
    | Cascade
    | FanOut
    | Softmax
    | Sigmoid
    | TopLabels
    | Threshold
    | DetectBoxes
    | Segment
    | Json
)


def type_of(step: Step) -> str:
    """Return the name by which a step's type is declared."""
    return str(step.__struct_config__.tag)
