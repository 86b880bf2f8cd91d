"""The golden check of an artifact: real inputs, its own answers, and how far another runtime may be from those."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.manifest import GoldenCase, GoldenCheck, Scheme
from shared.runtime.golden import to_array, to_tensor_data
from shared.runtime.interpreter import Kernels, LiteRtInterpreter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.manifest import TensorData

    Tensor = NDArray[Any]

_FLOOR = {Scheme.FLOAT32: 1e-3, Scheme.FLOAT16: 1e-2}
_INTEGER_FLOOR = 0.05
"""Least tolerance, as a share of the largest answer. Float kernels sum in other orders (1e-6 measured); ARM may compute
float16 in halves (11 bits a step); int8 answers come in steps of 1/256 of the range, kernels measured 2 steps apart,
and deeper networks round more often. Garbage, which the check is there for, is off by the whole range."""
_TINY = float(np.finfo(np.float32).tiny)
_SPREAD_FACTOR = 4
"""Kernels not tried here may disagree more than those that were."""
_TOO_CLOSE = 0.015
"""Share of samples so undecided that one step of rounding moves them: there int8 kernels disagreed by 0.05 of the
range, and from the next hundredth on by less than a quarter of that."""
_MAX_SPREAD = 0.05
"""Beyond this share of the range, the tolerance that the spread asks for would let garbage pass."""


def choose(labels: NDArray[np.int64], leads: NDArray[np.float32], count: int) -> list[int]:
    """Return the indexes of `count` samples (or all): typical and undecided ones in turn.

    Typical ones take turns between the classes, first come first; undecided are those of the least of `leads`, by how
    much the best score leads the second. Two networks well trained on the same data are equally sure of what is
    typical: on digits, one of another seed passed an int8 check made of that alone, and was off by 5 times the
    tolerance on the undecided.
    """
    rounds: dict[int, int] = {}
    order = []
    for index, label in enumerate(labels.tolist()):
        rounds[label] = rounds.get(label, 0) + 1
        order.append((rounds[label], label, index))
    typical = [index for _, _, index in sorted(order)]
    by_lead = np.argsort(leads, kind="stable").tolist()
    closest = int(_TOO_CLOSE * len(by_lead))
    undecided = by_lead[closest:] + by_lead[:closest]
    # Each index once, in the order of its first appearance.
    return list(dict.fromkeys(chain.from_iterable(zip(typical, undecided, strict=True))))[:count]


def lead(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each row's best score leads its second or, for a single score, the middle of a sigmoid."""
    if scores.shape[1] == 1:
        ahead = np.abs(scores[:, 0] - 0.5)
    else:
        second, best = np.partition(scores, -2, axis=1)[:, -2:].T
        ahead = best - second
    return np.asarray(ahead, dtype=np.float32)


def is_blind(check: GoldenCheck) -> bool:
    """Whether one and the same answer to everything would pass, so that the check shows next to nothing."""
    outputs = [np.stack([to_array(output) for output in column]) for column in _columns(check)]
    return all(bool((np.ptp(output.astype(np.float64), axis=0) <= 2 * check.atol).all()) for output in outputs)


def make(model: bytes, inputs: Sequence[Tensor], scheme: Scheme) -> tuple[GoldenCheck, str]:
    """Return the check, and "" or why the artifact must be refused: `kernels_disagree: 0.4 of the range > 0.05`.

    Each of `inputs` is one model input without batch axis. They are asked in order of a model that was just loaded, so
    that one that remembers answers alike each time.

    Raises:
        ModelLoadError: one kind of kernels cannot run the artifact.
    """
    # The first kind is what a device will use, so that its answers are the expected ones.
    batches = [item[np.newaxis] for item in inputs]
    with ThreadPoolExecutor(len(Kernels)) as pool:
        expected, *others = pool.map(lambda kernels: _answers(model, batches, kernels), Kernels)
    span = float(np.maximum(_largest(expected), _TINY))
    spread = float(np.max([_largest(_differences(expected, other)) for other in others]))
    floor = _FLOOR.get(scheme, _INTEGER_FLOOR)
    check = GoldenCheck(
        cases=tuple(
            GoldenCase(inputs=(to_tensor_data(batch),), outputs=tuple(to_tensor_data(answer) for answer in answers))
            for batch, answers in zip(batches, expected, strict=True)
        ),
        # Answers that are no numbers have no tolerance, and JSON could not carry it.
        atol=max(floor * span, _SPREAD_FACTOR * spread) if np.isfinite(span + spread) else 0.0,
        rtol=0.0,
    )
    # Not `>`: a NaN must not pass.
    agrees = spread / span <= _MAX_SPREAD
    return check, "" if agrees else f"kernels_disagree: {spread / span:.3g} of the range > {_MAX_SPREAD:g}"


def _columns(check: GoldenCheck) -> list[list[TensorData]]:
    """Return what each output answers over all cases."""
    return [list(column) for column in zip(*(case.outputs for case in check.cases), strict=True)]


def _largest(answers: Sequence[Sequence[Tensor]]) -> float:
    # numpy's max, for which one NaN is the largest of all.
    return float(np.max([np.abs(output.astype(np.float64)).max() for case in answers for output in case]))


def _differences(some: Sequence[Sequence[Tensor]], others: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    return [
        [np.subtract(a, b, dtype=np.float64) for a, b in zip(mine, theirs, strict=True)]
        for mine, theirs in zip(some, others, strict=True)
    ]


def _answers(model: bytes, batches: Sequence[Tensor], kernels: Kernels) -> list[list[Tensor]]:
    interpreter = LiteRtInterpreter(model, threads=1, kernels=kernels)
    return [interpreter.run([batch]) for batch in batches]
