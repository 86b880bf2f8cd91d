"""Networks with the operators and the state that real ones have, drawn as FlatBuffers by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_CODES, _OPTIONS, _TYPES = schema.BuiltinOperator, schema.BuiltinOptions, schema.TensorType


class _Drawing:
    """A model in the making."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.model = schema.ModelT()
        self.model.version, self.model.operatorCodes, self.model.buffers = 3, [], [schema.BufferT()]
        self.model.subgraphs = []
        self.graph = self.begin_graph()

    def begin_graph(self) -> schema.SubGraphT:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.model.subgraphs.append(self.graph)
        return self.graph

    def tensor(
        self, name: str, shape: tuple[int, ...], *, kind: int = _TYPES.FLOAT32, content: Tensor | None = None
    ) -> int:
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, len(self.model.buffers)
        if content is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def weights(self, name: str, *shape: int) -> int:
        values = self._rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)
        return self.tensor(name, shape, content=values.astype("<f4"))

    def integers(self, name: str, *values: int) -> int:
        return self.tensor(name, (len(values),), kind=_TYPES.INT32, content=np.array(values, "<i4"))

    def operator(
        self, code: int, inputs: Sequence[int], outputs: Sequence[int], kind: int = 0, options: object = None
    ) -> None:
        known = [entry.builtinCode for entry in self.model.operatorCodes]
        if code not in known:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
            self.model.operatorCodes.append(entry)
            known.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = known.index(code), list(inputs), list(outputs)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self.graph.operators.append(operator)


def convolutional(*, seed: int = 1, classes: int = 10) -> bytes:
    """`(1, 12, 12, 1)` → convolution, depthwise convolution, pool, reshape, dense, softmax."""
    draw = _Drawing(seed)
    image = draw.tensor("image", (1, 12, 12, 1))
    wide, deep = draw.tensor("wide", (1, 12, 12, 8)), draw.tensor("deep", (1, 12, 12, 8))
    convolution = schema.Conv2DOptionsT()
    convolution.strideW = convolution.strideH = 1
    convolution.fusedActivationFunction = schema.ActivationFunctionType.RELU
    inputs = (image, draw.weights("kernel", 8, 3, 3, 1), draw.weights("kernel_bias", 8))
    draw.operator(_CODES.CONV_2D, inputs, [wide], _OPTIONS.Conv2DOptions, convolution)
    depthwise = schema.DepthwiseConv2DOptionsT()
    depthwise.strideW = depthwise.strideH = depthwise.depthMultiplier = 1
    inputs = (wide, draw.weights("depth", 1, 3, 3, 8), draw.weights("depth_bias", 8))
    draw.operator(_CODES.DEPTHWISE_CONV_2D, inputs, [deep], _OPTIONS.DepthwiseConv2DOptions, depthwise)
    pool = schema.Pool2DOptionsT()
    pool.strideW = pool.strideH = pool.filterWidth = pool.filterHeight = 2
    pooled, flat = draw.tensor("pooled", (1, 6, 6, 8)), draw.tensor("flat", (1, 288))
    draw.operator(_CODES.MAX_POOL_2D, [deep], [pooled], _OPTIONS.Pool2DOptions, pool)
    reshape = schema.ReshapeOptionsT()
    reshape.newShape = [1, 288]
    draw.operator(_CODES.RESHAPE, [pooled, draw.integers("shape", 1, 288)], [flat], _OPTIONS.ReshapeOptions, reshape)
    scores = _dense(draw, flat, 288, classes)
    draw.graph.inputs, draw.graph.outputs = [image], [scores]
    draw.model.signatureDefs = [_signature(image, scores)]
    return packed_again(draw.model)


