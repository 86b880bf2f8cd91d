"""The golden check: whether an artifact answers here as it did where it was made.

A runtime that knows an operator only by an older version may load a file without an error and compute garbage, as
tflite-runtime 2.14 does with some dynamic-range int8 files. Nothing but asking shows that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import PipelineError
from shared.manifest import GoldenCase, GoldenCheck, TensorData

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shared.runtime.interpreter import Interpreter

    Tensor = NDArray[Any]

_NUMERIC = "biuf"


def check_golden(interpreter: Interpreter, golden: GoldenCheck) -> str:
    """Return "" when every case holds, else why not: `golden_mismatch: case 3 output 0 differs by 0.4`.

    A check without cases does not hold: it shows nothing.
    """
    if not golden.cases:
        return "golden_mismatch: the check has no case"
    # The first case that fails is enough: a device reports it, and does not serve.
    for number, case in enumerate(golden.cases):
        problem = _check_case(interpreter, case, golden)
        if problem:
            return f"golden_mismatch: case {number} {problem}"
    return ""


def to_tensor_data(array: Tensor) -> TensorData:
    """Return the tensor by value, in C order, little-endian."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return TensorData(dtype=array.dtype.name, shape=array.shape, data=little.tobytes())


def to_array(data: TensorData) -> Tensor:
    """Return the tensor as a read-only array.

    Raises:
        PipelineError: no numeric dtype, or another number of bytes than the shape needs.
    """
    try:
        dtype = np.dtype(data.dtype)
        if dtype.kind not in _NUMERIC:
            raise PipelineError(f"a tensor of dtype {data.dtype} has no numbers")
        return np.frombuffer(data.data, dtype=dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(data.shape)
    except (TypeError, ValueError) as exc:
        raise PipelineError(f"{len(data.data)} bytes are no {data.dtype} tensor of shape {data.shape}") from exc


def _check_case(interpreter: Interpreter, case: GoldenCase, golden: GoldenCheck) -> str:
    try:
        expected = [to_array(output) for output in case.outputs]
        actual = interpreter.run([to_array(tensor) for tensor in case.inputs])
    except PipelineError as exc:
        return f"does not run: {exc}"
    if len(actual) != len(expected):
        return f"has {len(actual)} outputs, expected {len(expected)}"
    for number, (got, want) in enumerate(zip(actual, expected, strict=True)):
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"output {number} is {got.dtype.name} {got.shape}, expected {want.dtype.name} {want.shape}"
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            return f"output {number} holds NaN or infinity"
        # In 64 bits: int8 would wrap around, and two close float16 would round together.
        difference = np.abs(got.astype(np.float64) - want)
        # Written so that a NaN on either side fails.
        if not (difference <= golden.atol + golden.rtol * np.abs(want.astype(np.float64))).all():
            return f"output {number} differs by {np.max(difference):.4g}"
    return ""
