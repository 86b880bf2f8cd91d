from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from converters.loaders.tfjs_topology import translated
from shared.errors import InvalidInputError
from tests.support.tfjs import layer, model

if TYPE_CHECKING:
    from collections.abc import Mapping


def topology(*layers: object) -> object:
    return model(layers)["modelTopology"]


def settings_of(declared: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings that are left of one layer."""
    settings: Mapping[str, Any] = translated(topology(declared))["config"]["layers"][-1]["config"]
    return settings


def test_first_layer_gives_its_shape_to_an_input_of_its_own() -> None:
    layers = translated(topology(layer("Dense", "head", units=2, batch_input_shape=[None, 4])))["config"]["layers"]
    assert [made["class_name"] for made in layers] == ["InputLayer", "Dense"]
    assert layers[0]["config"]["batch_shape"] == [None, 4]
    assert "batch_input_shape" not in layers[1]["config"]


def test_what_only_trains_is_left_out() -> None:
    glorot = {"class_name": "GlorotUniform", "config": {}}
    left = settings_of(
        layer("Dense", "head", units=2, kernel_initializer=glorot, bias_regularizer=None, kernel_constraint=None)
    )
    assert left == {"name": "head", "dtype": "float32", "units": 2}


def test_gated_layer_resets_before_unless_it_says_otherwise() -> None:
    assert settings_of(layer("GRU", "gru", units=2))["reset_after"] is False
    assert settings_of(layer("GRU", "gru", units=2, reset_after=True))["reset_after"] is True


def test_list_of_one_axis_becomes_the_axis() -> None:
    assert settings_of(layer("BatchNormalization", "norm", axis=[3]))["axis"] == 3


def test_model_within_a_model_is_translated_too() -> None:
    inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": [layer("GRU", "gru", units=1)]}}
    made = translated(topology(inner))["config"]["layers"][0]
    assert made["name"] == "inner"
    assert made["config"]["layers"][0]["config"]["reset_after"] is False


def test_bare_list_of_layers_is_a_sequential_model() -> None:
    made = translated({"class_name": "Sequential", "config": [layer("Dense", "head", units=2)]})
    assert made["config"]["layers"][0]["config"]["units"] == 2


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (layer("Lambda", "code"), "layer 'code' is of class 'Lambda'"),
        (layer("MyLayer", "mine"), "layer 'mine' is of class 'MyLayer'"),
        (layer("TFSMLayer", "file", filepath="/etc"), "'TFSMLayer', which may be code of its own"),
        (layer("TimeDistributed", "each", layer=layer("Lambda", "code")), "class 'Lambda'"),
        (layer("Dense", "head", activation="os.system"), "activation 'os.system', which is not built in"),
        (layer("Dense", "head", activation={"class_name": "function"}), "which is not built in"),
        (layer("LSTM", "lstm", stateful=True), "layer 'lstm' is stateful"),
        (layer("LSTM", "lstm", time_major=True), "layer 'lstm' is time_major"),
        ({"class_name": ["Dense"], "config": {}}, "is of class"),
        ({"class_name": "Dense"}, "declares nothing"),
        (7, "declares nothing"),
    ],
)
def test_layer_that_could_do_more_than_compute_is_refused_by_name(declared: object, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        translated(topology(declared))


@pytest.mark.parametrize("declared", [None, [], {}, {"model_config": 1}, {"class_name": "Evil", "config": {}}])
def test_topology_that_is_none_is_refused(declared: object) -> None:
    with pytest.raises(InvalidInputError, match="source: "):
        translated(declared)


def test_models_nested_without_end_are_refused() -> None:
    declared: dict[str, Any] = layer("Dense", "head", units=1)
    for depth in range(40):
        declared = {"class_name": "Sequential", "config": {"name": f"m{depth}", "layers": [declared]}}
    with pytest.raises(InvalidInputError, match="without end"):
        translated(json.loads(json.dumps(declared)))
