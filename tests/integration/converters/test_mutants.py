"""Valid FlatBuffers with wrong numbers in them must be refused or run, and never kill the process."""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flatbuffers  # type: ignore[import-untyped]  # ships no types
import msgspec
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.conversion import convert
from shared.manifest import Scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.conversion import ConversionRequest

_MUTANTS = 150
_MEMORY_BYTES = 6 * 2**30
_WRONG = (-(2**31), -2, -1, 0, 1, 2, 7, 255, 2**15, 2**31 - 1)

# Loads and runs every model of stdin (length-prefixed), naming each before it is touched.
_CHILD = """
import struct, sys
import numpy as np
from shared.errors import LitefleetError
from shared.runtime.interpreter import LiteRtInterpreter
while head := sys.stdin.buffer.read(4):
    model = sys.stdin.buffer.read(struct.unpack("<I", head)[0])
    try:
        interpreter = LiteRtInterpreter(model, threads=1)
        interpreter.run([np.zeros([abs(size) for size in spec.shape], spec.dtype) for spec in interpreter.inputs])
        print("ran", flush=True)
    except LitefleetError:
        print("refused", flush=True)
    except MemoryError:
        print("large", flush=True)
"""


def one_changed(chosen: random.Random, numbers: Sequence[int]) -> list[int]:
    changed = list(numbers)
    changed[chosen.randrange(len(changed))] = chosen.choice(_WRONG)
    return changed


def indexes(chosen: random.Random, model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    owner = chosen.choice([graph, chosen.choice(graph.operators)])
    name = chosen.choice(["inputs", "outputs"])
    setattr(owner, name, one_changed(chosen, getattr(owner, name)))


def shapes(chosen: random.Random, model: schema.ModelT) -> None:
    tensor = chosen.choice([tensor for tensor in model.subgraphs[0].tensors if len(tensor.shape)])
    tensor.shape = one_changed(chosen, tensor.shape)


def tensors(chosen: random.Random, model: schema.ModelT) -> None:
    tensor = chosen.choice(model.subgraphs[0].tensors)
    if chosen.random() < 0.5:
        tensor.buffer = abs(chosen.choice(_WRONG))
    else:
        tensor.type = chosen.randrange(18)


def operators(chosen: random.Random, model: schema.ModelT) -> None:
    if chosen.random() < 0.5:
        chosen.choice(model.subgraphs[0].operators).opcodeIndex = abs(chosen.choice(_WRONG))
    else:
        code = chosen.choice(model.operatorCodes)
        code.builtinCode = code.deprecatedBuiltinCode = chosen.randrange(120)


def mutant(source: bytes, seed: int) -> bytes:
    chosen = random.Random(seed)
    model = schema.ModelT.InitFromPackedBuf(source)
    kinds: list[Callable[[random.Random, Any], None]] = [indexes, shapes, tensors, operators]
    chosen.choice(kinds)(chosen, model)
    builder = flatbuffers.Builder(len(source))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("scheme", [Scheme.FLOAT32, Scheme.FULL_INT8])
def test_mutants_of_a_real_model_never_kill_the_process(digits_request: ConversionRequest, scheme: Scheme) -> None:
    result = convert(msgspec.structs.replace(digits_request, schemes=(scheme,)), lambda _: None)
    source = Path(result.artifacts[0].path).read_bytes()
    mutants = [mutant(source, seed) for seed in range(_MUTANTS)]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=b"".join(struct.pack("<I", len(model)) + model for model in mutants),
        capture_output=True,
        timeout=100,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES)),
    )
    said = done.stdout.decode().split("\n")[:-1]
    assert done.returncode == 0, f"mutant {len(said)} killed the process: {done.stderr.decode()[-500:]}"
    assert said.count("refused") > _MUTANTS // 3
