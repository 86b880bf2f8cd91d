"""Small convolutional networks, written as FlatBuffers by hand: what a quantizer meets, without a framework."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

SIDE, CHANNELS, HIDDEN, CLASSES = 12, 3, 16, 10
NONE, RELU, RELU6 = 0, 1, 3
RUNTIME = b"1.5.0".ljust(16, b"\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Of a stem, a depthwise layer, a projection back onto the stem's channels (added to them), and a dense head."""

    stem: Tensor
    depthwise: Tensor
    project: Tensor
    head: Tensor
    stem_bias: Tensor
    depthwise_bias: Tensor
    project_bias: Tensor
    head_bias: Tensor


def weights(seed: int = 0) -> Weights:
    """Return random weights of sizes that keep activations in proportion."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, fan_in: int) -> Tensor:
        return rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)

    return Weights(
        stem=normal(HIDDEN, 3, 3, CHANNELS, fan_in=9 * CHANNELS),
        # With a mean: then rounding errors meet inputs that have one, too.
        depthwise=normal(1, 3, 3, HIDDEN, fan_in=9) + np.float32(0.2),
        project=normal(HIDDEN, 1, 1, HIDDEN, fan_in=HIDDEN),
        head=normal(CLASSES, HIDDEN, fan_in=HIDDEN) * 3,
        stem_bias=normal(HIDDEN, fan_in=20),
        depthwise_bias=normal(HIDDEN, fan_in=20),
        project_bias=normal(HIDDEN, fan_in=20),
        head_bias=normal(CLASSES, fan_in=20),
    )


def network(
    made: Weights | None = None, *, activation: int = RELU6, signature: bool = True, last: str | None = None
) -> bytes:
    """A `.tflite`: conv → depthwise conv → 1x1 conv → add to the first → mean → dense; input `(1, 12, 12, 3)`.

    `last` names one more operator, without options, that the scores go through.
    """
    made = made or weights()
    plan = _Plan()
    image = plan.tensor("image", (1, SIDE, SIDE, CHANNELS))
    inner = (1, SIDE, SIDE, HIDDEN)
    stem = plan.tensor("stem", inner)
    plan.convolution(image, made.stem, made.stem_bias, stem, activation)
    middle = plan.tensor("depthwise", inner)
    plan.depthwise(stem, made.depthwise, made.depthwise_bias, middle, activation)
    projected = plan.tensor("project", inner)
    plan.convolution(middle, made.project, made.project_bias, projected, NONE)
    total = plan.tensor("sum", inner)
    plan.operator(schema.BuiltinOperator.ADD, [stem, projected], total, "AddOptions")
    mean = plan.tensor("mean", (1, HIDDEN))
    axes = plan.constant("axes", np.array([1, 2], np.int32))
    plan.operator(schema.BuiltinOperator.MEAN, [total, axes], mean, "ReducerOptions")
    scores = plan.tensor("scores", (1, CLASSES))
    head = [mean, plan.constant("head/weights", made.head), plan.constant("head/bias", made.head_bias)]
    plan.operator(schema.BuiltinOperator.FULLY_CONNECTED, head, scores, "FullyConnectedOptions")
    if last is not None:
        scored, scores = scores, plan.tensor("last", (1, CLASSES))
        plan.operator(getattr(schema.BuiltinOperator, last), [scored], scores)
    return plan.pack(image, scores, signature=signature)


def images(count: int, seed: int = 1) -> list[Tensor]:
    """Return inputs with a mean, as photographs have one; every item reaches as far as another factor lets it."""
    rng = np.random.default_rng(seed)
    return [
        ((rng.random((SIDE, SIDE, CHANNELS)) * rng.uniform(0.5, 2.0)) + 0.2).astype(np.float32) for _ in range(count)
    ]


def with_weights_outside(model: bytes) -> bytes:
    """Move every constant behind the FlatBuffer, as large models have them."""
    parts = schema.ModelT.InitFromPackedBuf(model, 0)
    held = [b"" if buffer.data is None else bytes(buffer.data) for buffer in parts.buffers]
    for buffer, content in zip(parts.buffers, held, strict=True):
        if content:
            buffer.data, buffer.offset, buffer.size = None, 2, 2
    moved = bytearray(_packed(parts))
    root = schema.Model.GetRootAs(bytes(moved))
    for index, content in enumerate(held):
        if content:
            moved += bytes(-len(moved) % 16)
            table = root.Buffers(index)._tab
            for field, value in ((6, len(moved)), (8, len(content))):
                struct.pack_into("<Q", moved, table.Pos + table.Offset(field), value)
            moved += content
    return bytes(moved)


class _Plan:
    def __init__(self) -> None:
        self.tensors: list[schema.TensorT] = []
        self.buffers = [schema.BufferT()]
        self.codes: list[int] = []
        self.operators: list[schema.OperatorT] = []

    def tensor(self, name: str, shape: Sequence[int], kind: int = schema.TensorType.FLOAT32, buffer: int = 0) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), list(shape), kind, buffer
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, name: str, content: Tensor) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content.tobytes(), np.uint8)
        self.buffers.append(buffer)
        kind = schema.TensorType.INT32 if content.dtype == np.int32 else schema.TensorType.FLOAT32
        return self.tensor(name, content.shape, kind, len(self.buffers) - 1)

    def operator(
        self, code: int, inputs: Sequence[int], output: int, kind: str = "NONE", options: object = None
    ) -> None:
        if code not in self.codes:
            self.codes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.codes.index(code), list(inputs), [output]
        made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        made.builtinOptions = options or getattr(schema, f"{kind}T", lambda: None)()
        self.operators.append(made)

    def convolution(self, source: int, kernel: Tensor, bias: Tensor, output: int, activation: int) -> None:
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        options.padding, options.fusedActivationFunction = schema.Padding.SAME, activation
        name = self.tensors[output].name.decode()
        inputs = [source, self.constant(f"{name}/weights", kernel), self.constant(f"{name}/bias", bias)]
        self.operator(schema.BuiltinOperator.CONV_2D, inputs, output, "Conv2DOptions", options)

    def depthwise(self, source: int, kernel: Tensor, bias: Tensor, output: int, activation: int) -> None:
        options = schema.DepthwiseConv2DOptionsT()
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        options.padding, options.fusedActivationFunction, options.depthMultiplier = schema.Padding.SAME, activation, 1
        name = self.tensors[output].name.decode()
        inputs = [source, self.constant(f"{name}/weights", kernel), self.constant(f"{name}/bias", bias)]
        self.operator(schema.BuiltinOperator.DEPTHWISE_CONV_2D, inputs, output, "DepthwiseConv2DOptions", options)

    def pack(self, image: int, scores: int, *, signature: bool) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, [image], [scores]
        runtime = schema.BufferT()
        runtime.data = np.frombuffer(RUNTIME, np.uint8)
        metadata = schema.MetadataT()
        metadata.name, metadata.buffer = b"min_runtime_version", len(self.buffers)
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], [*self.buffers, runtime]
        model.operatorCodes = [_code(code) for code in self.codes]
        model.metadata = [metadata]
        if signature:
            model.signatureDefs = [_signature(image, scores)]
        return _packed(model)


def _code(builtin: int) -> schema.OperatorCodeT:
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = builtin
    made.version = 1
    return made


def _signature(image: int, scores: int) -> schema.SignatureDefT:
    made, taken, given = schema.SignatureDefT(), schema.TensorMapT(), schema.TensorMapT()
    taken.name, taken.tensorIndex = b"image", image
    given.name, given.tensorIndex = b"scores", scores
    made.signatureKey, made.subgraphIndex, made.inputs, made.outputs = b"serving_default", 0, [taken], [given]
    return made


def _packed(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
