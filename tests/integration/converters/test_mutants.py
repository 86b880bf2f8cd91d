"""Damaged models must be refused, fail or run, and never kill the process: of every scheme, random and meaningful."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from converters.quantization.quantize import quantize
from shared.conversion import Recipe
from shared.errors import ModelLoadError
from shared.manifest import Scheme
from shared.runtime.verifier import verify
from tests.support.drawn_networks import convolutional, packed_again, streaming, weights_behind
from tests.support.mutants import Outcome, counted, graph_index_mutants, mutants, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

_MUTANTS = int(os.environ.get("LITEFLEET_MUTANTS", "400"))
"""Of each of five models; `make full` asks for more."""
_SEED = 11


def made(scheme: Scheme) -> bytes:
    items = list(np.random.default_rng(0).random((32, 12, 12, 1)).astype(np.float32))
    return quantize(convolutional(), Recipe(scheme=scheme), items)


MODELS: dict[str, Callable[[], bytes]] = {
    "float32": convolutional,
    "float16, weights behind the graph": lambda: weights_behind(made(Scheme.FLOAT16)),
    "dynamic int8": lambda: made(Scheme.DYNAMIC_INT8),
    "full int8": lambda: made(Scheme.FULL_INT8),
    "with a memory": streaming,
}


@pytest.mark.timeout(600 + _MUTANTS)
@pytest.mark.parametrize("name", MODELS)
def test_mutants_never_kill_the_process(name: str) -> None:
    model = MODELS[name]()
    found = outcomes([model, *mutants(model, _MUTANTS, seed=_SEED)])
    assert found[0] is Outcome.RAN, "the model itself must run"
    assert not {Outcome.DIED, Outcome.HUNG} & set(found), counted(found)
    # Else the mutants are harmless, and the test proves nothing.
    assert found.count(Outcome.REFUSED) > _MUTANTS // 4


@pytest.mark.parametrize("name", MODELS)
def test_mutants_of_graph_indexes_are_all_refused(name: str) -> None:
    wrong = graph_index_mutants(MODELS[name]())
    assert len(wrong) > 30
    for model in wrong:
        with pytest.raises(ModelLoadError):
            verify(model)


def test_mutant_that_was_packed_again_without_its_weights_is_refused_by_the_cause() -> None:
    model = weights_behind(made(Scheme.FULL_INT8))
    verify(model)
    damaged = packed_again(model)
    assert len(damaged) < len(model)
    with pytest.raises(ModelLoadError, match="packed again by a tool that drops weights kept behind the graph"):
        verify(damaged)
