"""What the built-in operators take and give, by their code: what a kernel reads without asking whether it is there.

Source: tensorflow/lite/schema/schema.fbs for the codes, tensorflow/lite/kernels for the rest.
"""

from __future__ import annotations

RESHAPE, DEQUANTIZE, IF, WHILE, CALL_ONCE, COMPOSITE = 22, 6, 118, 119, 129, 206
VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE = 142, 143, 144

_NEWEST = 206
"""Of the codes that the runtimes in use know."""
FOREIGN = frozenset({32, 51, 127})
"""Custom and Flex operators, delegates, and the sign for a code beyond 127: their code is not the runtime's own."""
RANDOM = frozenset({146, 148, 149, 204})
"""Noise and augmentation that live on in a model answer the same input differently each time."""
_UNSOUND = {7, 10, 15, 29, 30, 31, 33, 136, 137, 138, 139} | {173, 174, 190, 198, 199, 200}
"""Strings and tables of strings, operators without a kernel, and those that call graphs in a way not looked into."""
ALLOWED = frozenset(range(_NEWEST + 1)) - FOREIGN - RANDOM - _UNSOUND

_LEAST_INPUTS = {
    0: {CALL_ONCE, VAR_HANDLE, COMPOSITE},
    2: {0, 3, 9, 18, 23, 34, 36, 39, 40, 41, 42, 48, 49, 54, 55, 56, 57, 58, 61, 62, 63, 69, 70, 71, 72, 74, 78, 79, 81}
    | {
        82,
        84,
        86,
        89,
        90,
        91,
        94,
        95,
        97,
        99,
        100,
        105,
        107,
        112,
        115,
        125,
        126,
        128,
        130,
        131,
        132,
        140,
        ASSIGN_VARIABLE,
    }
    | {145, 156, 160, 161, 163, 164, 165, 166, 171, 176, 181, 183, 184, 185, 188, 191, 193, 195, 197, 201, 207},
    # A depthwise convolution without a bias kills the process on some processors' kernels.
    3: {4, 37, 38, 60, 64, 65, 67, 96, 102, 122, 123, 141, 151, 153, 154, 155, 157, 168, 187, 194, 203},
    4: {27, 45, 68, 85},
    5: {120, 205},
    6: {121},
}
_INPUTS_BY_CODE = {code: least for least, codes in _LEAST_INPUTS.items() for code in codes}

_OUTPUTS_BY_CODE: dict[int, range] = {
    **dict.fromkeys((CALL_ONCE, ASSIGN_VARIABLE), range(1)),
    **dict.fromkeys((49, 88, 102), range(1, 2**16)),  # splits and unpack: as many as their options say
    **dict.fromkeys((IF, WHILE, COMPOSITE), range(2**16)),  # as many as the graph that they call
    **dict.fromkeys((46, 52), range(1, 3)),  # both directions, merged or not
    **dict.fromkeys((48, 103, 120), range(2, 3)),
    121: range(3, 4),
}
_ONE = range(1, 2)

GATED = frozenset({16, 44, 52})
"""LSTM and its kin, which leave out any input but the first."""
OPTIONAL = GATED | {3, 4, 9, 24, 27, 35, 46, 67, 132, 133}
"""Operators that may leave out inputs (a bias, mostly); the kernels of all others follow -1 to nowhere."""
ALIKE = frozenset({1, 3, 4, 9, 14, 17, 19, 20, 21, RESHAPE, 25, 28})
"""Pools, convolutions, dense layers, activations and reshape answer in floats where they are asked in floats; softmax
for one does not make sure of it, and writes floats into room for bytes."""
WEIGHTED = frozenset({3, 4, 9, 67})
"""Convolutions and dense layers: their kernels end the process on weights of a type that they do not know."""
WEIGHT_TYPES = frozenset({0, 1, 3, 9, 17, 19})
OPTIONS_KIND = {49: 35, 88: 64, 102: 79, IF: 92, WHILE: 93, CALL_ONCE: 103}
"""Operators whose options count outputs or name graphs, by the kind of options that does: others would be read
as what they are not."""
CALLED_GRAPHS = {IF: 2, WHILE: 2, CALL_ONCE: 1}
"""How many subgraphs the operator's options name, in their first fields."""

_SIZES = {
    **dict.fromkeys((23, 34, 39, 40, 60, 69, 70, 74, 81, 82, 89, 91, 97, 100, 105, 130, 140, RESHAPE), (1,)),
    **dict.fromkeys((37, 38, 65), (1, 2)),
    **dict.fromkeys((67, 94, 141), (0,)),
    45: (1, 2, 3),
    145: (0, 1),
    151: (2,),
}
_MOST_SIZES = 16
"""Two for each of eight axes, as padding has."""


def least_inputs(code: int) -> int:
    """Return how many inputs the operator's kernel reads without asking whether they are there."""
    return _INPUTS_BY_CODE.get(code, 1)


def outputs(code: int) -> range:
    """Return how many outputs the operator may have."""
    return _OUTPUTS_BY_CODE.get(code, _ONE)


def size_inputs(code: int) -> tuple[int, ...]:
    """Return which inputs hold sizes or axes: kernels copy them to room for a few numbers."""
    return _SIZES.get(code, ())


def most_sizes(code: int) -> int:
    """Return how many numbers such an input may hold."""
    return _MOST_SIZES if code in {34, 38, 37, 60, 100} else _MOST_SIZES // 2
