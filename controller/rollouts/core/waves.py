"""Cut a cohort into waves by stable hash, so that re-planning moves no device between waves.

Sizes are cumulative: `1`, `25%`, `100%` means one device first, then up to a quarter of the cohort, then all.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from controller.rollouts.core.types import BUCKET_END, WaveSpec
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.ids import DeviceId

MAX_WAVES = 32
_FIELD = "waves"
_EXPRESSION = re.compile(r"([1-9][0-9]{0,8})(%?)")
_ALL = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveSize:
    """One parsed size."""

    expression: str
    amount: int
    percent: bool

    def of(self, cohort: int) -> int:
        """Return how many devices of a cohort this reaches: rounded down ("up to 25 %"), but at least one."""
        reached = cohort * self.amount // _ALL if self.percent else self.amount
        return min(max(reached, 1), cohort)


def bucket_of(salt: str, device: DeviceId) -> int:
    """Return a device's place in the order of a rollout; a new salt each time, so that canaries rotate."""
    digest = hashlib.sha256(f"{salt}\n{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def parse_sizes(expressions: Sequence[str]) -> tuple[WaveSize, ...]:
    """Read wave sizes. Raises InvalidInputError with what would mend them."""
    if not 1 <= len(expressions) <= MAX_WAVES:
        raise InvalidInputError(
            field=_FIELD, problem=f"there are {len(expressions)}", remedy=f"give 1 to {MAX_WAVES}, e.g. 1, 25%, 100%"
        )
    sizes = tuple(_parse(expression) for expression in expressions)
    for before, after in pairwise(sizes):
        if before.percent == after.percent and after.amount <= before.amount:
            raise InvalidInputError(
                field=_FIELD,
                problem=f"{after.expression} after {before.expression} adds no device",
                remedy="sizes are cumulative and must grow, e.g. 1, 25%, 100%",
            )
    return sizes


def cut_waves(sizes: Sequence[WaveSize], buckets: Sequence[int]) -> tuple[WaveSpec, ...]:
    """Cut a cohort, given by the buckets of its devices, into waves.

    In a small cohort two sizes may reach the same devices (25 % of 4 is 1): the wave that adds nobody is left out. The
    last wave ends with the bucket space, so that late joiners fall into it.

    Raises:
        InvalidInputError: the cohort is empty, the sizes fall, or they do not reach all of it.
    """
    order = sorted(buckets)
    total = len(order)
    if total == 0:
        raise InvalidInputError(field="cohort", problem="holds no enrolled device", remedy="see `litefleet device ls`")
    reached = [size.of(total) for size in sizes]
    _check_reach(sizes, reached, total)
    waves: list[WaveSpec] = []
    lo = done = 0
    for size, upto in zip(sizes, reached, strict=True):
        if upto == done:
            continue
        # Up to the next device, not behind the last one: a device that joins in between falls into this wave.
        hi = BUCKET_END if upto == total else order[upto]
        waves.append(WaveSpec(expression=size.expression, lo=lo, hi=hi, size=upto - done))
        lo, done = hi, upto
    return tuple(waves)


def _parse(expression: str) -> WaveSize:
    found = _EXPRESSION.fullmatch(expression.strip())
    amount = int(found.group(1)) if found else 0
    percent = bool(found and found.group(2))
    if found is None or (percent and amount > _ALL):
        raise InvalidInputError(
            field=_FIELD,
            problem=f"{expression!r} is no size",
            remedy="write a number of devices like 5 or a share of the cohort from 1% to 100%",
        )
    return WaveSize(expression=f"{amount}{'%' if percent else ''}", amount=amount, percent=percent)


def _check_reach(sizes: Sequence[WaveSize], reached: Sequence[int], total: int) -> None:
    for before, after, upto_before, upto in zip(sizes, sizes[1:], reached, reached[1:], strict=False):
        if upto < upto_before:
            raise InvalidInputError(
                field=_FIELD,
                problem=f"{after.expression} of {total} devices is {upto}, less than {before.expression} before it",
                remedy="sizes are cumulative and must grow",
            )
    if reached[-1] < total:
        raise InvalidInputError(
            field=_FIELD,
            problem=f"the last wave reaches {reached[-1]} of {total} devices",
            remedy='add "100%" as the last wave',
        )
