"""Where the numbers of a `.tflite` file stand: fields of each table, by their place in the schema.

Source: tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

IDENTIFIER = b"TFL3"

MODEL_CODES, MODEL_GRAPHS, MODEL_BUFFERS, MODEL_METADATA, MODEL_SIGNATURES = 1, 2, 4, 6, 7
GRAPH_TENSORS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_OPERATORS = 0, 1, 2, 3
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME, TENSOR_QUANTIZATION = 0, 1, 2, 3, 4
TENSOR_VARIABLE, TENSOR_SPARSITY, TENSOR_FREE_SHAPE, TENSOR_EXTERNAL = 5, 6, 7, 10
CODE_OLD, CODE_CUSTOM, CODE_VERSION, CODE_NEW = 0, 1, 2, 3
OPERATOR_CODE, OPERATOR_INPUTS, OPERATOR_OUTPUTS, OPERATOR_OPTIONS_KIND, OPERATOR_OPTIONS = 0, 1, 2, 3, 4
OPERATOR_INTERMEDIATES, OPERATOR_LARGE_OPTIONS_AT, OPERATOR_LARGE_OPTIONS_SIZE, OPERATOR_OPTIONS_2 = 8, 9, 10, 12
COMPOSITE_GRAPH = 1
VARIABLE_CONTAINER, VARIABLE_NAME = 0, 1
BUFFER_DATA, BUFFER_OFFSET, BUFFER_SIZE = 0, 1, 2
QUANTIZATION_SCALE, QUANTIZATION_ZERO_POINT, QUANTIZATION_AXIS = 2, 3, 6
SPARSITY_ORDER, SPARSITY_BLOCKS, SPARSITY_LEVELS = 0, 1, 2
LEVEL_FORMAT, LEVEL_DENSE_SIZE, LEVEL_SEGMENTS_KIND, LEVEL_SEGMENTS, LEVEL_INDEXES_KIND, LEVEL_INDEXES = (
    0,
    1,
    2,
    3,
    4,
    5,
)
SIGNATURE_INPUTS, SIGNATURE_OUTPUTS, SIGNATURE_KEY, SIGNATURE_GRAPH, MAP_NAME, MAP_TENSOR = 0, 1, 2, 4, 0, 1
METADATA_NAME, METADATA_BUFFER = 0, 1

FLOAT32, STRING, RESOURCE, VARIANT = 0, 5, 13, 14
BITS = {
    FLOAT32: 32,
    1: 16,  # float16
    2: 32,  # int32
    3: 8,  # uint8
    4: 64,  # int64
    6: 8,  # bool
    7: 16,  # int16
    8: 64,  # complex64
    9: 8,  # int8
    10: 64,  # float64
    11: 128,  # complex128
    12: 64,  # uint64
    15: 32,  # uint32
    16: 16,  # uint16
    17: 4,  # int4
    18: 16,  # bfloat16
    19: 2,  # int2
    20: 4,  # uint4
    21: 8,  # float8 e4m3
    22: 8,  # float8 e5m2
}
"""Bits of one number by schema type; strings, resources and variants have no fixed size."""
RANGES = {
    3: (0, 2**8 - 1),
    7: (-(2**15), 2**15 - 1),
    9: (-(2**7), 2**7 - 1),
    16: (0, 2**16 - 1),
    17: (-(2**3), 2**3 - 1),
    19: (-(2**1), 2**1 - 1),
    20: (0, 2**4 - 1),
}
"""Least and greatest number of the small types."""
WIDEST = (-(2**31), 2**31 - 1)
