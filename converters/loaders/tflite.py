"""A `.tflite` as the source: verified, its float16 weights unpacked; a quantized one passes through as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.frontends import operators
from converters.inspect import describe
from converters.quantization import half_weights
from shared.errors import InvalidInputError
from shared.runtime.interpreter import Kernels, LiteRtInterpreter, runtime_name_and_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_INTEGER_WEIGHTS = frozenset({"int16", "int4", "int8", "uint8"})


class TfliteSource:
    """A model file that somebody else made."""

    def __init__(self, model: bytes) -> None:
        """Verify and load.

        Raises:
            ModelLoadError: the graph leads the runtime astray, or the runtime refuses it.
            UnsupportedOperatorError: it needs code that no runtime has; names it.
        """
        # The verifier refuses these too, but as one that may not know their names.
        operators.check_served(operators.histogram(model), stateful=True)
        # Not the kernels that will serve, so that comparing shows something; the portable ones take twenty times as
        # long as these.
        self._interpreter = LiteRtInterpreter(model, threads=1, kernels=Kernels.PLAIN)
        self._model, self._facts = model, describe(model)

    @property
    def name(self) -> str:
        """The runtime and its version."""
        runtime, version = runtime_name_and_version()
        return f"{runtime} {version}"

    @property
    def parameters(self) -> int:
        """Numbers in its constants."""
        return self._facts.parameters

    @property
    def operators(self) -> Mapping[str, int]:
        """Operators by name."""
        return self._facts.operators

    @property
    def removed(self) -> Sequence[str]:
        """Nothing: what it was trained with is gone long since."""
        return ()

    @property
    def quantized(self) -> bool:
        """Whether its weights are integers already, so that there is nothing to choose."""
        return bool(_INTEGER_WEIGHTS & self._facts.weight_bytes.keys())

    def to_tflite(self, batch: int | None) -> bytes:
        """Return the file itself, byte by byte, when it is quantized; else with float32 weights.

        Raises:
            InvalidInputError: it was made for another batch.
        """
        made_for = {spec.shape[0] for spec in self._interpreter.inputs if spec.shape}
        # A free batch takes one of any size; nobody can make a fixed one free.
        if made_for != {-1} and batch is not None and made_for != {batch}:
            raise InvalidInputError(field="batch", problem=f"the file was made for {_said(made_for)}, not {batch}")
        return self._model if self.quantized else half_weights.unpacked(self._model)

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer by the runtime, item by item in their order: a model that keeps state hears them as one stream."""
        items = range(len(inputs[0]))
        rows = [self._interpreter.run([array[item : item + 1] for array in inputs]) for item in items]
        return [np.concatenate(output) for output in zip(*rows, strict=True)]


def open_source(path: Path, scratch: Path) -> TfliteSource:  # noqa: ARG001 - every loader is called so
    """Open a `.tflite` file.

    Raises:
        ModelLoadError: it is none, or one that would lead the runtime astray.
    """
    return TfliteSource(path.read_bytes())


def _said(batches: set[int]) -> str:
    return "batches of " + " and ".join(str(batch) for batch in sorted(batches))
