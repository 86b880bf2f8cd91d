"""JAX functions, as `jax.export.export(jax.jit(f))(…).serialize()` writes them.

Such a file is a FlatBuffer around StableHLO: reading it runs nothing. Calling it could, by a custom call that names a
function or holds its address; none is called here before the names were looked at.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import SchemeFailedError, UnsupportedOperatorError
from converters.frontends.refinement import fixed_module
from converters.frontends.stablehlo import StableHloModule
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

Exported = Any
"""A `jax.export.Exported`; typed by JAX, which not every environment has."""

_FIELD = "source"
_EXPORT = "export it with jax.export.export(jax.jit(f), platforms=['cpu'])(…).serialize()"
_FREE_BATCH = "export it with jax.export.symbolic_shape('b, …') as its shape"
_CLOSE_OVER = "give each input a batch as its first axis, and let the function close over its weights"
_FOREIGN_CODE = re.compile(r'custom_call @"?([^"(\s]+)')
_DTYPES = frozenset({"bool", "int8", "uint8", "int16", "int32", "float32"})
# What JAX raises at bytes that are no export, cut, or nested by the thousand.
_READ_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    RuntimeError,
)


class JaxSource:
    """A function over batches."""

    def __init__(self, exported: Exported) -> None:
        import jax

        self._exported = exported
        self._call = jax.jit(exported.call)
        module = _module(exported)
        self._operators, self._parameters = module.operators, module.parameters

    @property
    def name(self) -> str:
        """Framework and version."""
        return f"jax {metadata.version('jax')}, litert-converter {metadata.version('litert-converter')}"

    @property
    def parameters(self) -> int:
        """Floating-point numbers in the function's constants."""
        return self._parameters

    @property
    def operators(self) -> Counter[str]:
        """StableHLO operators by name."""
        return self._operators

    @property
    def removed(self) -> Sequence[str]:
        """Nothing: an export holds what the function computes, no more."""
        return ()

    def to_tflite(self, batch: int | None) -> bytes:
        """Return a float32 model, for a fixed batch or for any.

        Raises:
            InvalidInputError: the function was exported for another batch.
            SchemeFailedError: TensorFlow Lite cannot compute it.
        """
        outputs = [f"output_{index}" for index in range(len(self._exported.out_avals))]
        return self._for_batch(batch).to_tflite(inputs=[f"input_{index}" for index in self._kept], outputs=outputs)

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer by JAX, on the processor; an export for one item answers item by item."""
        first = self._exported.in_avals[0].shape[0]
        if isinstance(first, int):
            steps = range(0, len(inputs[0]), first)
            pieces = [self._answer([array[start : start + first] for array in inputs]) for start in steps]
            return [np.concatenate(output) for output in zip(*pieces, strict=True)]
        return self._answer(inputs)

    @property
    def _kept(self) -> tuple[int, ...]:
        # JAX leaves arguments that do not matter out of the module.
        return tuple(self._exported.module_kept_var_idx)

    def _answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        import jax

        batch = len(inputs[0])
        given = dict(zip(self._kept, inputs, strict=True))
        flat = [
            given[index] if index in given else np.zeros((batch, *aval.shape[1:]), aval.dtype)
            for index, aval in enumerate(self._exported.in_avals)
        ]
        arguments, keywords = jax.tree_util.tree_unflatten(self._exported.in_tree, flat)
        return [np.asarray(output) for output in jax.tree_util.tree_leaves(self._call(*arguments, **keywords))]

    def _for_batch(self, batch: int | None) -> StableHloModule:
        first = self._exported.in_avals[0].shape[0]
        if first == batch or (batch is None and not isinstance(first, int)):
            return _module(self._exported)
        if batch is not None and not isinstance(first, int):
            return StableHloModule(fixed_module(self._exported, batch))
        wanted = "any batch" if batch is None else f"a batch of {batch}"
        problem = f"the function was exported for a batch of {first}, not {wanted}"
        raise InvalidInputError(field="batch", problem=problem, remedy=_FREE_BATCH)


def open_source(path: Path, scratch: Path) -> JaxSource:  # noqa: ARG001 - every loader is called so; nothing to unpack
    """Read an export.

    Raises:
        InvalidInputError: no export, or one that nothing on one processor can answer for.
        UnsupportedOperatorError: it calls foreign code, or TensorFlow Lite has no such operator.
    """
    exported = _read(path.read_bytes())
    _check_place(exported)
    _check_batches(exported)
    return JaxSource(exported)


def _read(content: bytes) -> Exported:
    import struct

    from jax import export

    try:
        return export.deserialize(bytearray(content))
    except (*_READ_ERRORS, struct.error) as exc:
        raise InvalidInputError(field=_FIELD, problem=f"is no JAX export: {_first_line(exc)}", remedy=_EXPORT) from exc


def _module(exported: Exported) -> StableHloModule:
    """Return the function's code, when it calls nothing that is not in it."""
    try:
        module = StableHloModule(exported.mlir_module_serialized)
    except SchemeFailedError as exc:
        # JAX reads more than the converter does: shardings, which foreign code carries.
        foreign = sorted(set(_FOREIGN_CODE.findall(str(exported.mlir_module()))))
        if foreign:
            raise _foreign_code(foreign) from exc
        raise
    if module.custom_calls:
        raise _foreign_code(sorted(module.custom_calls))
    return module


def _foreign_code(names: Sequence[str]) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(
        f"the function calls code outside of itself, which no device has: {', '.join(names)}; "
        "linear algebra, callbacks and custom kernels must be written with jax.numpy and jax.lax"
    )


def _check_place(exported: Exported) -> None:
    if "cpu" not in exported.platforms:
        raise InvalidInputError(
            field=_FIELD, problem=f"was exported for {', '.join(exported.platforms)} alone", remedy=_EXPORT
        )
    if exported.nr_devices != 1:
        raise InvalidInputError(field=_FIELD, problem=f"was exported for {exported.nr_devices} devices", remedy=_EXPORT)
    if exported.ordered_effects or exported.unordered_effects:
        raise InvalidInputError(field=_FIELD, problem="has side effects: it prints or calls back", remedy=_EXPORT)


def _check_batches(exported: Exported) -> None:
    # Only for the sake of clear words: whatever is missed here is found when the model is made and asked.
    avals = (*exported.in_avals, *exported.out_avals)
    batches = {str(aval.shape[0]) if aval.shape else "none" for aval in avals}
    if len(batches) != 1 or "none" in batches or not exported.module_kept_var_idx:
        shapes = ", ".join(str(aval.str_short()) for aval in avals)
        raise InvalidInputError(
            field=_FIELD, problem=f"its inputs and outputs do not share a batch: {shapes}", remedy=_CLOSE_OVER
        )
    for aval in avals:
        if not all(isinstance(size, int) for size in aval.shape[1:]):
            raise InvalidInputError(
                field=_FIELD, problem=f"leaves a shape open: {aval.str_short()}", remedy="fix every size but the batch"
            )
        if str(aval.dtype) not in _DTYPES:
            raise InvalidInputError(
                field=_FIELD,
                problem=f"takes or gives {aval.dtype}",
                remedy="use float32 and int32: jax_enable_x64 off, no bfloat16",
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300]
