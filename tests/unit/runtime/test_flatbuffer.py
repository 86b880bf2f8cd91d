from __future__ import annotations

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from shared.errors import ModelLoadError
from shared.runtime.flatbuffer import Table, root
from tests.support.models import one_hot_classifier, random_classifier

_VERSION, _GRAPHS, _BUFFERS, _NO_SUCH_FIELD = 0, 2, 4, 40


def packed(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("model", [one_hot_classifier(7), random_classifier(9, 3, seed=1, batch=-1)])
def test_flatbuffer_reads_what_the_generated_reader_reads(model: bytes) -> None:
    ours, theirs = root(model, b"TFL3"), schema.Model.GetRootAs(model)
    assert ours.number(_VERSION, "I") == theirs.Version()
    assert len(ours.tables(_BUFFERS)) == theirs.BuffersLength()
    (graph,) = ours.tables(_GRAPHS)
    shapes = [tensor.integers(0) for tensor in graph.tables(0)]
    subgraph = theirs.Subgraphs(0)
    assert shapes == [tuple(subgraph.Tensors(i).ShapeAsNumpy()) for i in range(subgraph.TensorsLength())]
    assert graph.integers(1) == tuple(subgraph.InputsAsNumpy())


def test_flatbuffer_field_newer_than_its_writer_is_absent_not_wrong() -> None:
    table = root(packed(schema.ModelT()), b"TFL3")
    assert not table.has(_NO_SUCH_FIELD)
    assert table.number(_NO_SUCH_FIELD, "I", default=5) == 5
    assert table.table(_NO_SUCH_FIELD) is None
    assert table.tables(_NO_SUCH_FIELD) == []
    assert table.integers(_NO_SUCH_FIELD) == ()


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0" * 4 + b"TFL2" + b"\0" * 20])
def test_flatbuffer_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(ModelLoadError, match="not of kind TFL3"):
        root(data, b"TFL3")


@pytest.mark.parametrize("position", [-1, -(2**31), 10**6])
def test_flatbuffer_table_outside_of_the_file_is_refused(position: int) -> None:
    with pytest.raises(ModelLoadError, match="leads out of the file"):
        Table(data=one_hot_classifier(3), position=position).number(0, "I")


def test_flatbuffer_vector_longer_than_the_file_is_refused() -> None:
    # One table whose only field is a vector that claims four thousand million items.
    data = bytes.fromhex("0c000000 54464c33 0600 0800 0400 0000") + bytes.fromhex("08000000 04000000 ffffffff")
    data = data[:4].replace(b"\x0c", b"\x10") + data[4:]
    with pytest.raises(ModelLoadError, match="leads out of the file"):
        root(data, b"TFL3").vector(0, 4)


def test_flatbuffer_vectors_that_share_their_bytes_are_read_so_often_and_no_more() -> None:
    # A small file may name one vector a million times: each alone is harmless.
    model = schema.ModelT()
    model.metadataBuffer = np.zeros(100_000, np.int32)
    top = root(packed(model), b"TFL3")
    for _ in range(40):
        top.integers(5)
    with pytest.raises(ModelLoadError, match="more than 4000000 numbers"):
        top.integers(5)


def test_flatbuffer_tables_share_their_allowance() -> None:
    top = root(one_hot_classifier(4), b"TFL3")
    (graph,) = top.tables(_GRAPHS)
    assert graph.allowance is top.allowance
    assert graph.tables(0)[0].allowance is top.allowance