def streaming(*, seed: int = 1) -> bytes:
    """`(1, 2, 8)` → the six newest of all frames → dense, softmax: it remembers four frames in a variable."""
    draw = _Drawing(seed)
    once = schema.CallOnceOptionsT()
    once.initSubgraphIndex = 1
    draw.operator(_CODES.CALL_ONCE, [], [], _OPTIONS.CallOnceOptions, once)
    frames, kept = draw.tensor("frames", (1, 2, 8)), draw.tensor("kept", (1, 4, 8))
    handle = _handle(draw)
    draw.operator(_CODES.READ_VARIABLE, [handle], [kept])
    joined, newest, flat = (
        draw.tensor(name, shape) for name, shape in (("joined", (1, 6, 8)), ("newest", (1, 4, 8)), ("flat", (1, 48)))
    )
    concatenation = schema.ConcatenationOptionsT()
    concatenation.axis = 1
    draw.operator(_CODES.CONCATENATION, [kept, frames], [joined], _OPTIONS.ConcatenationOptions, concatenation)
    cut = [draw.integers("begin", 0, 2, 0), draw.integers("end", 1, 6, 8), draw.integers("step", 1, 1, 1)]
    options = schema.StridedSliceOptionsT()
    draw.operator(_CODES.STRIDED_SLICE, [joined, *cut], [newest], _OPTIONS.StridedSliceOptions, options)
    draw.operator(_CODES.ASSIGN_VARIABLE, [handle, newest], [])
    draw.operator(_CODES.RESHAPE, [joined, draw.integers("shape", 1, 48)], [flat])
    draw.graph.inputs, draw.graph.outputs = [frames], [_dense(draw, flat, 48, 3)]
    draw.begin_graph()
    handle = _handle(draw)
    silence = draw.tensor("silence", (1, 4, 8), content=np.zeros((1, 4, 8), "<f4"))
    draw.operator(_CODES.ASSIGN_VARIABLE, [handle, silence], [])
    return packed_again(draw.model)


def weights_behind(model: bytes) -> bytes:
    """The same model with its constants behind the graph, as large quantized files have them."""
    tree = schema.ModelT.InitFromPackedBuf(model)
    contents = [bytes(buffer.data) if buffer.data is not None else b"" for buffer in tree.buffers]
    for buffer, content in zip(tree.buffers, contents, strict=True):
        # Numbers that are there already keep their room when the true ones are written.
        buffer.data, buffer.offset, buffer.size = None, *((2, len(content)) if content else (0, 0))
    place = _rounded(len(packed_again(tree)))
    for buffer, content in zip(tree.buffers, contents, strict=True):
        if content:
            buffer.offset, place = place, place + _rounded(len(content))
    graph = packed_again(tree)
    padded = (content.ljust(_rounded(len(content)), b"\0") for content in contents)
    return graph.ljust(_rounded(len(graph)), b"\0") + b"".join(padded)


def packed_again(tree: schema.ModelT | bytes) -> bytes:
    """What a tool makes of a model that reads and writes it as objects: weights behind the graph are gone."""
    if isinstance(tree, bytes):
        tree = schema.ModelT.InitFromPackedBuf(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _rounded(size: int) -> int:
    return -(-size // 16) * 16


def _signature(image: int, scores: int) -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    entries = [schema.TensorMapT(), schema.TensorMapT()]
    for entry, name, tensor in zip(entries, ("image", "scores"), (image, scores), strict=True):
        entry.name, entry.tensorIndex = name, tensor
    signature.inputs, signature.outputs = entries[:1], entries[1:]
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    return signature


def _dense(draw: _Drawing, flat: int, size: int, classes: int) -> int:
    logits, scores = draw.tensor("logits", (1, classes)), draw.tensor("scores", (1, classes))
    inputs = (flat, draw.weights("dense", classes, size), draw.weights("dense_bias", classes))
    options = schema.FullyConnectedOptionsT()
    draw.operator(_CODES.FULLY_CONNECTED, inputs, [logits], _OPTIONS.FullyConnectedOptions, options)
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    draw.operator(_CODES.SOFTMAX, [logits], [scores], _OPTIONS.SoftmaxOptions, softmax)
    return scores


def _handle(draw: _Drawing) -> int:
    options = schema.VarHandleOptionsT()
    options.container, options.sharedName = "", "memory"
    handle = draw.tensor("memory", (), kind=_TYPES.RESOURCE)
    draw.operator(_CODES.VAR_HANDLE, [], [handle], _OPTIONS.VarHandleOptions, options)
    return handle
