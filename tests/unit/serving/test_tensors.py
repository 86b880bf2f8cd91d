from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.serving.protocols.tensors import InferBody, WantedOutput, datatype, read_body, write_outputs
from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor
from shared.errors import InvalidInputError

DTYPES = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64"]


def asking(*names: str) -> InferBody:
    return InferBody(inputs=(), outputs=tuple(WantedOutput(name=name) for name in names))


def body(**changes: object) -> bytes:
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2.5]} | changes
    return json.dumps({"inputs": [tensor]}).encode()


@given(st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(max_dims=3, max_side=4))))
def test_tensors_survive_json_in_both_directions(array: np.ndarray[Any, Any]) -> None:
    finite = np.nan_to_num(array) if array.dtype.kind == "f" else array
    written = write_outputs((NamedTensor(name="x", array=finite),), asking())[0]
    _, request = read_body(json.dumps({"inputs": written}).encode())
    assert isinstance(request, InferRequest)
    assert request.inputs[0].array.dtype == finite.dtype
    np.testing.assert_array_equal(request.inputs[0].array, finite)


def test_nested_data_is_read_in_row_order() -> None:
    _, request = read_body(body(shape=[2, 2], data=[[1, 2], [3, 4]]))
    assert isinstance(request, InferRequest)
    assert request.inputs[0].array.tolist() == [[1, 2], [3, 4]]
    assert request.rows == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"datatype": "FP8"}, "datatype"),
        ({"datatype": "BYTES", "data": ["a", "b", "c"]}, "2 elements"),
        ({"datatype": "BYTES", "data": [1, 2]}, "must be texts"),
        ({"datatype": "BYTES", "data": ["?", "!"], "parameters": {"content_type": "base64"}}, "base64"),
        ({"shape": [3]}, "3 elements"),
        ({"shape": [-1, -2]}, "shape"),
        ({"shape": [2**40, 2**40]}, "shape"),
        ({"data": [[1], [2, 3]]}, "regular"),
        ({"data": ["a", "b"]}, "FP32"),
        ({"data": [None, 1]}, "FP32"),
        ({"data": {"a": 1}}, "FP32"),
        ({"data": ["a" * 1000, *([1] * 9)], "shape": [10]}, "FP32"),
        ({"datatype": "INT32", "data": [[1], ["a" * 1000]]}, "INT32"),
        ({"shape": [1] * 9}, "9 axes"),
        ({"shape": [2**63 - 1] * 300}, "300 axes"),
        ({"shape": [2**80, 0], "data": []}, "shape"),
        ({"shape": [0, 2**30, 4], "data": []}, "shape"),
        ({"datatype": "INT8", "data": [1, 128]}, "INT8"),
        ({"datatype": "UINT8", "data": [-1, 1]}, "UINT8"),
        ({"datatype": "INT32", "data": [1.5, 2]}, "INT32"),
        ({"datatype": "INT64", "data": [2**70, 1]}, "INT64"),
        ({"datatype": "BOOL", "data": [0, 1]}, "BOOL"),
    ],
)
def test_tensor_that_is_not_what_it_claims_is_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInputError, match=word):
        read_body(body(**changes))


@pytest.mark.parametrize(
    ("datatype_name", "number"), [("FP16", 65_520), ("FP16", -1e6), ("FP32", 1e39), ("FP32", -1e300), ("FP32", 10**40)]
)
def test_attack_number_that_would_become_an_infinity_is_refused(datatype_name: str, number: float) -> None:
    with pytest.raises(InvalidInputError, match=datatype_name):
        read_body(body(datatype=datatype_name, data=[1, number]))


@pytest.mark.parametrize(
    ("datatype_name", "number", "largest"), [("FP16", 65_504, np.float16), ("FP32", 3.4028235e38, np.float32)]
)
def test_largest_number_of_a_type_is_taken(datatype_name: str, number: float, largest: type[np.floating[Any]]) -> None:
    _, request = read_body(body(datatype=datatype_name, data=[0, number]))
    assert isinstance(request, InferRequest)
    assert request.inputs[0].array[1] == np.finfo(largest).max


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"inputs": []}', b'{"inputs": [{"name": "x"}]}', b"\xff"])
def test_body_that_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read_body(data)


@pytest.mark.parametrize("depth", [40, 100, 100_000])
def test_deeply_nested_data_is_refused_as_an_attack_would_send_it(depth: int) -> None:
    nested = b"[" * depth + b"1" + b"]" * depth
    with pytest.raises(InvalidInputError):
        read_body(b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":' + nested + b"}]}")


def test_nan_leaves_as_null_where_a_model_gives_it() -> None:
    import msgspec

    written = write_outputs((NamedTensor(name="y", array=np.array([np.nan], np.float32)),), asking())[0]
    assert json.loads(msgspec.json.encode(written))[0]["data"] == [None]


def test_only_wanted_outputs_are_written_in_the_order_asked_for() -> None:
    outputs = tuple(NamedTensor(name=name, array=np.zeros(1)) for name in "abc")
    written = write_outputs(outputs, asking("c", "a"))[0]
    assert [each["name"] for each in written] == ["c", "a"]
    with pytest.raises(InvalidInputError, match="there are: a, b, c"):
        write_outputs(outputs, asking("d"))


def test_text_outputs_are_bytes_of_the_protocol() -> None:
    written = write_outputs((NamedTensor(name="labels", array=np.array(["cat", b"dog"], object)),), asking())[0]
    assert (written[0]["datatype"], written[0]["data"]) == ("BYTES", ["cat", "dog"])
    assert datatype("float16") == "FP16"


@pytest.mark.parametrize(
    ("parameters", "data"),
    [({}, ["one", "two"]), ({}, [["one"], ["two"]]), ({"content_type": "base64"}, ["b25l", "dHdv"])],
)
def test_texts_are_encoded_items_for_the_pipeline(parameters: dict[str, str], data: list[object]) -> None:
    changes: dict[str, Any] = {"datatype": "BYTES", "data": data, "parameters": parameters, "shape": [2]}
    _, request = read_body(body(**changes))
    assert isinstance(request, ClassifyRequest)
    assert (request.items, request.apart) == ((b"one", b"two"), False)
