"""A client that keeps asking every device what it sees, and checks every answer."""

from __future__ import annotations

import asyncio
import io
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_REQUEST_TIMEOUT_S = 10.0
_MAX_FAILURES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One picture that the model has never seen, as PNG, and what it shows."""

    png: bytes
    label: str


class _Label(msgspec.Struct, frozen=True):
    label: str
    score: float


class _Answer(msgspec.Struct, frozen=True):
    model_version: str
    release_id: str
    labels: list[_Label]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One request that was not answered as it should."""

    at_s: float
    """Of the event loop's clock, when it failed."""
    url: str
    remark: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the client has seen so far."""

    requests: int = 0
    failed: int = 0
    right: int = 0
    by_version: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def accuracy(self) -> float:
        """Share (0..1) of right answers."""
        return self.right / max(1, self.requests - self.failed)


def read_samples(path: Path) -> list[Sample]:
    """Read `x (N, H, W) uint8` and `y (N,)` from an `.npz` and encode each picture as PNG."""
    import numpy as np  # noqa: PLC0415 - `litefleet --help` must not wait for it
    from PIL import Image  # noqa: PLC0415

    with np.load(path, allow_pickle=False) as data:
        pictures, labels = data["x"], data["y"]
    samples = []
    for picture, label in zip(pictures, labels, strict=True):
        encoded = io.BytesIO()
        Image.fromarray(picture.reshape(picture.shape[:2])).save(encoded, format="PNG")
        samples.append(Sample(png=encoded.getvalue(), label=str(int(label))))
    return samples


class InferenceLoad:
    """Calls `classify` on every device in turn, at a steady rate, until it is stopped."""

    def __init__(self, *, model: str, urls: Sequence[str], samples: Sequence[Sample], rate_per_s: float) -> None:
        self._urls = list(urls)
        self._path = f"/v2/models/{model}/classify"
        self._samples = samples
        self._pause_s = 1 / rate_per_s
        self._stopped = asyncio.Event()
        self.tally = Tally()

    def stop(self) -> None:
        """Finish the requests in flight and send no more."""
        self._stopped.set()

    async def run(self) -> None:
        """Send requests until `stop`; each is one task, so that a slow device does not slow the others."""
        asked = itertools.cycle(itertools.product(range(len(self._samples)), self._urls))
        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            due = loop.time()
            while not self._stopped.is_set():
                index, url = next(asked)
                tasks.create_task(self._ask(session, url, self._samples[index]))
                due = max(due + self._pause_s, loop.time() - 1)
                await asyncio.sleep(max(0.0, due - loop.time()))

    async def _ask(self, session: aiohttp.ClientSession, url: str, sample: Sample) -> None:
        self.tally.requests += 1
        try:
            async with (
                asyncio.timeout(_REQUEST_TIMEOUT_S),
                session.post(url + self._path, data=sample.png, headers={"Content-Type": "image/png"}) as reply,
            ):
                body = await reply.read()
                if reply.status != 200:  # noqa: PLR2004 - HTTP: OK
                    self._fail(url, f"{reply.status} {body[:200]!r}")
                    return
                answer = msgspec.json.decode(body, type=_Answer)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as exc:
            self._fail(url, f"{type(exc).__name__} {exc}")
            return
        self.tally.by_version[answer.model_version] = self.tally.by_version.get(answer.model_version, 0) + 1
        self.tally.right += answer.labels[0].label == sample.label

    def _fail(self, url: str, remark: str) -> None:
        self.tally.failed += 1
        if len(self.tally.failures) < _MAX_FAILURES:
            at_s = asyncio.get_running_loop().time()
            self.tally.failures.append(Failure(at_s=at_s, url=url, remark=remark))
