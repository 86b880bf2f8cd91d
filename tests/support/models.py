"""Tiny real models, written as FlatBuffers by hand: no training framework, a few milliseconds each."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from shared import manifest
from shared.hardware import GENERIC
from shared.ids import ModelName, ReleaseId
from shared.manifest import Accuracy, GoldenCase, GoldenCheck, ManifestArtifact, ReleaseManifest, Scheme
from shared.pipeline import MODEL_ONLY, PipelineSpec
from shared.runtime.golden import to_tensor_data
from shared.runtime.interpreter import LiteRtInterpreter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

MADE_AT = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def dense_classifier(
    weights: Tensor, bias: Tensor, *, input_shape: tuple[int, ...] | None = None, batch: int = 1, softmax: bool = True
) -> bytes:
    """A `.tflite` of one FULLY_CONNECTED layer (and SOFTMAX): scores = softmax(x · weights + bias).

    `weights` is `(inputs, classes)`; `input_shape` (without batch) defaults to `(inputs,)` and may be an image's, which
    is read flat. `batch=-1` leaves the batch free in the signature.
    """
    size, classes = weights.shape
    shape = input_shape or (size,)
    assert int(np.prod(shape)) == size, "input_shape must hold as many numbers as weights has rows"
    tensors = [
        _tensor("input", (1, *shape), signature=(batch, *shape)),
        _tensor("weights", (classes, size), buffer=1),
        _tensor("bias", (classes,), buffer=2),
        _tensor("logits", (1, classes), signature=(batch, classes)),
    ]
    operators = [_fully_connected()]
    if softmax:
        tensors.append(_tensor("scores", (1, classes), signature=(batch, classes)))
        operators.append(_softmax())
    return _pack(tensors, operators, constants=[weights.T, bias])


def one_hot_classifier(classes: int = 10, *, shift: int = 0, input_shape: tuple[int, ...] | None = None) -> bytes:
    """A classifier whose answer is known: it names the position of the input's largest number, plus `shift`."""
    weights = 10 * np.roll(np.eye(classes, dtype=np.float32), shift, axis=1)
    return dense_classifier(weights, np.zeros(classes, np.float32), input_shape=input_shape)


def random_classifier(
    inputs: int, classes: int, *, seed: int, input_shape: tuple[int, ...] | None = None, batch: int = 1
) -> bytes:
    """A classifier with seeded random weights; thousands of inputs and classes make a slow one."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(inputs, classes)).astype(np.float32)
    return dense_classifier(weights, np.zeros(classes, np.float32), input_shape=input_shape, batch=batch)


def golden_check(model: bytes, *, cases: int = 4, seed: int = 0) -> GoldenCheck:
    """What `model` really answers to seeded random inputs here."""
    interpreter = LiteRtInterpreter(model, threads=1)
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(cases):
        inputs = [rng.random([abs(size) for size in spec.shape]).astype(spec.dtype) for spec in interpreter.inputs]
        outputs = interpreter.run(inputs)
        made.append(
            GoldenCase(
                inputs=tuple(to_tensor_data(array) for array in inputs),
                outputs=tuple(to_tensor_data(array) for array in outputs),
            )
        )
    return GoldenCheck(cases=tuple(made), atol=1e-4, rtol=1e-4)


def release_manifest(
    model: bytes,
    *,
    release_id: str = "0190a0b0-0000-7000-8000-000000000001",
    name: str = "digits",
    version_number: int = 1,
    release_counter: int = 1,
    pipeline: PipelineSpec = MODEL_ONLY,
    golden: GoldenCheck | None = None,
) -> ReleaseManifest:
    """The manifest of a release of `model` alone; its golden check is true unless another is given."""
    interpreter = LiteRtInterpreter(model, threads=1)
    sha256 = manifest.digest(model)
    artifact = ManifestArtifact(
        path=manifest.artifact_path(sha256),
        sha256=sha256,
        length_bytes=len(model),
        scheme=Scheme.FLOAT32,
        profiles=(GENERIC.profile_id,),
        inputs=interpreter.inputs,
        outputs=interpreter.outputs,
        accuracy=Accuracy(samples=100, source=0.9, artifact=0.9, agreement=1.0),
        golden=golden or golden_check(model),
    )
    return ReleaseManifest(
        release_id=ReleaseId(release_id),
        model=ModelName(name),
        version_number=version_number,
        release_counter=release_counter,
        source_sha256=manifest.digest(b"source of " + model),
        created_at=MADE_AT,
        pipeline=pipeline,
        artifacts=(artifact,),
    )


def release_folder(path: Path, model: bytes, made: ReleaseManifest | None = None) -> ReleaseManifest:
    """Write `manifest.json` and `model.tflite` as they lie on a device, into `path`; returns the manifest."""
    made = made or release_manifest(model)
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_bytes(manifest.encode(made))
    (path / "model.tflite").write_bytes(model)
    return made


def _tensor(
    name: str, shape: tuple[int, ...], *, signature: tuple[int, ...] | None = None, buffer: int = 0
) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
    tensor.type = schema.TensorType.FLOAT32
    if signature is not None and -1 in signature:
        tensor.shapeSignature = list(signature)
    return tensor


def _operator(code: int, inputs: Sequence[int], output: int, kind: int, options: object) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, list(inputs), [output]
    operator.builtinOptionsType, operator.builtinOptions = kind, options
    return operator


def _fully_connected() -> schema.OperatorT:
    options = schema.FullyConnectedOptionsT()
    return _operator(0, (0, 1, 2), 3, schema.BuiltinOptions.FullyConnectedOptions, options)


def _softmax() -> schema.OperatorT:
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return _operator(1, (3,), 4, schema.BuiltinOptions.SoftmaxOptions, options)


def _pack(tensors: list[schema.TensorT], operators: list[schema.OperatorT], *, constants: list[Tensor]) -> bytes:
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = tensors, operators
    graph.inputs, graph.outputs = [0], [len(tensors) - 1]
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [
        _code(schema.BuiltinOperator.FULLY_CONNECTED),
        _code(schema.BuiltinOperator.SOFTMAX),
    ]
    model.subgraphs = [graph]
    model.buffers = [schema.BufferT(), *(_buffer(constant) for constant in constants)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _code(builtin: int) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    return code


def _buffer(constant: Tensor) -> schema.BufferT:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(constant, dtype="<f4").tobytes(), np.uint8)
    return buffer
