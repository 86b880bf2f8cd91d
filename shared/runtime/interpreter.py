"""Runs a `.tflite` model. The only file that imports the runtime: LiteRT, or tflite-runtime where there is no other."""

from __future__ import annotations

import importlib
from enum import StrEnum
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from msgspec import UNSET

from shared.errors import ModelFailedError, ModelLoadError, PipelineError
from shared.hardware import Runtime
from shared.manifest import TensorSpec
from shared.runtime.verifier import verify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_FREE = -1
_MODULES = ((Runtime.AI_EDGE_LITERT, "ai_edge_litert"), (Runtime.TFLITE_RUNTIME, "tflite_runtime"))


def _find_runtime() -> tuple[Runtime, ModuleType]:
    for runtime, package in _MODULES:
        try:
            return runtime, importlib.import_module(f"{package}.interpreter")
        except ImportError:
            continue
    raise ImportError("no model runtime: install ai-edge-litert (or tflite-runtime)")


_RUNTIME, _MODULE = _find_runtime()


class Kernels(StrEnum):
    """Which implementation of the operators computes. Their disagreement shows what other runtimes may answer."""

    FAST = "AUTO"
    """The runtime's own choice: XNNPACK where it can."""
    PLAIN = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"
    """The optimised kernels without XNNPACK, as on runtimes that lack it."""
    REFERENCE = "BUILTIN_REF"
    """Portable loops: slow, and the definition of right."""


class Interpreter(Protocol):
    """A loaded model. Not safe for two threads at once: give each its own."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, in order; -1 where a size is free."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, in order."""
        ...

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Invoke once. Raises PipelineError when shapes or dtypes are not the model's."""
        ...


