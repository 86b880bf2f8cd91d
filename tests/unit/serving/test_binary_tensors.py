from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.serving.protocols.tensors import datatype, read_body, write_outputs
from agent.serving.requests import InferRequest, NamedTensor
from shared.errors import InvalidInputError

DTYPES = ["bool", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64"]


def binary(*arrays: np.ndarray[Any, Any], **parameters: object) -> tuple[bytes, str]:
    inputs = [
        {
            "name": f"x{number}",
            "datatype": datatype(array.dtype.name),
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for number, array in enumerate(arrays)
    ]
    text = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    return text + b"".join(array.tobytes() for array in arrays), str(len(text))


def changed(old: bytes, new: bytes) -> tuple[bytes, str]:
    data, length = binary(np.array([1, 2], np.float32))
    text = data[: int(length)].replace(old, new)
    return text + data[int(length) :], str(len(text))


@given(st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(max_dims=3, max_side=4))))
def test_tensors_survive_bytes_in_both_directions(array: np.ndarray[Any, Any]) -> None:
    finite = np.nan_to_num(array, posinf=0, neginf=0) if array.dtype.kind == "f" else array
    data, length = binary(finite, np.arange(3, dtype=np.int32), binary_data_output=True)
    asked, request = read_body(data, length)
    assert isinstance(request, InferRequest)
    described, blobs = write_outputs(tuple(NamedTensor(name=t.name, array=t.array) for t in request.inputs), asked)
    assert blobs == [finite.tobytes(), np.arange(3, dtype=np.int32).tobytes()]
    assert described[0]["parameters"] == {"binary_data_size": finite.nbytes}
    assert (request.inputs[0].array.dtype, request.inputs[0].array.shape) == (finite.dtype, finite.shape)


def test_outputs_in_json_and_in_bytes_stand_side_by_side() -> None:
    wanted = [{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}]
    text = json.dumps({"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}], "outputs": wanted})
    asked, _ = read_body(text.encode())
    outputs = tuple(NamedTensor(name=name, array=np.array([7], np.int16)) for name in "ab")
    described, blobs = write_outputs(outputs, asked)
    assert blobs == [b"\x07\x00"]
    assert "data" not in described[0]
    assert described[1]["data"] == [7]


def test_one_output_may_stay_json_when_all_others_are_bytes() -> None:
    wanted = [{"name": "a", "parameters": {"binary_data": False}}]
    head = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}], "outputs": wanted}
    asked, _ = read_body(json.dumps({**head, "parameters": {"binary_data_output": True}}).encode())
    described, blobs = write_outputs((NamedTensor(name="a", array=np.array([7], np.int16)),), asked)
    assert (described[0]["data"], blobs) == ([7], [])


def test_text_output_is_written_with_the_length_of_each() -> None:
    asked, _ = read_body(*binary(np.array([1], np.int8), binary_data_output=True))
    _, blobs = write_outputs((NamedTensor(name="labels", array=np.array(["cat", "ü"], object)),), asked)
    assert blobs == [b"\x03\0\0\0cat\x02\0\0\0\xc3\xbc"]


@pytest.mark.parametrize(
    ("data", "length", "word"),
    [
        (*changed(b'"binary_data_size": 8', b'"binary_data_size": 9'), "9 bytes, and 8 are left"),
        (*changed(b'"binary_data_size": 8', b'"binary_data_size": 4'), "8 bytes, the body holds 4"),
        (*changed(b'"binary_data_size": 8', b'"binary_data_size": -1'), "-1 bytes"),
        (*changed(b'"shape": [2]', b'"shape": [-1, -2]'), "shape"),
        (*changed(b'"shape": [2]', b'"shape": [1099511627776, 1099511627776]'), "shape"),
        (*changed(b'"shape": [2]', b'"shape": [' + b"1, " * 99 + b"2]"), "100 axes"),
        (*changed(b'"shape": [2]', b'"shape": [0, 1073741824, 4]'), "shape"),
        (*changed(b'"FP32", "shape": [2]', b'"BYTES", "shape": [4000000]'), "1 to 256"),
        (*changed(b'{"binary_data_size": 8}', b"{}"), "missing"),
        (*changed(b'"FP32"', b'"BYTES"'), "text|elements"),
        (*binary(np.array([np.nan], np.float32)), "NaN"),
        (*changed(b'"datatype": "FP32", "shape": [2]', b'"datatype": "BOOL", "shape": [8]'), "neither true"),
        (binary(np.array([1], np.int8))[0] + b"more", binary(np.array([1], np.int8))[1], "4 bytes belong to no input"),
    ],
)
def test_attack_bytes_that_are_not_what_the_request_claims_are_refused(data: bytes, length: str, word: str) -> None:
    with pytest.raises(InvalidInputError, match=word):
        read_body(data, length)


@pytest.mark.parametrize("length", ["-1", "+5", "1_0", "٣", "", "many", "99999999999999999999", "9" * 5000])
def test_attack_length_that_is_none_is_refused(length: str) -> None:
    data, _ = binary(np.array([1], np.int8))
    with pytest.raises(InvalidInputError, match="no length within a body"):
        read_body(data, length)


@given(st.lists(st.integers(-1, 2**70), max_size=70))
def test_attack_any_shape_is_read_or_refused(shape: list[int]) -> None:
    data, length = changed(b'"shape": [2]', b'"shape": ' + json.dumps(shape).encode())
    with contextlib.suppress(InvalidInputError):
        read_body(data, length)


def test_attack_texts_without_end_are_not_all_read() -> None:
    text = json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [3]} | _size(4_000_000)]}).encode()
    with pytest.raises(InvalidInputError, match="3 elements, data has 257"):
        read_body(text + bytes(4_000_000), str(len(text)))


def _size(size_bytes: int) -> dict[str, object]:
    return {"parameters": {"binary_data_size": size_bytes}}
