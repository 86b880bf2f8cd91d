"""What is done to the float model before it is rounded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from converters.failures import SchemeFailedError
from converters.quantization import bias
from converters.quantization.calibration import Range
from converters.quantization.equalise import equalise, find_groups
from converters.quantization.graph import FloatGraph
from converters.quantization.headroom import overflowing, weight_bounds
from converters.quantization.sensitivity import rank, snr_db
from converters.quantization.weight_grid import Grid
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import networks

BYTE = Grid(bits=8)
COARSE = Grid(bits=4)


def answers(model: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    interpreter = LiteRtInterpreter(model, threads=1)
    return np.concatenate([interpreter.run([image[np.newaxis]])[0] for image in networks.images(24, seed=9)])


def rounded(model: bytes, grid: Grid) -> bytes:
    graph = FloatGraph(model)
    for layer in graph.layers:
        graph.replace(layer.weights, grid.rounded(graph.constant(layer.weights), layer.axis))
    return graph.content


@pytest.mark.parametrize("outside", [False, True])
def test_graph_finds_weights_wherever_they_lie(outside: bool) -> None:
    made, model = networks.weights(), networks.network()
    graph = FloatGraph(networks.with_weights_outside(model) if outside else model)
    found = {graph.names[layer.weights]: graph.constant(layer.weights) for layer in graph.layers}
    assert set(found) == {"stem/weights", "depthwise/weights", "project/weights", "head/weights"}
    np.testing.assert_array_equal(found["stem/weights"], made.stem)


@pytest.mark.parametrize("outside", [False, True])
def test_graph_replaces_in_place_and_leaves_the_original_alone(outside: bool) -> None:
    model = networks.with_weights_outside(networks.network()) if outside else networks.network()
    before, graph = bytes(model), FloatGraph(model)
    layer = graph.layers[0]
    graph.replace(layer.weights, graph.constant(layer.weights) * 2)
    changed = FloatGraph(graph.content)
    assert model == before
    assert len(graph.content) == len(model)
    np.testing.assert_array_equal(changed.constant(layer.weights), networks.weights().stem * 2)


def test_graph_refuses_a_constant_of_another_size() -> None:
    graph = FloatGraph(networks.network())
    with pytest.raises(ValueError, match="stem/weights"):
        graph.replace(graph.layers[0].weights, np.zeros(3, np.float32))


def test_bias_correction_takes_back_most_of_what_rounding_does() -> None:
    model = networks.network()
    right, items = answers(model), networks.images(24, seed=3)
    plain = snr_db(right, answers(rounded(model, COARSE)))
    corrected = snr_db(right, answers(rounded(bias.correct(model, items, lambda _: COARSE), COARSE)))
    assert corrected > plain + 6


def test_bias_correction_brings_the_mean_of_each_output_back() -> None:
    model, items = networks.network(activation=networks.NONE), networks.images(24, seed=9)
    right = answers(model).mean(axis=0)
    plain = np.abs(answers(rounded(model, COARSE)).mean(axis=0) - right).max()
    made = rounded(bias.correct(model, items, lambda _: COARSE), COARSE)
    assert np.abs(answers(made).mean(axis=0) - right).max() < plain / 20


def test_bias_correction_of_layers_that_stay_float_changes_nothing() -> None:
    model = networks.network()
    assert bias.correct(model, [], lambda _: None) == model


def test_bias_correction_without_items_is_refused() -> None:
    with pytest.raises(SchemeFailedError, match="bias correction"):
        bias.correct(networks.network(), [], lambda _: BYTE)


def test_equalisation_leaves_the_float_answers_as_they_were() -> None:
    made = networks.weights()
    uneven = np.geomspace(0.02, 1, networks.HIDDEN).astype(np.float32)
    model = networks.network(dataclasses.replace(made, stem=made.stem * uneven[:, None, None, None]), activation=1)
    assert snr_db(answers(model), answers(equalise(model, networks.images(8)))) > 90


def test_equalisation_brings_channels_closer_together() -> None:
    made = networks.weights()
    uneven = np.geomspace(0.02, 1, networks.HIDDEN).astype(np.float32)
    uneven_model = networks.network(
        dataclasses.replace(made, depthwise=made.depthwise * uneven, depthwise_bias=made.depthwise_bias * uneven),
        activation=networks.RELU,
    )
    graph = FloatGraph(equalise(uneven_model, networks.images(8)))
    kernel = np.abs(graph.constant(graph.layers[1].weights)).max(axis=(0, 1, 2))
    assert kernel.max() / kernel.min() < np.abs(made.depthwise * uneven).max(axis=(0, 1, 2)).max() / 0.02


def test_equalisation_of_relu6_never_scales_a_channel_into_the_stop() -> None:
    model = networks.network(activation=networks.RELU6)
    assert snr_db(answers(model), answers(equalise(model, networks.images(24, seed=9)))) > 90


def test_groups_hold_what_a_sum_joins() -> None:
    graph = FloatGraph(networks.network(activation=networks.RELU6))
    grouped = [{graph.names[tensor] for tensor in group.tensors} for group in find_groups(graph)]
    assert {"depthwise"} in grouped
    assert {"stem", "project", "sum", "mean"} in grouped


def test_bound_grows_where_a_bias_would_not_fit() -> None:
    made = networks.weights()
    made.depthwise[..., 3] = 1e-9
    graph = FloatGraph(networks.network(made))
    ranges = {name: Range(low=0.0, high=6.0) for name in graph.names}
    bounds = weight_bounds(graph, ranges, levels=256, symmetric=False)
    bound = bounds["depthwise/weights"].reshape(-1)
    steps = np.abs(made.depthwise_bias[3]) / (6 / 255 * bound[3] / 127)
    assert steps <= 2**29 * 1.01
    others = np.delete(np.arange(networks.HIDDEN), 3)
    np.testing.assert_allclose(bound[others], np.abs(made.depthwise).max(axis=(0, 1, 2))[others])


def test_bounds_of_healthy_layers_stay_with_the_quantizer() -> None:
    graph = FloatGraph(networks.network())
    ranges = {name: Range(low=0.0, high=6.0) for name in graph.names}
    assert weight_bounds(graph, ranges, levels=256, symmetric=False) == {}


def test_overflow_is_not_seen_in_floats() -> None:
    assert overflowing(networks.network()) == []


def test_rank_puts_the_layer_with_uneven_weights_first() -> None:
    made = networks.weights()
    # One great weight in each channel leaves few steps for all others.
    made.project[:, 0, 0, 0] = 40
    ranked = rank(networks.network(made), networks.images(8), networks.images(8, seed=4), correct_bias=False)
    assert ranked[0].output_tensor == "project"
    assert [layer.snr_db for layer in ranked] == sorted(layer.snr_db for layer in ranked)


def test_rank_counts_the_weights_of_each_layer() -> None:
    ranked = rank(networks.network(), networks.images(4), networks.images(4))
    assert {layer.output_tensor: layer.weights for layer in ranked}["scores"] == networks.HIDDEN * networks.CLASSES
