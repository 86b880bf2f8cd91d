from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ModelLoadError
from shared.runtime.flatbuffer import root
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.verifier import verify
from tests.support.drawn_networks import packed_again, weights_behind
from tests.support.models import one_hot_classifier, random_classifier

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = random_classifier(6, 4, seed=1)


def changed(change: Callable[[schema.ModelT], None]) -> bytes:
    """A valid FlatBuffer with one thing wrong in it."""
    model = schema.ModelT.InitFromPackedBuf(MODEL)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def tensor(
    name: str, shape: tuple[int, ...], *, kind: int = schema.TensorType.FLOAT32, buffer: int = 0
) -> schema.TensorT:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, list(shape), kind, buffer
    return made


def graph_input(model: schema.ModelT) -> None:
    model.subgraphs[0].inputs = [99]


def graph_output(model: schema.ModelT) -> None:
    model.subgraphs[0].outputs = [-1]


def operator_input(model: schema.ModelT) -> None:
    model.subgraphs[0].operators[0].inputs = [0, 1, 77]


def operator_without_weights(model: schema.ModelT) -> None:
    model.subgraphs[0].operators[0].inputs = [0, -1, 2]


def operator_of_few_inputs(model: schema.ModelT) -> None:
    model.operatorCodes[1].builtinCode = schema.BuiltinOperator.STRIDED_SLICE


