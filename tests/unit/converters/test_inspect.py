from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.card import operator_cost
from converters.card.facts_table import amount, size
from converters.inspect import describe, main, weights_lost
from shared.errors import ModelLoadError
from tests.support.drawn_networks import convolutional, packed_again, streaming, weights_behind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = convolutional()
# Kernel and bias of each layer, from their shapes.
PARAMETERS = (8 * 9 + 8) + (9 * 8 + 8) + (288 * 10 + 10)
MACS = 12 * 12 * 8 * 9 + 12 * 12 * 8 * 9 + 288 * 10


def test_inspect_counts_what_the_layers_shapes_say() -> None:
    facts = describe(MODEL)
    assert (facts.parameters, facts.macs) == (PARAMETERS, MACS)
    assert facts.weight_bytes == {"float32": 4 * PARAMETERS}
    assert facts.operators == dict.fromkeys(
        ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "RESHAPE", "SOFTMAX"), 1
    )
    assert [layer.parameters for layer in facts.layers] == [80, 80, 0, 0, 2890, 0]
    assert sum(layer.weight_bytes for layer in facts.layers) == 4 * PARAMETERS
    assert facts.warnings == ()


def test_inspect_names_inputs_outputs_and_what_is_alive_at_once() -> None:
    facts = describe(MODEL)
    assert [(each.name, each.dtype, each.shape) for each in facts.inputs] == [("image", "float32", (1, 12, 12, 1))]
    assert [(each.name, each.shape) for each in facts.outputs] == [("scores", (1, 10))]
    # The two widest layers, one read while the other is written.
    assert facts.peak_activation_bytes == 2 * 4 * 12 * 12 * 8


def test_inspect_finds_weights_behind_the_graph() -> None:
    facts = describe(weights_behind(MODEL))
    assert facts.parameters == PARAMETERS
    assert facts.weights_outside_bytes == 4 * PARAMETERS
    assert describe(MODEL).weights_outside_bytes == 0


def test_inspect_of_errors_by_layer_writes_them_beside_their_layer() -> None:
    facts = describe(MODEL, {"deep": 18.9})
    assert [layer.snr_db for layer in facts.layers] == [None, 18.9, None, None, None, None]


def test_inspect_of_a_model_that_remembers_says_so_and_counts_no_memory_as_weights() -> None:
    facts = describe(streaming())
    assert facts.stateful
    assert not describe(MODEL).stateful
    assert facts.parameters == 48 * 3 + 3


def test_inspect_of_a_file_that_lost_its_weights_is_refused_by_the_cause() -> None:
    with pytest.raises(ModelLoadError, match="packed again by a tool that drops weights"):
        describe(packed_again(weights_behind(MODEL)))


def changed(change: Callable[[schema.ModelT], None]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(MODEL)
    change(model)
    return packed_again(model)


def test_inspect_of_weights_that_are_all_the_same_warns() -> None:
    def zero(model: schema.ModelT) -> None:
        [dense] = [tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"dense"]
        model.buffers[dense.buffer].data = np.zeros(4 * 2880, np.uint8)

    assert describe(changed(zero)).warnings == ("weights 'dense' are 2880 times 0: lost in conversion?",)


def test_inspect_of_weights_that_are_no_numbers_warns() -> None:
    def spoil(model: schema.ModelT) -> None:
        [kernel] = [tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"kernel"]
        model.buffers[kernel.buffer].data = np.frombuffer(np.full(72, np.nan, "<f4").tobytes(), np.uint8)

    assert describe(changed(spoil)).warnings == ("weights 'kernel' hold NaN or infinity",)


def test_inspect_of_bytes_that_nothing_uses_warns() -> None:
    def burden(model: schema.ModelT) -> None:
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.ones(200_000, np.uint8)

    assert describe(changed(burden)).warnings == ("200000 bytes of the file are used by nothing",)


def test_weights_lost_is_said_of_less_than_half_and_of_nothing_else() -> None:
    facts = describe(MODEL)
    assert not weights_lost(PARAMETERS, facts)
    assert not weights_lost(PARAMETERS * 3 // 2, facts)
    said = f"weights_lost: {PARAMETERS} of the source's {PARAMETERS * 4} parameters are in the file"
    assert weights_lost(PARAMETERS * 4, facts) == said


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "macs"),
    [
        ("CONV_2D", [(1, 8, 8, 3), (16, 3, 3, 3), (16,)], (1, 8, 8, 16), 8 * 8 * 16 * 27),
        ("CONV_2D", [(1, 8, 8, 4), (16, 3, 3, 2)], (1, 8, 8, 16), 8 * 8 * 16 * 18),  # two groups
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 3), (1, 3, 3, 3)], (1, 8, 8, 3), 8 * 8 * 3 * 9),
        ("FULLY_CONNECTED", [(5, 7), (4, 7), ()], (5, 4), 5 * 4 * 7),
        ("TRANSPOSE_CONV", [(4,), (6, 2, 2, 3), (1, 4, 4, 3)], (1, 8, 8, 6), 4 * 4 * 3 * 6 * 4),
        ("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], (2, 3, 5), 2 * 3 * 4 * 5),
        ("BATCH_MATMUL", [(2, 4, 3), (2, 5, 4)], (2, 3, 5), 2 * 3 * 4 * 5),
        ("ADD", [(4, 4), (4, 4)], (4, 4), 0),
        ("CONV_2D", [(1, 8, 8, 3)], (1, 8, 8, 16), 0),
    ],
)
def test_operator_cost_is_what_the_shapes_say(
    operator: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], macs: int
) -> None:
    assert operator_cost.macs(operator, inputs, [output]) == macs


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (4_650_000, "4.4 MiB"), (12_000_000_000, "11.2 GiB")],
)
def test_size_is_said_as_people_say_it(count: int, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(("count", "said"), [(999, "999 MAC"), (4_650_000, "4.65 MMAC"), (4e13, "40000 GMAC")])
def test_amount_is_said_in_thousands(count: int, said: str) -> None:
    assert amount(count, "MAC") == said


def test_inspect_command_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(MODEL)
    assert main([str(path)]) == 0
    table = capsys.readouterr().out
    assert "parameters  3,050" in table
    assert "FULLY_CONNECTED" in table
    assert main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == PARAMETERS


@pytest.mark.parametrize(("content", "said"), [(b"no model", "not of kind TFL3"), (None, "No such file")])
def test_inspect_command_of_what_is_no_model_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    path = tmp_path / "model.tflite"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 1
    assert said in capsys.readouterr().err
