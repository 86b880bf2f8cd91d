"""`onnx_models.py FOLDER`: writes ONNX models, sound ones and such as must be refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
from onnx import TensorProto, helper, numpy_helper

Model = Any
Tensor = Any
"""Messages of protobuf, which ships no types."""
FLOAT = TensorProto.FLOAT
OPSET = 15


def model(nodes: list[Any], *, shape: list[Any], weights: list[Any] | None = None, **domains: int) -> Model:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        weights or [],
    )
    opsets = [helper.make_opsetid("", domains.pop("opset", OPSET))]
    opsets += [helper.make_opsetid(name.replace("_", "."), version) for name, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def tensor(name: str, values: Tensor) -> Tensor:
    return numpy_helper.from_array(np.asarray(values), name)


def network() -> Model:
    """A classifier as exporters leave it: the batch read from the shape, and put together again for a reshape."""
    random = np.random.default_rng(3)
    weights = [
        tensor("conv", random.normal(size=(8, 3, 3, 3)).astype(np.float32)),
        tensor("scale", random.uniform(0.5, 1.5, size=8).astype(np.float32)),
        tensor("shift", random.normal(size=8).astype(np.float32)),
        tensor("head", (random.normal(size=(512, 5)) / 20).astype(np.float32)),
        tensor("first", np.array(0, np.int64)),
        tensor("rest", np.array([512], np.int64)),
        tensor("zero", np.array([0], np.int64)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "shift", "scale"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Dropout", ["c"], ["d"]),
        helper.make_node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["x"], ["f"]),
        helper.make_node("Gather", ["f", "first"], ["g"], axis=0),
        helper.make_node("Unsqueeze", ["g", "zero"], ["h"]),
        helper.make_node("Concat", ["h", "rest"], ["i"], axis=0),
        helper.make_node("Reshape", ["e", "i"], ["j"]),
        helper.make_node("MatMul", ["j", "head"], ["k"]),
        helper.make_node("Softmax", ["k"], ["y"]),
    ]
    return model(nodes, shape=["batch", 3, 16, 16], weights=weights)


def outside(location: str) -> Model:
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], shape=["n", 4], weights=[weight])


def outside_in_a_branch() -> Model:
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="/etc/passwd")
    made = helper.make_tensor_value_info("z", FLOAT, None)
    branch = helper.make_graph([helper.make_node("Constant", [], ["z"], value=weight)], "branch", [], [made])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("", np.array(True))),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    return model(nodes, shape=["n", 4])


def branching() -> Model:
    made = [helper.make_tensor_value_info("z", FLOAT, None)]
    ways = [helper.make_graph([helper.make_node(kind, ["x"], ["z"])], kind, [], made) for kind in ("Relu", "Neg")]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=ways[0], else_branch=ways[1]),
    ]
    return model(nodes, shape=["n", 4])


def trees() -> Model:
    return model([helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml")], shape=["n", 4], ai_onnx_ml=3)


def claiming() -> Model:
    weight = TensorProto(name="w", data_type=FLOAT, dims=[50_000, 50_000], raw_data=b"\0" * 4)
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], shape=["n", 4], weights=[weight])


def one(kind: str, inputs: tuple[str, ...] = ("x",), **given: Tensor) -> Model:
    shape, opset = given.pop("shape", ["n", 4]), given.pop("opset", OPSET)
    known = [tensor("ratio", np.float32(0.5)), tensor("on", np.array(True))]
    weights = [item for item in known if item.name in inputs]
    return model([helper.make_node(kind, list(inputs), ["y"], **given)], shape=shape, weights=weights, opset=opset)


def main(folder: Path) -> None:
    models = {
        "network": network(),
        "simplified": onnxsim.simplify(onnx.shape_inference.infer_shapes(network()))[0],
        "outside": outside("/etc/passwd"),
        "outside_above": outside("../../../etc/hostname"),
        "outside_in_a_branch": outside_in_a_branch(),
        "branching": branching(),
        "trees": trees(),
        "claiming": claiming(),
        "custom": model([helper.make_node("Wave", ["x"], ["y"], domain="com.example")], shape=["n", 4], com_example=1),
        "training": one("Dropout", ("x", "ratio", "on")),
        "random": one("RandomNormalLike"),
        "determinant": one("Det", shape=["n", 4, 4]),
        "old": one("Relu", opset=5),
        "open_shape": one("Relu", shape=["n", "width"]),
    }
    for name, made in models.items():
        (folder / name).write_bytes(made.SerializeToString())
    whole = (folder / "network").read_bytes()
    (folder / "cut").write_bytes(whole[: len(whole) // 2])
    (folder / "pickle").write_bytes(b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94")
    (folder / "empty").write_bytes(b"")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
