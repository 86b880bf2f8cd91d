"""What is asked of a model and what it answered, in no protocol's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.errors import PipelineError
    from shared.runtime.values import Answer, LabelScore

    Tensor = NDArray[Any]

MAX_ITEMS: Final = 256
"""Images or sounds in one request: they are answered one after the other, by one worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTensor:
    """One input or output, by name."""

    name: str
    array: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """Tensors for the model, the batch axis first."""

    inputs: tuple[NamedTensor, ...]

    @property
    def rows(self) -> int:
        """How many items the batch has."""
        shape = self.inputs[0].array.shape if self.inputs else ()
        return int(shape[0]) if shape else 1

    @property
    def size_bytes(self) -> int:
        """What it holds in memory while it waits."""
        return sum(each.array.nbytes for each in self.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyRequest:
    """An encoded image or sound, or several."""

    encoded: bytes
    """The first of them, and mostly the only one."""
    others: tuple[bytes, ...] = ()
    apart: bool = False
    """Each item is answered for by itself, so that one that nobody can read fails alone; else it fails the request."""

    @staticmethod
    def of(items: Sequence[bytes], *, apart: bool = False) -> ClassifyRequest:
        """Return a request for one item or more."""
        return ClassifyRequest(encoded=items[0], others=tuple(items[1:]), apart=apart)

    @property
    def items(self) -> tuple[bytes, ...]:
        """All of them, in order."""
        return (self.encoded, *self.others)

    @property
    def rows(self) -> int:
        """How many items there are."""
        return 1 + len(self.others)

    @property
    def size_bytes(self) -> int:
        """What it holds in memory while it waits."""
        return sum(map(len, self.items))


Request = InferRequest | ClassifyRequest


class Moments(NamedTuple):
    """When a run did what, in seconds of the monotonic clock. A tuple, since one is made for every request."""

    began_s: float
    """A thread took the request."""
    invoked_s: float
    """The model was first invoked."""
    ended_s: float
    """The last invocation ended."""
    runs: int
    """How often the model was invoked: a batch may be cut into pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of a model gave, and what it took."""

    outputs: tuple[NamedTensor, ...]
    labels: tuple[LabelScore, ...]
    """Of the first image or sound; empty where the pipeline names none."""
    top: str
    """The first item's best label (or its index); empty when the model is no classifier."""
    confidence: float | None
    """The best score of the first item when all are 0..1, of a classifier."""
    values: Tensor
    """All that was said of the first item, flat, as float64; empty for text."""
    invoke_ms: float
    """Inside the interpreter, by the clock on the wall."""
    compute_ms: float
    """Pipeline and interpreter in CPU time of the thread that ran them: what comparisons use, since neither a wait
    for the GIL nor a busy neighbour on the device is counted. In a batch both are the request's share of the whole."""
    moments: Moments
    items: tuple[Answer | PipelineError, ...] = ()
    """Of encoded images or sounds: what was said of each; an error only where they were asked for apart."""
    batch: int = 1
    """Rows that were answered together with this request's own, those of other requests included; 1: it ran alone."""
