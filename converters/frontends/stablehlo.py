"""From StableHLO to a float `.tflite`. The only file that touches litert-converter, whose interface is private.

litert-converter is pinned to the digit in the lock, since it documents no front end of its own; what is used of it is
what litert-torch uses. A test asks whether all of it is still there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from converters.failures import SchemeFailedError, UnsupportedOperatorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PINNED = "0.5.0"
_SIGNATURE = "serving_default"
_NAMED = re.compile(r"'([\w.]+)' op (.+)")
"""How MLIR says which operation it could not make something of, and why."""
_NATIVE = ("tfl.", "func.", "arith.", "builtin.")
"""What may be in a module that becomes a file."""
_FREE = "dynamic_"
"""How operators over sizes that are not known begin."""
_LOOP = "tfl.while"
"""Has an operator, but the converter does not write the graphs of its own that it would need."""
_CONSTANT = "stablehlo.constant"
_CUSTOM_CALL = "stablehlo.custom_call"
SHAPE_ASSERTION = "shape_assertion"
"""The one custom call that computes nothing: JAX writes it to check a free batch."""


class StableHloModule:
    """A function `main` over tensors, as JAX and others lower it."""

    def __init__(self, artifact: bytes) -> None:
        """Read a portable StableHLO artifact.

        Raises:
            SchemeFailedError: it is none, or of a newer version than the converter reads.
        """
        self._api, self._ir, self._passes = _converter()
        from litert_converter.mlir.dialects import stablehlo

        self._context = self._ir.Context()
        self._api.prepare_mlir_context(self._context)
        try:
            with self._context:
                self._module = stablehlo.deserialize_portable_artifact(self._context, artifact)
        except (ValueError, RuntimeError, self._ir.MLIRError) as exc:
            raise SchemeFailedError(f"its StableHLO cannot be read: {_first_line(exc)}") from exc

    @property
    def operators(self) -> Counter[str]:
        """How often each operator occurs, constants and returns left out."""
        names = (str(operation.name) for operation in _walk(self._module.operation))
        return Counter(
            name.removeprefix("stablehlo.")
            for name in names
            if name.startswith(("stablehlo.", "chlo.")) and name not in {_CONSTANT, "stablehlo.return"}
        )

    @property
    def parameters(self) -> int:
        """How many floating-point numbers the module carries; a constant that is one number throughout is none."""
        return sum(
            math.prod(self._ir.ShapedType(operation.results[0].type).shape)
            for operation in _walk(self._module.operation)
            if str(operation.name) == _CONSTANT and self._is_trained(operation.attributes["value"])
        )

    @property
    def custom_calls(self) -> frozenset[str]:
        """Names of foreign code that the module calls; checks of its own shapes left out."""
        calls = (operation for operation in _walk(self._module.operation) if str(operation.name) == _CUSTOM_CALL)
        targets = (self._ir.StringAttr(operation.attributes["call_target_name"]).value for operation in calls)
        return frozenset(targets) - {SHAPE_ASSERTION}

    def to_tflite(self, *, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        """Convert; the module is used up. Same module, same bytes.

        Raises:
            UnsupportedOperatorError: TensorFlow Lite has no operator for a part of it.
            SchemeFailedError: the converter gave up for another reason.
        """
        config = self._api.ConvertToTFLConfig()
        config.model_origin_framework = "JAX"
        config.unsafe_fuse_dynamic_shaped_broadcast = True
        # Minus infinity is what a maximum starts from: a large number in its place would be another function.
        config.canonicalizing_inf_as_min_max_float = False
        try:
            with self._context:
                self._api.set_signature(
                    self._module.operation,
                    signature_name=_SIGNATURE,
                    input_names=[*inputs],
                    output_names=[*outputs],
                )
                self._api.run_convert_to_tfl_passes(self._module, self._passes.PassManager(), config)
                return bytes(self._api.export_flatbuffer_to_bytes(self._module.operation))
        except (ValueError, RuntimeError, self._ir.MLIRError) as exc:
            raise _failure(str(exc), self._left_over()) from exc

    def _is_trained(self, value: Any) -> bool:  # noqa: ANN401 - an MLIR attribute; litert-converter ships no types
        if not isinstance(value, self._ir.DenseElementsAttr) or value.is_splat:
            return False
        return isinstance(self._ir.ShapedType(value.type).element_type, self._ir.FloatType)

    def _left_over(self) -> set[str]:
        """Return the operators that the converter found no TensorFlow Lite operator for; all, where it broke off."""
        names = {str(operation.name) for operation in _walk(self._module.operation)}
        return {name for name in names if name == _LOOP or not name.startswith(_NATIVE)}


def _converter() -> tuple[Any, Any, Any]:
    """Return the converter's interface, its IR and its pass manager; they ship no types."""
    try:
        from litert_converter.mlir import ir, passmanager
        from litert_converter.mlir._mlir_libs import converter_api_ext as api
    except ImportError as exc:
        raise SchemeFailedError(
            f"litert-converter {_PINNED} is not installed as it should be ({exc}): install the jax converters again"
        ) from exc
    return api, ir, passmanager


def _walk(operation: Any) -> Iterator[Any]:  # noqa: ANN401 - an MLIR operation; litert-converter ships no types
    # A stack of our own: regions of a hostile module may nest by the thousand.
    waiting = [operation]
    while waiting:
        current = waiting.pop()
        yield current
        waiting.extend(inner.operation for region in current.regions for block in region for inner in block.operations)


def _failure(text: str, left_over: set[str]) -> SchemeFailedError:
    named = _NAMED.findall(text)
    if named:
        operator, why = named[0]
        return UnsupportedOperatorError(f"TensorFlow Lite has no operator for {_plain(operator)}: {why[:200]}")
    if _LOOP in left_over:
        return UnsupportedOperatorError("it holds a loop: unroll it (a Python loop, or jax.lax.scan with unroll=True)")
    if left_over:
        names = sorted(map(_plain, left_over))
        hint = "; for a batch of 1 it may have one" if any(name.startswith(_FREE) for name in names) else ""
        return UnsupportedOperatorError(f"TensorFlow Lite has no operator for {', '.join(names)}{hint}")
    return SchemeFailedError(f"litert-converter gave up: {_first_line(text)}")


def _plain(operator: str) -> str:
    # The portable form of StableHLO has a version behind each name.
    return re.sub(r"_v\d+$", "", operator.rpartition(".")[2])


def _first_line(error: object) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
