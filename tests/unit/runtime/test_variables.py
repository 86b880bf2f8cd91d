from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from shared.errors import ModelLoadError
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.verifier import verify
from tests.support.drawn_networks import packed_again, streaming

if TYPE_CHECKING:
    from collections.abc import Callable


def grows(model: schema.ModelT) -> None:
    model.subgraphs[1].tensors[1].shape = [1, 3, 8]


def becomes_bytes(model: schema.ModelT) -> None:
    model.subgraphs[1].tensors[1].type = schema.TensorType.INT8


def is_never_filled(model: schema.ModelT) -> None:
    model.subgraphs[1].operators[0].builtinOptions.sharedName = "another"


def is_handed_over(model: schema.ModelT) -> None:
    # Another variable's handle, which nothing in this graph names.
    del model.subgraphs[0].operators[1]
    model.subgraphs[0].tensors[2].isVariable = True


def test_variables_of_a_sound_model_are_returned_with_their_shapes() -> None:
    stored = verify(streaming())
    assert set(stored.values()) == {(1, 4, 8)}
    assert len(stored) == 2


def test_variables_of_a_sound_model_keep_what_they_are_given() -> None:
    interpreter = LiteRtInterpreter(streaming(), threads=1)
    frames = np.ones((1, 2, 8), np.float32)
    first, second = interpreter.run([frames])[0].copy(), interpreter.run([frames])[0]
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (grows, r"variable 'memory' is of shape \(1, 4, 8\) and used with shape \(1, 3, 8\)"),
        (becomes_bytes, "variable 'memory' is of shape"),
        (is_never_filled, "variable 'memory' is read before anything is in it"),
        (is_handed_over, "graph 0 operator 1 uses a variable that it does not name"),
    ],
)
def test_variable_that_is_not_what_its_reader_expects_is_refused(
    damage: Callable[[schema.ModelT], None], said: str
) -> None:
    model = schema.ModelT.InitFromPackedBuf(streaming())
    damage(model)
    with pytest.raises(ModelLoadError, match=said):
        verify(packed_again(model))


def test_variable_given_more_than_it_holds_by_the_runtimes_own_sums_is_refused() -> None:
    # The slice that is kept begins elsewhere, so that it is larger than the file declares: only the runtime knows.
    model = schema.ModelT.InitFromPackedBuf(streaming())
    [begin] = [tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"begin"]
    model.buffers[begin.buffer].data = np.frombuffer(np.zeros(3, "<i4").tobytes(), np.uint8)
    with pytest.raises(ModelLoadError, match=r"a variable of shape \(1, 4, 8\) would be given \(1, 6, 8\)"):
        LiteRtInterpreter(packed_again(model), threads=1)
