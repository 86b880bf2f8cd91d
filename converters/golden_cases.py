"""The golden check of an artifact: real inputs, its own answers, and how far another runtime may be from those."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.manifest import GoldenCase, GoldenCheck, Scheme
from shared.runtime.golden import to_array, to_tensor_data
from shared.runtime.interpreter import Kernels, LiteRtInterpreter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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


def choose(labels: NDArray[np.int64], scores: NDArray[np.float32], count: int) -> list[int]:
    """Return the indexes of `count` samples (or all): typical and undecided ones in turn.

    Typical ones take turns between the classes, first come first; undecided are those whose best `(N, K)` score leads
    the second by least. Two networks well trained on the same data are equally sure of what is typical: on digits, one
    of another seed passed an int8 check made of that alone, and was off by 5 times the tolerance on the undecided.
    """
    rounds: dict[int, int] = {}
    order = []
    for index, label in enumerate(labels.tolist()):
        rounds[label] = rounds.get(label, 0) + 1
        order.append((rounds[label], label, index))
    typical = [index for _, _, index in sorted(order)]
    by_lead = np.argsort(_lead(scores), kind="stable").tolist()
    closest = int(_TOO_CLOSE * len(by_lead))
    undecided = by_lead[closest:] + by_lead[:closest]
    # Each index once, in the order of its first appearance.
    return list(dict.fromkeys(chain.from_iterable(zip(typical, undecided, strict=True))))[:count]


def _lead(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each row's best score leads its second or, for a single score, the middle of a sigmoid."""
    if scores.shape[1] == 1:
        lead = np.abs(scores[:, 0] - 0.5)
    else:
        second, best = np.partition(scores, -2, axis=1)[:, -2:].T
        lead = best - second
    return np.asarray(lead, dtype=np.float32)


def is_blind(check: GoldenCheck) -> bool:
    """Whether one and the same answer to everything would pass, so that the check shows next to nothing."""
    answers = np.stack([to_array(case.outputs[0]) for case in check.cases]).astype(np.float64)
    return bool((np.ptp(answers, axis=0) <= 2 * check.atol).all())


def make(model: bytes, inputs: Sequence[Tensor], scheme: Scheme) -> tuple[GoldenCheck, str]:
    """Return the check, and "" or why the artifact must be refused: `kernels_disagree: 0.4 of the range > 0.05`.

    Each of `inputs` is one model input without batch axis.

    Raises:
        ModelLoadError: one kind of kernels cannot run the artifact.
    """
    # The first kind is what a device will use, so that its answers are the expected ones.
    batches = [item[np.newaxis] for item in inputs]
    expected, *others = (_answers(model, batches, kernels) for kernels in Kernels)
    span = max(float(np.max([np.abs(answer).max() for answer in expected])), _TINY)
    spread = max(float(np.max(np.abs(np.subtract(expected, other, dtype=np.float64)))) for other in others)
    floor = _FLOOR.get(scheme, _INTEGER_FLOOR)
    check = GoldenCheck(
        cases=tuple(
            GoldenCase(inputs=(to_tensor_data(batch),), outputs=(to_tensor_data(answer),))
            for batch, answer in zip(batches, expected, strict=True)
        ),
        # Answers that are no numbers have no tolerance, and JSON could not carry it.
        atol=max(floor * span, _SPREAD_FACTOR * spread) if np.isfinite(span + spread) else 0.0,
        rtol=0.0,
    )
    # Not `>`: a NaN must not pass.
    agrees = spread / span <= _MAX_SPREAD
    return check, "" if agrees else f"kernels_disagree: {spread / span:.3g} of the range > {_MAX_SPREAD:g}"


def _answers(model: bytes, batches: Sequence[Tensor], kernels: Kernels) -> list[Tensor]:
    interpreter = LiteRtInterpreter(model, threads=1, kernels=kernels)
    return [interpreter.run([batch])[0] for batch in batches]
