from __future__ import annotations

import pytest

from converters.failures import UnsupportedOperatorError
from converters.frontends.operators import FOREIGN, RANDOM, STATEFUL, check_served, histogram
from shared.errors import ModelLoadError


@pytest.mark.parametrize("name", [*sorted(RANDOM | STATEFUL | FOREIGN), "CUSTOM:FlexErf", "CUSTOM:ONNX_SCALER"])
def test_operator_that_cannot_serve_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=name):
        check_served({"CONV_2D": 3, name: 1}, stateful=False)


@pytest.mark.parametrize("name", sorted(STATEFUL))
def test_model_that_is_meant_to_remember_may_keep_state(name: str) -> None:
    check_served({name: 2}, stateful=True)


def test_model_that_is_meant_to_remember_may_not_be_random() -> None:
    with pytest.raises(UnsupportedOperatorError):
        check_served({"RANDOM_UNIFORM": 1}, stateful=True)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 40])
def test_histogram_of_a_file_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(ModelLoadError):
        histogram(content)
