from __future__ import annotations

import json

import numpy as np
import pytest

from agent.serving.protocols import grpc_tensors, open_inference_pb2
from agent.serving.protocols.json_bounds import MAX_NESTED, MAX_NUMBERS, check_json
from agent.serving.protocols.tensors import MAX_TENSORS, read_body, write_outputs
from agent.serving.requests import NamedTensor
from shared.errors import InvalidInputError

OUTPUT = (NamedTensor(name="scores", array=np.zeros((1, 10), np.float32)),)


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * MAX_NESTED + b"[]]",
        b"[" + b"{}," * MAX_NESTED + b"{}]",
        b"[" + b"1," * (MAX_NUMBERS + 1) + b"1]",
    ],
)
def test_attack_text_that_would_fill_the_memory_is_refused_before_it_is_read(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match="holds more than"):
        check_json(text)


def test_pictures_in_json_are_read() -> None:
    check_json(json.dumps(np.zeros((8, 224, 224, 3)).tolist()).encode())


def test_attack_output_asked_for_a_thousand_times_is_refused() -> None:
    head = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]}
    asked, _ = read_body(json.dumps(head | {"outputs": [{"name": "scores"}] * 1000}).encode())
    with pytest.raises(InvalidInputError, match="1000 of 1"):
        write_outputs(OUTPUT, asked)
    message = open_inference_pb2.ModelInferRequest()
    for _ in range(1000):
        message.outputs.add(name="scores")
    with pytest.raises(InvalidInputError, match="1000 of 1"):
        grpc_tensors.write(OUTPUT, message, open_inference_pb2.ModelInferResponse())


def test_attack_inputs_without_end_are_refused() -> None:
    tensor = {"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}
    with pytest.raises(InvalidInputError, match="more than"):
        read_body(json.dumps({"inputs": [tensor] * (MAX_TENSORS + 1)}).encode())
    message = open_inference_pb2.ModelInferRequest()
    for _ in range(MAX_TENSORS + 1):
        message.inputs.add(name="x", datatype="INT8", shape=[1])
    with pytest.raises(InvalidInputError, match="more than"):
        grpc_tensors.read(message)


def test_attack_numbers_that_are_not_raw_are_bounded_over_grpc() -> None:
    message = open_inference_pb2.ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype="INT8", shape=[1])
    tensor.contents.int_contents.extend(np.zeros(MAX_NUMBERS + 1, np.int32).tolist())
    with pytest.raises(InvalidInputError, match="raw_input_contents"):
        grpc_tensors.read(message)
