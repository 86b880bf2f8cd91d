from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shared.errors import PipelineError
from shared.manifest import GoldenCase, GoldenCheck, TensorData
from shared.runtime.golden import check_golden, to_array, to_tensor_data
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support.models import dense_classifier, golden_check, one_hot_classifier, random_classifier

MODEL = random_classifier(6, 3, seed=1)


def with_output(golden: GoldenCheck, case: int, output: TensorData) -> GoldenCheck:
    cases = list(golden.cases)
    cases[case] = GoldenCase(inputs=cases[case].inputs, outputs=(output,))
    return msgspec.structs.replace(golden, cases=tuple(cases))


def test_golden_same_model_holds() -> None:
    assert check_golden(LiteRtInterpreter(MODEL, threads=1), golden_check(MODEL)) == ""


def test_golden_other_weights_do_not_hold() -> None:
    other = LiteRtInterpreter(random_classifier(6, 3, seed=2), threads=1)
    assert check_golden(other, golden_check(MODEL)).startswith("golden_mismatch: case 0 output 0 differs by ")


def test_golden_one_wrong_case_is_named() -> None:
    golden = golden_check(MODEL)
    moved = to_array(golden.cases[3].outputs[0]) + np.float32(0.4)
    said = check_golden(LiteRtInterpreter(MODEL, threads=1), with_output(golden, 3, to_tensor_data(moved)))
    assert said == "golden_mismatch: case 3 output 0 differs by 0.4"


@pytest.mark.parametrize(("offset", "holds"), [(0.09, True), (0.11, False)])
def test_golden_difference_is_held_against_absolute_tolerance(offset: float, holds: bool) -> None:
    golden = msgspec.structs.replace(golden_check(MODEL), atol=0.1, rtol=0.0)
    moved = to_array(golden.cases[0].outputs[0]) + np.float32(offset)
    said = check_golden(LiteRtInterpreter(MODEL, threads=1), with_output(golden, 0, to_tensor_data(moved)))
    assert (said == "") is holds


def test_golden_nan_expected_does_not_hold() -> None:
    golden = msgspec.structs.replace(golden_check(MODEL), atol=float("inf"))
    broken = np.full((1, 3), np.nan, np.float32)
    assert check_golden(LiteRtInterpreter(MODEL, threads=1), with_output(golden, 0, to_tensor_data(broken)))


def test_golden_without_cases_does_not_hold() -> None:
    empty = GoldenCheck(cases=(), atol=1.0, rtol=1.0)
    assert check_golden(LiteRtInterpreter(MODEL, threads=1), empty) == "golden_mismatch: the check has no case"


def test_golden_model_of_another_shape_does_not_hold() -> None:
    other = LiteRtInterpreter(one_hot_classifier(10), threads=1)
    assert "case 0 does not run: input input takes shape" in check_golden(other, golden_check(MODEL))


def test_golden_other_dtype_of_output_is_told() -> None:
    golden = with_output(golden_check(MODEL), 0, to_tensor_data(np.zeros((1, 3), np.int8)))
    said = check_golden(LiteRtInterpreter(MODEL, threads=1), golden)
    assert said == "golden_mismatch: case 0 output 0 is float32 (1, 3), expected int8 (1, 3)"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int64", "bool", ">f4"])
def test_tensor_data_round_trip_keeps_every_value(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).T.astype(dtype)
    data = to_tensor_data(array)
    np.testing.assert_array_equal(to_array(data), array)
    assert data.dtype == array.dtype.name


def test_tensor_data_scalar_round_trip_keeps_shape() -> None:
    assert to_array(to_tensor_data(np.array(1.5, np.float32))).shape == ()


@pytest.mark.parametrize(
    "data",
    [
        TensorData(dtype="float32", shape=(2,), data=b"\0" * 7),
        TensorData(dtype="float32", shape=(3,), data=b"\0" * 8),
        TensorData(dtype="object", shape=(1,), data=b"\0" * 8),
        TensorData(dtype="no such", shape=(1,), data=b"\0"),
    ],
)
def test_tensor_data_that_does_not_add_up_is_refused(data: TensorData) -> None:
    with pytest.raises(PipelineError):
        to_array(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_golden_answer_that_is_no_number_does_not_hold_even_where_it_was_expected(value: float) -> None:
    model = dense_classifier(np.full((3, 2), value, np.float32), np.zeros(2, np.float32), softmax=False)
    interpreter = LiteRtInterpreter(model, threads=1)
    item = np.ones((1, 3), np.float32)
    case = GoldenCase(inputs=(to_tensor_data(item),), outputs=(to_tensor_data(interpreter.run([item])[0]),))
    with np.errstate(invalid="ignore"):
        assert check_golden(interpreter, GoldenCheck(cases=(case,), atol=1e9, rtol=0.0))


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0])
def test_golden_tolerance_that_is_no_size_lets_nothing_pass(tolerance: float) -> None:
    golden = msgspec.structs.replace(golden_check(MODEL), atol=tolerance, rtol=0.0)
    assert check_golden(LiteRtInterpreter(MODEL, threads=1), golden)


def test_golden_case_that_expects_no_output_does_not_hold() -> None:
    golden = golden_check(MODEL)
    silent = GoldenCase(inputs=golden.cases[0].inputs, outputs=())
    said = check_golden(LiteRtInterpreter(MODEL, threads=1), msgspec.structs.replace(golden, cases=(silent,)))
    assert said == "golden_mismatch: case 0 has 1 outputs, expected 0"
