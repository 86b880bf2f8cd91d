from __future__ import annotations

from typing import TYPE_CHECKING

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from shared.errors import ModelLoadError
from shared.runtime.flatbuffer import root
from shared.runtime.sparsity import stored_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.runtime.flatbuffer import Table

SHAPE = (3, 4)
_DENSE, _COMPRESSED = schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR


def level(
    *, dense: int = 0, segments: list[int] | None = None, indexes: list[int] | None = None
) -> schema.DimensionMetadataT:
    made = schema.DimensionMetadataT()
    made.format, made.denseSize = (_DENSE, dense) if segments is None else (_COMPRESSED, 0)
    if segments is not None:
        made.arraySegmentsType = made.arrayIndicesType = schema.SparseIndexVector.Uint8Vector
        made.arraySegments, made.arrayIndices = schema.Uint8VectorT(), schema.Uint8VectorT()
        made.arraySegments.values, made.arrayIndices.values = (
            np.array(segments, np.uint8),
            np.array(indexes or [], np.uint8),
        )
    return made


def rows() -> schema.SparsityParametersT:
    """Three rows of four, of which 2, 0 and 1 values are kept."""
    made = schema.SparsityParametersT()
    made.traversalOrder, made.blockMap = [0, 1], []
    made.dimMetadata = [level(dense=3), level(segments=[0, 2, 2, 3], indexes=[0, 3, 1])]
    return made


def blocks() -> schema.SparsityParametersT:
    """The same matrix in blocks of two columns, of which two are kept."""
    made = schema.SparsityParametersT()
    made.traversalOrder, made.blockMap = [0, 1, 2], [1]
    made.dimMetadata = [level(dense=3), level(segments=[0, 1, 1, 2], indexes=[0, 1]), level(dense=2)]
    return made


def packed(sparsity: schema.SparsityParametersT) -> Table:
    builder = flatbuffers.Builder(256)
    builder.Finish(sparsity.Pack(builder), file_identifier=b"TFL3")
    return root(bytes(builder.Output()), b"TFL3")


@pytest.mark.parametrize(("sparsity", "values"), [(rows(), 3), (blocks(), 4)])
def test_sparsity_of_a_sound_matrix_says_how_many_values_it_keeps(
    sparsity: schema.SparsityParametersT, values: int
) -> None:
    assert stored_values(packed(sparsity), SHAPE, "weights") == values


def axis_out_of_range(made: schema.SparsityParametersT) -> None:
    made.traversalOrder = [0, 9]


def axis_twice(made: schema.SparsityParametersT) -> None:
    made.traversalOrder = [0, 0]


def level_missing(made: schema.SparsityParametersT) -> None:
    made.dimMetadata = made.dimMetadata[:1]


def rows_too_many(made: schema.SparsityParametersT) -> None:
    made.dimMetadata[0].denseSize = 300


def column_out_of_range(made: schema.SparsityParametersT) -> None:
    made.dimMetadata[1].arrayIndices.values = np.array([0, 4, 1], np.uint8)


def segment_out_of_range(made: schema.SparsityParametersT) -> None:
    made.dimMetadata[1].arraySegments.values = np.array([0, 2, 2, 200], np.uint8)


def segment_backwards(made: schema.SparsityParametersT) -> None:
    made.dimMetadata[1].arraySegments.values = np.array([0, 3, 2, 3], np.uint8)


def segment_too_few(made: schema.SparsityParametersT) -> None:
    made.dimMetadata[1].arraySegments.values = np.array([0, 3], np.uint8)


def index_left_out(made: schema.SparsityParametersT) -> None:
    made.dimMetadata[1].arrayIndices, made.dimMetadata[1].arrayIndicesType = None, 0


def form_unknown(made: schema.SparsityParametersT) -> None:
    made.dimMetadata[1].format = 7


def block_on_no_axis(made: schema.SparsityParametersT) -> None:
    made.traversalOrder, made.blockMap = [0, 1, 2], [5]
    made.dimMetadata.append(level(dense=2))


def block_that_does_not_fit(made: schema.SparsityParametersT) -> None:
    made.traversalOrder, made.blockMap = [0, 1, 2], [1]
    made.dimMetadata.append(level(dense=3))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (axis_out_of_range, r"in the order \(0, 9\)"),
        (axis_twice, r"in the order \(0, 0\)"),
        (level_missing, "1 levels for 2 axes"),
        (rows_too_many, "300 of an axis of 3"),
        (column_out_of_range, "an index beyond an axis of 4"),
        (segment_out_of_range, "segments in disorder"),
        (segment_backwards, "segments in disorder"),
        (segment_too_few, "2 segments for 3 entries"),
        (index_left_out, "has no index"),
        (form_unknown, "a level of form 7"),
        (block_on_no_axis, "a block on axis 5"),
        (block_that_does_not_fit, "blocks of 3 on an axis of 4"),
    ],
)
def test_sparsity_that_leads_out_of_the_tensor_is_refused(
    damage: Callable[[schema.SparsityParametersT], None], said: str
) -> None:
    sparsity = rows()
    damage(sparsity)
    with pytest.raises(ModelLoadError, match=said):
        stored_values(packed(sparsity), SHAPE, "weights")
