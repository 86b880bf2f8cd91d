"""The contract between `python -m converters` and the worker of one front end, in lines of JSON.

A FrontendRequest on the worker's stdin is answered by FrontendProgress lines and one FloatModel or FrontendFailure;
after a FloatModel each AnswerRequest is answered by Answers or a FrontendFailure. The end of stdin ends the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from shared.conversion import FailureKind, SourceFormat
from shared.manifest import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

MAX_DIFFERENCE = 1e-5
"""Largest difference of any answer of the float model from its source's, as a share of the larger of 1 and the largest
answer, and never more than a hundredth of the latter. Measured: 4e-7 to 7e-6. A model whose own answers move by more
when its inputs move by one rounding may differ by as much (see converters.frontends.agreement)."""


class FrontendRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to make a float model of."""

    source_path: str
    source_format: SourceFormat
    scratch_path: str
    """An empty folder of this request alone; the float model is left there."""
    batch: int | None = 1
    """Fixed batch of the float model; None leaves it free."""
    threads: int = 1


class FrontendProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Where the work stands."""

    step: str
    """`open source`, `convert`, `check float model`, in this order."""


class FloatModel(msgspec.Struct, frozen=True, kw_only=True, tag="float_model"):
    """A float `.tflite` that loads, runs, and answers as its source does."""

    model_path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    """Of the source, as its framework counts them."""
    operators_before: dict[str, int]
    """Layers or operators of the source by kind, training-only ones included."""
    operators_after: dict[str, int]
    """Operators of the float model by kind."""
    removed: tuple[str, ...] = ()
    """Training-only parts of the source that are not in the float model."""
    max_abs_diff: float = 0.0
    """Largest difference from the source's answers on the worker's own inputs."""
    quantized: bool = False
    """The source is a `.tflite` that is quantized already: passed through as it is, only to be gated."""
    labels: tuple[str, ...] = ()
    """What the columns of the first output stand for, where the source knows; scikit-learn's `classes_`."""
    worker: str
    """Framework and version: `tensorflow 2.21.0, keras 3.15.1`."""
    seconds: float
    peak_memory_bytes: int


class AnswerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the source framework for its own answers."""

    inputs_path: str
    """`.npz` with `input_0 (N, …)`, `input_1 (N, …)`, … in the float model's order, layout and dtype."""
    answers_path: str
    """Where to leave `.npz` with `output_0 (N, …)`, …"""


class Answers(msgspec.Struct, frozen=True, kw_only=True, tag="answers"):
    """The source framework has answered."""

    answers_path: str
    max_abs_diff: float
    """Largest difference of the float model's answers from the source's, on those inputs."""


class FrontendFailure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """Why there is no float model, or no answers."""

    kind: FailureKind
    message: str


FrontendLine = FrontendProgress | FloatModel | Answers | FrontendFailure


class Source(Protocol):
    """A model that its own framework has opened: what every module in `converters.loaders` makes of a path.

    Such a module offers `open_source(path: Path, scratch: Path) -> Source`; `scratch` is a folder for whatever it must
    unpack. It raises InvalidInputError for what the user can mend, UnsupportedOperatorError and SchemeFailedError
    likewise in `to_tflite`, and lets everything unforeseen through.
    """

    @property
    def name(self) -> str:
        """Framework and version."""
        ...

    @property
    def parameters(self) -> int:
        """Numbers that were trained, or kept from training."""
        ...

    @property
    def operators(self) -> Mapping[str, int]:
        """Layers or operators by kind, training-only ones included."""
        ...

    @property
    def removed(self) -> Sequence[str]:
        """Training-only parts that `to_tflite` leaves out."""
        ...

    def to_tflite(self, batch: int | None) -> bytes:
        """Return a float32 model, for a fixed batch or for any, without what only training needs."""
        ...

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer as at inference, by the source framework itself.

        `inputs` have the float model's order, layout and dtype, batch axis first; so have the answers. Any number of
        items may come, whatever batch the float model was made for.
        """
        ...
