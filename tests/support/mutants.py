"""Model files with something wrong in them, seeded, and children that open them as the product does.

Numbers are changed in place, found by walking the file: packing it again would drop weights kept outside of the
FlatBuffer, and mend what the walk cannot see.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.runtime.flatbuffer import root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shared.runtime.flatbuffer import Table

_MEMORY_BYTES = 8 * 2**30
_BATCH, _BATCH_S = 200, 120
_WRONG = (-(2**31), -(2**15), -129, -2, -1, 0, 1, 2, 3, 5, 7, 8, 16, 127, 255, 2**15, 2**16, 2**24, 2**31 - 1)
_SMALL_BYTES = 64
_OUT_OF_RANGE = (-(2**31), -(2**20), -2, -1)
_BEYOND = (0, 1, 7, 1000, 2**20, 2**31 - 1)

# Loads and runs every model of stdin (length-prefixed) and says how it went, in its order. A model that dies has said
# nothing.
_CHILD = """
import resource, struct, sys
import numpy as np
from shared.errors import LitefleetError
from shared.runtime.interpreter import LiteRtInterpreter
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
while head := sys.stdin.buffer.read(4):
    model = sys.stdin.buffer.read(struct.unpack("<I", head)[0])
    try:
        interpreter = LiteRtInterpreter(model, threads=1)
        interpreter.run([np.zeros([abs(size) for size in spec.shape], spec.dtype) for spec in interpreter.inputs])
        print("ran", flush=True)
    except LitefleetError as exc:
        print("refused" if "malformed" in str(exc) or "leads out" in str(exc) else "failed", flush=True)
    except MemoryError:
        print("large", flush=True)
"""


class Kind(StrEnum):
    """What a number in a model file means."""

    GRAPH_INDEX = "graph_index"
    """Of a tensor: inputs and outputs of a graph, of an operator, of a signature."""
    OTHER_INDEX = "other_index"
    """Of an operator code, a buffer, a graph."""
    SHAPE = "shape"
    TYPE = "type"
    CODE = "code"
    OPTION = "option"
    QUANTIZATION = "quantization"
    BUFFER = "buffer"
    CONSTANT = "constant"
    """In a small buffer, which may hold a shape."""
    SPARSITY = "sparsity"
    LENGTH = "length"
    """Of a vector."""
    OFFSET = "offset"
    """Of a table or vector, from where it is named."""


class Outcome(StrEnum):
    """What became of a mutant."""

    REFUSED = "refused"
    """By the verifier."""
    FAILED = "failed"
    """By the runtime, with an error."""
    RAN = "ran"
    LARGE = "large"
    """More memory than the process may have, said in good order."""
    HUNG = "hung"
    """And never came back."""
    DIED = "died"
    """And took the process with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One number of a model file."""

    kind: Kind
    place: int
    letter: str
    """Its `struct` letter."""
    limit: int = 0
    """Of an index: the first value that is none."""


def sites(model: bytes) -> list[Site]:
    """Every number of a model file that means something, in the file's order."""
    top = root(model, b"TFL3")
    graphs, codes, buffers = top.tables(2), top.tables(1), top.tables(4)
    found = [*_vectors(top, (1, 2, 4, 6, 7))]
    for code in codes:
        found += [*_fields(code, {0: (Kind.CODE, "b"), 3: (Kind.CODE, "i")}), *_fields(code, {2: (Kind.CODE, "i")})]
    for graph in graphs:
        found += _graph(graph, len(codes), len(buffers), len(graphs))
    for buffer in buffers:
        found += [*_fields(buffer, {1: (Kind.BUFFER, "Q"), 2: (Kind.BUFFER, "Q")}), *_vectors(buffer, (0,))]
        start, length = buffer.vector(0, 1)
        if length <= _SMALL_BYTES:
            found += [Site(kind=Kind.CONSTANT, place=start + at, letter="i") for at in range(0, length - 3, 4)]
    for signature in top.tables(7):
        graph_index = signature.number(4, "I")
        found += [*_fields(signature, {4: (Kind.OTHER_INDEX, "I")}, len(graphs))]
        for entry in (*signature.tables(0), *signature.tables(1)):
            found += _fields(entry, {1: (Kind.GRAPH_INDEX, "I")}, len(graphs[graph_index].tables(0)))
    return found


