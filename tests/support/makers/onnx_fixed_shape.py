"""`onnx_fixed_shape.py SOURCE TARGET SIZE…`: copies an ONNX model, fixing every size of its input but the batch."""

from __future__ import annotations

import sys

import onnx


def main(source: str, target: str, *sizes: str) -> None:
    model = onnx.load(source, load_external_data=False)
    for dimension, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], sizes, strict=True):
        dimension.dim_value = int(size)
    onnx.save(model, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