class LiteRtInterpreter:
    """A model in the TensorFlow Lite runtime; keeps `model` in memory, since the runtime reads weights from it."""

    def __init__(self, model: bytes, *, threads: int, kernels: Kernels = Kernels.FAST) -> None:
        """Load and allocate.

        Raises:
            ModelLoadError: the bytes are malformed, the runtime refuses them, or has no kernel for an operator.
        """
        self._stored_shapes = verify(model)
        # What reads a variable has no shape before it runs. XNNPACK believes the one that the file declares, and writes
        # past the end of tensors where the file is wrong; the runtime's own kernels look again.
        if self._stored_shapes and kernels is Kernels.FAST:
            kernels = Kernels.PLAIN
        # From bytes, never from a file: the runtime checks a buffer before it reads it, and a file only in part.
        try:
            self._native = _MODULE.Interpreter(
                model_content=model,
                num_threads=threads,
                experimental_op_resolver_type=_MODULE.OpResolverType[kernels.value],
            )
            self._native.allocate_tensors()
            self._check_stored()
        except (ValueError, RuntimeError) as exc:
            raise ModelLoadError(f"the runtime refuses the model: {_first_line(exc)}") from exc
        # Reading the details costs more than running a small model, so that it happens once.
        in_details, out_details = self._native.get_input_details(), self._native.get_output_details()
        self._in_indexes = [int(detail["index"]) for detail in in_details]
        self._out_indexes = [int(detail["index"]) for detail in out_details]
        self._loaded_shapes: list[tuple[int, ...]] = [tuple(map(int, detail["shape"])) for detail in in_details]
        self._shapes = self._loaded_shapes
        # The signature does not tell: a batch of 1 may be a mere default. The first larger batch finds out.
        self._batch_is_fixed = False
        self._inputs = tuple(_spec(detail) for detail in in_details)
        self._outputs = tuple(_spec(detail) for detail in out_details)
        self._dtypes = [np.dtype(spec.dtype) for spec in self._inputs]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, in order; -1 where a size is free."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, in order."""
        return self._outputs

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Invoke once, batch axis included; another batch than the last time costs a reallocation.

        A graph with a batch of 1 baked into it answers a larger batch item by item.

        Raises:
            PipelineError: shapes or dtypes are not the model's.
        """
        shapes = [array.shape for array in inputs]
        # Nearly always it is as the last time; all else is looked at.
        if shapes != self._shapes or [array.dtype for array in inputs] != self._dtypes:
            shapes = _accepted_shapes(inputs, self._inputs)
            # The runtime copies bytes, whatever their order, and numpy says "float32" of both orders.
            inputs = [array.astype(array.dtype.newbyteorder("="), copy=False) for array in inputs]
        if shapes != self._shapes and not self._resize(shapes):
            return self._run_one_by_one(inputs)
        try:
            for index, array in zip(self._in_indexes, inputs, strict=True):
                self._native.set_tensor(index, array)
            self._native.invoke()
            outputs = [self._native.get_tensor(index) for index in self._out_indexes]
        except (ValueError, RuntimeError) as exc:
            raise ModelFailedError(f"the model failed to run: {_first_line(exc)}") from exc
        if _mixes_items(outputs, self._outputs, batch=shapes[0][0] if shapes and shapes[0] else 1):
            self._batch_is_fixed = True
            return self._run_one_by_one(inputs)
        return outputs

    def _run_one_by_one(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        batch = len(inputs[0])
        if batch == 1 or any(len(array) != batch for array in inputs):
            raise PipelineError(f"the model cannot take inputs of shape {[array.shape for array in inputs]}")
        rows = [self.run([array[item : item + 1] for array in inputs]) for item in range(batch)]
        return [np.concatenate(output) for output in zip(*rows, strict=True)]

    def _resize(self, shapes: list[tuple[int, ...]]) -> bool:
        other_batch = any(shape[:1] != loaded[:1] for shape, loaded in zip(shapes, self._loaded_shapes, strict=True))
        if self._batch_is_fixed and other_batch:
            return False
        try:
            self._allocate(shapes)
        except (ValueError, RuntimeError):
            # The interpreter must stay usable for requests of the size that it can take.
            self._batch_is_fixed = other_batch
            self._allocate(self._loaded_shapes)
            self._shapes = self._loaded_shapes
            return False
        self._shapes = shapes
        return True

    def _allocate(self, shapes: list[tuple[int, ...]]) -> None:
        for index, shape in zip(self._in_indexes, shapes, strict=True):
            self._native.resize_tensor_input(index, list(shape))
        self._native.allocate_tensors()
        self._check_stored()

    def _check_stored(self) -> None:
        # Where a variable is given more than its reader has room for, memory beyond would be overwritten.
        details = self._native.get_tensor_details() if self._stored_shapes else ()
        for detail in details:
            shape, index = tuple(map(int, detail["shape"])), int(detail["index"])
            if shape != self._stored_shapes.get(index, shape):
                raise RuntimeError(f"a variable of shape {self._stored_shapes[index]} would be given {shape}")


def runtime_name_and_version() -> tuple[Runtime, str]:
    """Return which runtime this process computes with; its version changes answers, so evidence names it."""
    return _RUNTIME, metadata.version(_RUNTIME.value)


def _first_line(error: Exception) -> str:
    # What follows is the runtime's own source position.
    return str(error).strip().split("\n", 1)[0][:300]


def _spec(detail: dict[str, Any]) -> TensorSpec:
    shape = tuple(map(int, detail["shape"]))
    signature = tuple(map(int, detail["shape_signature"]))
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        name=str(detail["name"]),
        dtype=np.dtype(detail["dtype"]).name,
        shape=signature if len(signature) == len(shape) else shape,
        # The runtime says 0 of what is not quantised.
        scale=float(scale) if scale else UNSET,
        zero_point=int(zero_point) if scale else UNSET,
    )


def _accepted_shapes(inputs: Sequence[Tensor], specs: tuple[TensorSpec, ...]) -> list[tuple[int, ...]]:
    if len(inputs) != len(specs):
        raise PipelineError(f"the model takes {len(specs)} inputs, got {len(inputs)}")
    for array, spec in zip(inputs, specs, strict=True):
        if array.dtype.name != spec.dtype:
            raise PipelineError(f"input {spec.name} takes {spec.dtype}, got {array.dtype.name}")
        if not _fits(array.shape, spec.shape):
            raise PipelineError(f"input {spec.name} takes shape {spec.shape}, got {array.shape}")
    return [array.shape for array in inputs]


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    # The first axis is the batch and may be anything but empty: the graph itself has the last word on that.
    if len(shape) != len(wanted) or 0 in shape:
        return False
    return all(want in {_FREE, size} for size, want in zip(shape[1:], wanted[1:], strict=True))


def _mixes_items(outputs: list[Tensor], specs: tuple[TensorSpec, ...], *, batch: int) -> bool:
    # A graph with a batch of 1 baked into it can run another batch without an error, and answer for the items together.
    if batch == 1:
        return False
    per_item = [(array, spec) for array, spec in zip(outputs, specs, strict=True) if spec.shape[:1] in {(_FREE,), (1,)}]
    return any(array.shape[0] != batch for array, _ in per_item)