def graph_index_mutants(model: bytes) -> list[bytes]:
    """Each index of a tensor in the file once below and once above what there is, and the ends mixed up."""
    chosen = random.Random(0)
    made = []
    for site in sites(model):
        if site.kind is not Kind.GRAPH_INDEX:
            continue
        below, above = chosen.choice(_OUT_OF_RANGE), site.limit + chosen.choice(_BEYOND)
        # -1 stands for an operator's optional input: there it means something.
        below = -2 if below == -1 else below
        made += [changed(model, site, below), changed(model, site, above)]
    return made


def mutants(model: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """`count` damaged files: by the number, by the byte, cut, and spliced."""
    chosen = random.Random(seed)
    by_kind: dict[Kind, list[Site]] = {}
    for site in sites(model):
        by_kind.setdefault(site.kind, []).append(site)
    structure = sorted(
        {
            place
            for group in by_kind.values()
            for site in group
            for place in range(site.place, min(site.place + 4, len(model)))
        }
    )
    for number in range(count):
        if number % 10 < 7:
            yield _meaningful(model, by_kind, chosen)
        else:
            yield _random(model, structure, chosen)


def changed(model: bytes, site: Site, value: int) -> bytes:
    """The file with another number at `site`."""
    size = struct.calcsize(site.letter)
    content = bytearray(model)
    content[site.place : site.place + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(content)


def outcomes(models: Sequence[bytes]) -> list[Outcome]:
    """Open and run each model in a child process; after a death another child goes on with the next.

    A death may be a model's before it, whose memory was freed late: how many died is sure, which of them is not.
    """
    done: list[Outcome] = []
    while len(done) < len(models):
        batch = models[len(done) : len(done) + _BATCH]
        said, ended = _run_child(batch)
        done += said
        if len(said) < len(batch):
            done.append(ended)
        elif ended is Outcome.DIED:
            done[-1] = ended
    return done


def _run_child(batch: Sequence[bytes]) -> tuple[list[Outcome], Outcome]:
    """What became of the models until the child ended, and how it did: RAN when by itself."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(_MEMORY_BYTES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:
        try:
            answer, _ = child.communicate(b"".join(struct.pack("<I", len(model)) + model for model in batch), _BATCH_S)
            ended = Outcome.DIED if child.returncode else Outcome.RAN
        except subprocess.TimeoutExpired:
            child.kill()
            answer, _ = child.communicate()
            ended = Outcome.HUNG
    return [Outcome(word) for word in answer.decode().split()], ended


def counted(found: Sequence[Outcome]) -> dict[str, int]:
    """How many of each, for a message."""
    return dict(sorted(Counter(found).items()))


def _meaningful(model: bytes, by_kind: dict[Kind, list[Site]], chosen: random.Random) -> bytes:
    for _ in range(chosen.choice((1, 1, 1, 2))):
        site = chosen.choice(by_kind[chosen.choice(sorted(by_kind))])
        value = chosen.randrange(210) if site.kind is Kind.CODE else chosen.choice(_WRONG)
        if site.kind is Kind.TYPE:
            value = chosen.randrange(24)
        if site.limit and chosen.random() < 0.5:
            # In range, and another one: what verifies is what the runtime must stand.
            value = chosen.randrange(site.limit)
        model = changed(model, site, value)
    return model


def _random(model: bytes, structure: Sequence[int], chosen: random.Random) -> bytes:
    content = bytearray(model)
    match chosen.randrange(4):
        case 0:
            for _ in range(chosen.randint(1, 16)):
                content[chosen.randrange(len(content))] = chosen.randrange(256)
        case 1:
            for _ in range(chosen.randint(1, 4)):
                content[chosen.choice(structure)] = chosen.randrange(256)
        case 2:
            del content[chosen.randrange(len(content)) :]
        case _:
            size = chosen.randint(1, min(256, len(content) // 2))
            source, target = (chosen.randrange(len(content) - size) for _ in range(2))
            content[target : target + size] = content[source : source + size]
    return bytes(content)


def _graph(graph: Table, codes: int, buffers: int, graphs: int) -> Iterator[Site]:
    tensors = graph.tables(0)
    yield from _vectors(graph, (0, 1, 2, 3))
    for field in (1, 2):
        yield from _items(graph, field, Kind.GRAPH_INDEX, limit=len(tensors))
    for tensor in tensors:
        yield from _items(tensor, 0, Kind.SHAPE)
        yield from _items(tensor, 7, Kind.SHAPE)
        yield from _fields(tensor, {1: (Kind.TYPE, "b"), 5: (Kind.TYPE, "b")})
        yield from _fields(tensor, {2: (Kind.OTHER_INDEX, "I")}, buffers)
        yield from _vectors(tensor, (0, 3))
        quantization = tensor.table(4)
        if quantization is not None:
            yield from _items(quantization, 2, Kind.QUANTIZATION)
            yield from _items(quantization, 3, Kind.QUANTIZATION, letter="q")
            yield from _fields(quantization, {6: (Kind.QUANTIZATION, "i")})
            yield from _vectors(quantization, (2, 3))
        sparsity = tensor.table(6)
        if sparsity is not None:
            yield from _sparsity(sparsity)
    for operator in graph.tables(3):
        yield from _fields(operator, {0: (Kind.OTHER_INDEX, "I")}, codes)
        yield from _fields(operator, {3: (Kind.OPTION, "B")})
        yield from _vectors(operator, (1, 2))
        for field in (1, 2, 8):
            yield from _items(operator, field, Kind.GRAPH_INDEX, limit=len(tensors))
        options = operator.table(4)
        if options is not None:
            yield from _words(options, graphs)


def _sparsity(sparsity: Table) -> Iterator[Site]:
    yield from _items(sparsity, 0, Kind.SPARSITY)
    yield from _items(sparsity, 1, Kind.SPARSITY)
    for axis in sparsity.tables(2):
        yield from _fields(axis, {0: (Kind.SPARSITY, "b"), 2: (Kind.SPARSITY, "b"), 4: (Kind.SPARSITY, "b")})
        yield from _fields(axis, {1: (Kind.SPARSITY, "i")})
        for field in (3, 5):
            values = axis.table(field)
            if values is not None:
                start = values.vector(0, 1)[0]
                # Segments and indices are of one, two or four bytes: those at the front of each.
                yield from (Site(kind=Kind.SPARSITY, place=start + at, letter="b") for at in range(4))
                yield from _vectors(values, (0,))


def _words(options: Table, graphs: int) -> Iterator[Site]:
    """Every option, as far as the table's vtable tells; their types differ by operator."""
    for field in range(16):
        place = options._place(field)
        if place is not None:
            yield Site(kind=Kind.OPTION, place=place, letter="b")
            yield Site(kind=Kind.OPTION, place=place, letter="i", limit=graphs)


def _fields(table: Table, kinds: dict[int, tuple[Kind, str]], limit: int = 0) -> Iterator[Site]:
    for field, (kind, letter) in kinds.items():
        place = table._place(field)
        if place is not None:
            yield Site(kind=kind, place=place, letter=letter, limit=limit)


def _items(table: Table, field: int, kind: Kind, *, letter: str = "i", limit: int = 0) -> Iterator[Site]:
    size = struct.calcsize(letter)
    start, length = table.vector(field, size)
    for index in range(length):
        yield Site(kind=kind, place=start + index * size, letter=letter, limit=limit)


def _vectors(table: Table, fields: Sequence[int]) -> Iterator[Site]:
    for field in fields:
        place = table._place(field)
        if place is not None:
            yield Site(kind=Kind.OFFSET, place=place, letter="I")
            yield Site(kind=Kind.LENGTH, place=table.vector(field, 0)[0] - 4, letter="I")
