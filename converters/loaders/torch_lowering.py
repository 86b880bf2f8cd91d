"""A PyTorch module made a float `.tflite` by litert-torch, which goes by StableHLO and needs no TensorFlow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converters.failures import SchemeFailedError, UnsupportedOperatorError
from converters.loaders.free_batch import PROBED_BATCHES, free_batch
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Module = Any
"""A `torch.nn.Module`; the environment of this module's checks has no PyTorch."""

_NOT_LOWERED = re.compile(r"Lowering not found: (?:aten\.)?([\w.]+?)(?:\.default)?\s")
_AT_NODE = re.compile(r"target=torch\.ops\.aten\.(\w+)")
_WRONG_BATCH = re.compile(r"invalid for input of size|must match the size|cannot be multiplied|Attempting to broadcast")
_LOWERING_ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, KeyError, IndexError)
"""What torch.export and litert-torch raise at a graph that they cannot follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One input of a module, in the module's own layout."""

    shape: tuple[int, ...]
    """Without the batch, which comes first."""
    dtype: str
    image: bool
    """Channels first in the module, last in the `.tflite`."""


def to_tflite(module_for: Callable[[int], Module], entries: Sequence[Entry], batch: int | None) -> bytes:
    """Return the module for a batch as a float `.tflite`; None leaves the batch free.

    Raises:
        InvalidInputError: the graph holds on to a batch that it was made with.
        UnsupportedOperatorError: names the operator that `.tflite` models do not have.
        SchemeFailedError: the graph cannot be brought over for another reason.
    """
    if batch is None:
        # litert-torch cannot follow a free batch through flatten, padding and more; any fixed one it can.
        small, large = PROBED_BATCHES
        return free_batch(_fixed(module_for(small), entries, small), _fixed(module_for(large), entries, large))
    return _fixed(module_for(batch), entries, batch)


def _fixed(module: Module, entries: Sequence[Entry], batch: int) -> bytes:
    import litert_torch
    import torch

    shapes = [(batch, *_outer(entry)) for entry in entries]
    samples = tuple(
        torch.zeros(shape, dtype=getattr(torch, entry.dtype)) for shape, entry in zip(shapes, entries, strict=True)
    )
    images = [index for index, entry in enumerate(entries) if entry.image]
    wrapped = litert_torch.to_channel_last_io(module, args=images) if images else module
    for part in wrapped.modules():
        # Not eval(), which an exported program refuses, although its training-only operators are gone.
        part.training = False
    try:
        model = litert_torch.convert(wrapped, samples)
    except _LOWERING_ERRORS as exc:
        raise _explained(exc) from exc
    content = model.model_content
    return bytes(content() if callable(content) else content)


def _outer(entry: Entry) -> tuple[int, ...]:
    return (*entry.shape[1:], entry.shape[0]) if entry.image else entry.shape


def _explained(error: Exception) -> Exception:
    text = str(error)
    if found := _NOT_LOWERED.search(text):
        return UnsupportedOperatorError(f"TensorFlow Lite has no operator for {found[1]}")
    # Operators whose result has a size that the data decides: nonzero, unique, masks as indices.
    if "Concretization" in type(error).__name__:
        found = _AT_NODE.search(text)
        return UnsupportedOperatorError(f"the size of what {found[1] if found else 'an operator'} gives is not fixed")
    if "failed to legalize operation" in text:
        return UnsupportedOperatorError(f"TensorFlow Lite has no operator for this: {_line_with('legalize', text)}")
    if found := _WRONG_BATCH.search(text):
        return InvalidInputError(
            field="batch",
            problem=f"the model holds on to the batch that it was exported with: {_line_with(found[0], text)}",
            remedy="export it for the batch that it shall have, or with a free one (torch.export.Dim)",
        )
    return SchemeFailedError(f"litert-torch cannot convert it: {_first_line(text) or type(error).__name__}")


def _line_with(word: str, text: str) -> str:
    return next((line for line in text.splitlines() if word in line), text)[:300]


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300]
