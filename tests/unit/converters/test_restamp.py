from __future__ import annotations

import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.quantization.quantize import quantize
from converters.quantization.restamp import restamp
from shared.conversion import Recipe
from shared.manifest import Scheme
from shared.runtime.verifier import verify
from tests.support import networks

NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def versions(model: bytes) -> dict[str, int]:
    root = schema.Model.GetRootAs(model)
    codes = [root.OperatorCodes(index) for index in range(root.OperatorCodesLength())]
    return {NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]: code.Version() for code in codes}


def runtime(model: bytes) -> str:
    root = schema.Model.GetRootAs(model)
    held = {root.Metadata(index).Name(): root.Metadata(index).Buffer() for index in range(root.MetadataLength())}
    buffer = root.Buffers(held[b"min_runtime_version"])
    content = model[buffer.Offset() : buffer.Offset() + buffer.Size()] if buffer.Offset() > 1 else buffer.DataAsNumpy()
    return bytes(content).rstrip(b"\0").decode()


def made(scheme: Scheme) -> bytes:
    return quantize(networks.network(), Recipe(scheme=scheme), networks.images(4))


def test_float_model_is_left_as_it_is() -> None:
    model = networks.network()
    assert restamp(model) == model


def test_stamped_file_is_stamped_once() -> None:
    model = made(Scheme.DYNAMIC_INT8)
    assert restamp(model) == model


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (Scheme.DYNAMIC_INT8, {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12, "ADD": 1}),
        (Scheme.FULL_INT8, {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "MEAN": 2}),
        (Scheme.INT16X8, {"ADD": 3, "MEAN": 3, "QUANTIZE": 2}),
        (Scheme.WEIGHT_INT8, {"DEQUANTIZE": 5, "CONV_2D": 1}),
        (Scheme.WEIGHT_INT4, {"DEQUANTIZE": 6}),
        (Scheme.FLOAT16, {"DEQUANTIZE": 3, "CONV_2D": 1}),
    ],
)
def test_versions_are_those_that_the_types_ask_for(scheme: Scheme, expected: dict[str, int]) -> None:
    found = versions(made(scheme))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [(Scheme.DYNAMIC_INT8, "2.17.0"), (Scheme.WEIGHT_INT8, "2.7.0"), (Scheme.WEIGHT_INT4, "2.18.0")],
)
def test_runtime_is_the_first_that_knows_the_versions(scheme: Scheme, expected: str) -> None:
    assert runtime(made(scheme)) == expected


@pytest.mark.parametrize("scheme", [Scheme.DYNAMIC_INT8, Scheme.FULL_INT8, Scheme.WEIGHT_INT4])
def test_stamped_file_is_sound(scheme: Scheme) -> None:
    verify(made(scheme))


def test_versions_that_were_left_out_are_added_behind_the_weights() -> None:
    outside = networks.with_weights_outside(networks.network())
    stamped = quantize(outside, Recipe(scheme=Scheme.DYNAMIC_INT8), [])
    assert versions(stamped)["FULLY_CONNECTED"] == 12
    verify(stamped)


def test_newer_versions_than_asked_for_stay() -> None:
    model = bytearray(made(Scheme.DYNAMIC_INT8))
    root = schema.Model.GetRootAs(bytes(model))
    code = root.OperatorCodes(0)
    model[code._tab.Pos + code._tab.Offset(8)] = 9
    assert versions(restamp(bytes(model)))["CONV_2D"] == 9