def weights_of_strings(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[1].type = schema.TensorType.STRING


def weights_of_small_whole_numbers(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[1].type = schema.TensorType.INT16


def options_of_another_operator(model: schema.ModelT) -> None:
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.SPLIT


def constant_overwritten(model: schema.ModelT) -> None:
    model.subgraphs[0].operators[1].outputs = [2]


def operator_output(model: schema.ModelT) -> None:
    model.subgraphs[0].operators[0].outputs = [-1]


def operator_code(model: schema.ModelT) -> None:
    model.subgraphs[0].operators[0].opcodeIndex = 5


def buffer_index(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[1].buffer = 12


def buffer_too_short(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[1].shape = [4, 600]


def buffer_outside(model: schema.ModelT) -> None:
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 64, 2**40


def negative_shape(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[0].shape = [1, -6]


def huge_shape(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[0].shape = [2**30, 2**30]


def tensor_of_strings(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[4].type = schema.TensorType.STRING


def input_of_resources(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors.append(tensor("variable", (1,), kind=schema.TensorType.RESOURCE))
    model.subgraphs[0].inputs = [0, 5]


def input_twice(model: schema.ModelT) -> None:
    model.subgraphs[0].inputs = [0, 0]


def input_that_is_a_constant(model: schema.ModelT) -> None:
    model.subgraphs[0].inputs = [0, 2]


def input_that_is_an_answer(model: schema.ModelT) -> None:
    model.subgraphs[0].inputs = [0, 3]


def output_that_nobody_writes(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors.append(tensor("nothing", (1,)))
    model.subgraphs[0].outputs = [5]


def tensor_written_twice(model: schema.ModelT) -> None:
    model.subgraphs[0].operators[1].outputs = [3]


def operator_of_two_answers(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors.append(tensor("more", (1, 4)))
    model.subgraphs[0].operators[1].outputs = [4, 5]


def variable_for_numbers(model: schema.ModelT) -> None:
    model.operatorCodes[1].builtinCode = schema.BuiltinOperator.READ_VARIABLE
    model.operatorCodes[1].deprecatedBuiltinCode = schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES - 1


def numbers_for_a_variable(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[3].type = schema.TensorType.RESOURCE


def sixty_axes(model: schema.ModelT) -> None:
    model.operatorCodes[1].builtinCode = model.operatorCodes[1].deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    model.subgraphs[0].tensors.append(tensor("shape", (60,), kind=schema.TensorType.INT32, buffer=3))
    model.subgraphs[0].operators[1].inputs = [3, 5]
    model.buffers.append(schema.BufferT())
    model.buffers[3].data = np.ones(240, np.uint8)


def noise(model: schema.ModelT) -> None:
    model.operatorCodes[1].builtinCode = schema.BuiltinOperator.RANDOM_UNIFORM


def operator_without_a_kernel(model: schema.ModelT) -> None:
    model.operatorCodes[1].builtinCode = schema.BuiltinOperator.STABLEHLO_CUSTOM_CALL


def operator_of_the_future(model: schema.ModelT) -> None:
    model.operatorCodes[1].builtinCode = 4000


def free_shape_of_another_shape(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[0].shapeSignature = [-1, 7]


def weights_in_another_file(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[1].externalBuffer = 1


def weights_dropped(model: schema.ModelT) -> None:
    model.buffers[1].data = None


def buffer_within_the_graph(model: schema.ModelT) -> None:
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 40, 96


def metadata_buffer(model: schema.ModelT) -> None:
    model.metadata = [schema.MetadataT()]
    model.metadata[0].name, model.metadata[0].buffer = "min_runtime_version", 9


def signature(model: schema.ModelT, *, tensor: int = 0, graph: int = 0) -> None:
    named, entry = schema.SignatureDefT(), schema.TensorMapT()
    entry.name, entry.tensorIndex = "x", tensor
    named.inputs, named.outputs, named.signatureKey, named.subgraphIndex = [entry], [], "serving_default", graph
    model.signatureDefs = [named]


def signature_of_an_inner_tensor(model: schema.ModelT) -> None:
    signature(model, tensor=3)


def signature_of_no_tensor(model: schema.ModelT) -> None:
    signature(model, tensor=2**32 - 1)


def signature_of_no_graph(model: schema.ModelT) -> None:
    signature(model, graph=1)


def operator_of_its_own_answer(model: schema.ModelT) -> None:
    model.subgraphs[0].operators[1].inputs = [4]


def operators_in_wrong_order(model: schema.ModelT) -> None:
    model.subgraphs[0].operators.reverse()


def reshape_without_its_shape(model: schema.ModelT) -> None:
    model.operatorCodes[1].builtinCode = model.operatorCodes[1].deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    model.subgraphs[0].operators[1].inputs = [3, -1]


def softmax_into_bytes(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[4].type = schema.TensorType.INT8


def unpacked_weights_grow(model: schema.ModelT) -> None:
    code = model.operatorCodes[1]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    model.subgraphs[0].tensors[4].shape = [1, 40000]


def many_axes(model: schema.ModelT) -> None:
    model.subgraphs[0].tensors[0].shape = [1] * 9


def custom_operator(model: schema.ModelT) -> None:
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = "FlexRandomUniform"


def no_graph(model: schema.ModelT) -> None:
    model.subgraphs = []


def endless_call(model: schema.ModelT) -> None:
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.WHILE
    operator = model.subgraphs[0].operators[0]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.WhileOptions, schema.WhileOptionsT()


def quantization_axis(model: schema.ModelT) -> None:
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint, quantization.quantizedDimension = [1.0] * 4, [0] * 4, 7
    model.subgraphs[0].tensors[1].quantization = quantization


def quantization_scale(model: schema.ModelT) -> None:
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = [float("nan")], [0]
    model.subgraphs[0].tensors[1].quantization = quantization


@pytest.mark.parametrize("model", [MODEL, one_hot_classifier(), random_classifier(9, 3, seed=2, batch=-1)])
def test_verifier_accepts_a_model_that_runs(model: bytes) -> None:
    verify(model)


def test_verifier_accepts_a_model_packed_again() -> None:
    verify(changed(lambda _: None))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (graph_input, "graph 0 inputs: 99 of 5"),
        (graph_output, "graph 0 outputs: -1 of 5"),
        (operator_input, "graph 0 operator 0 inputs: 77 of 5"),
        (operator_without_weights, "graph 0 operator 0 leaves out an input that it needs"),
        (operator_of_few_inputs, "graph 0 operator 1 has 1 inputs and needs 4"),
        (weights_of_strings, "graph 0 tensor 1 is of type 5, no numbers"),
        (weights_of_small_whole_numbers, "graph 0 operator 0 has weights of type 7"),
        (options_of_another_operator, "graph 0 operator 0 has options of kind 8"),
        (constant_overwritten, "graph 0 operator 1 writes to a constant"),
        (operator_output, "graph 0 operator 0 outputs: -1 of 5"),
        (operator_code, "graph 0 operator 0 names code 5 of 2"),
        (buffer_index, "graph 0 tensor 1 names buffer 12 of 3"),
        (buffer_too_short, "graph 0 tensor 1 needs 9600 bytes and has 96"),
        (buffer_outside, "buffer 1 ends outside"),
        (negative_shape, r"graph 0 tensor 0 has shape \(1, -6\)"),
        (huge_shape, "graph 0 tensor 0 .* is too large"),
        (tensor_of_strings, "graph 0 tensor 4 is of type 5, no numbers"),
        (input_of_resources, "input 5 is of type 13, no numbers"),
        (input_twice, "graph 0 inputs name a tensor twice"),
        (input_that_is_a_constant, "graph 0 inputs: a constant is none"),
        (input_that_is_an_answer, "graph 0 operator 0 writes to tensor 3, which has its content already"),
        (output_that_nobody_writes, "graph 0 outputs: no operator writes tensor 5"),
        (tensor_written_twice, "graph 0 operator 1 reads its|operator 1 writes to tensor 3, which has its content"),
        (operator_of_two_answers, "graph 0 operator 1 has 2 outputs"),
        (variable_for_numbers, "graph 0 operator 1 takes a variable for numbers"),
        (numbers_for_a_variable, "graph 0 operator 0 .*takes a variable for numbers|turns type"),
        (sixty_axes, "graph 0 operator 1 has 60 sizes or axes in input 1: 8 are the most"),
        (noise, "operator code 148 answers by chance"),
        (operator_without_a_kernel, "operator code 173 is none that may run"),
        (operator_of_the_future, "operator code 4000 is none that may run"),
        (free_shape_of_another_shape, r"graph 0 tensor 0 of shape \(1, 6\) says that it may be \(-1, 7\)"),
        (weights_in_another_file, "graph 0 tensor 1 keeps its content in another file"),
        (weights_dropped, r"graph 0 operator 0 reads tensor 1 \('weights'\), and its weights are not in the file"),
        (buffer_within_the_graph, "buffer 1 lies within the graph"),
        (metadata_buffer, "metadata buffer: 9 of 3"),
        (signature_of_an_inner_tensor, "signature inputs: tensor 3 is none of graph 0"),
        (signature_of_no_tensor, "signature inputs: tensor 4294967295 is none of graph 0"),
        (signature_of_no_graph, "a signature names graph 1 of 1"),
        (operator_of_its_own_answer, "graph 0 operator 1 reads what no operator before it writes"),
        (operators_in_wrong_order, "graph 0 operator 0 reads what no operator before it writes"),
        (reshape_without_its_shape, "graph 0 operator 1 leaves out an input"),
        (softmax_into_bytes, "graph 0 operator 1 turns type 0 into 9"),
        (unpacked_weights_grow, r"graph 0 operator 1 turns shape \(1, 4\) into \(1, 40000\)"),
        (many_axes, "graph 0 tensor 0 has 9 axes"),
        (custom_operator, "custom or Flex operator"),
        (no_graph, "has 0 graphs"),
        (endless_call, "graph 0 calls itself"),
        (quantization_axis, "4 scales on axis 7"),
        (quantization_scale, "a scale that is no size"),
    ],
)
def test_verifier_attack_is_refused_by_its_place(attack: Callable[[schema.ModelT], None], said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        verify(changed(attack))


def test_verifier_accepts_weights_behind_the_graph_and_the_runtime_reads_them() -> None:
    model = weights_behind(MODEL)
    question = np.arange(6, dtype=np.float32)[None]
    ours, theirs = (LiteRtInterpreter(content, threads=1).run([question]) for content in (model, MODEL))
    assert ours[0].tolist() == theirs[0].tolist()


def test_verifier_file_packed_again_without_its_weights_is_refused_by_the_cause() -> None:
    model = weights_behind(MODEL)
    with pytest.raises(ModelLoadError, match="packed again by a tool that drops weights kept behind the graph"):
        verify(packed_again(model))


def test_verifier_buffers_that_overlap_are_refused() -> None:
    model = bytearray(weights_behind(MODEL))
    first, second = root(bytes(model), b"TFL3").tables(4)[1:3]
    place = second._place(1)
    assert place is not None
    model[place : place + 8] = (first.number(1, "Q") + 8).to_bytes(8, "little")
    with pytest.raises(ModelLoadError, match="two buffers overlap at byte"):
        verify(bytes(model))


@given(st.integers(0, len(MODEL)))
def test_verifier_cut_file_never_raises_anything_else(length: int) -> None:
    try:
        verify(MODEL[:length])
    except ModelLoadError:
        return
    # What is left out may be padding, and nothing else.
    assert length > len(MODEL) - 8


@given(st.lists(st.tuples(st.integers(8, len(MODEL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_verifier_damaged_file_never_raises_anything_else(damage: list[tuple[int, int]]) -> None:
    content = bytearray(MODEL)
    for place, value in damage:
        content[place] = value
    with contextlib.suppress(ModelLoadError):
        verify(bytes(content))


@given(st.binary(max_size=300))
def test_verifier_random_bytes_are_refused(rest: bytes) -> None:
    with pytest.raises(ModelLoadError):
        verify(b"\x08\0\0\0TFL3" + rest[:4])
    with pytest.raises(ModelLoadError):
        verify(rest)
