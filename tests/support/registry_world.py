"""The registry, from uploaded bytes to published releases, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from shared.conversion_process import ConvertLimits
from shared.errors import UnreachableError
from tests.support.datasets import opaque, spec_of
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import aiohttp

    from controller.blobs import Blobs
    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DeviceFacts, PublishedFile
    from controller.registry.conversions import Conversions
    from controller.registry.core.types import Card
    from controller.registry.releases import Releases
    from shared.conversion import ConversionResult, RuntimeVersion
    from shared.ids import DeviceId, ReleaseId

LIMITS = ConvertLimits(wall_s=30.0, cpu_s=20, address_space_bytes=1024**3, file_bytes=8 * 1024**2, threads=1)


@dataclass
class RecordingPublisher:
    """A repository that remembers, and is away when told to be."""

    published: list[PublishedFile] = field(default_factory=list)
    away: bool = False

    async def publish(self, files: Sequence[PublishedFile]) -> None:
        if self.away:
            raise UnreachableError("the repository is away")
        self.published.extend(file for file in files if file not in self.published)


class BreakingWorker:
    """A worker with a fault of its own."""

    async def convert(self, *_: object) -> tuple[ConversionResult, Card | None]:
        raise RuntimeError("a fault")


@dataclass
class ListedUse:
    """Who uses which release, as the test says."""

    users: dict[str, str] = field(default_factory=dict)

    async def in_use(self, _uow: UnitOfWork, release_id: ReleaseId) -> str:
        return self.users.get(release_id, "")


@dataclass
class ListedRuntimes:
    """The fleet's interpreters, as the test says."""

    present: tuple[RuntimeVersion, ...] = ()

    async def runtimes(self, _uow: UnitOfWork) -> tuple[RuntimeVersion, ...]:
        return self.present


class NoDevices:
    """A fleet of none."""

    async def facts(self, _uow: UnitOfWork, _ids: Sequence[DeviceId]) -> dict[DeviceId, DeviceFacts]:
        return {}

    async def set_measurements(self, *_: object) -> None:
        raise AssertionError("nobody is asked")


@dataclass(kw_only=True)
class World:
    database: Database
    blobs: Blobs
    publisher: RecordingPublisher
    use: ListedUse
    fleet: ListedRuntimes
    conversions: Conversions
    releases: Releases
    api: aiohttp.ClientSession

    async def upload(self, data: bytes) -> str:
        return await self.blobs.put_bytes(data)

    async def post(self, path: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
        async with self.api.post(f"/api/v1{path}", json=body) as reply:
            answer: dict[str, object] = await reply.json()
            return reply.status, answer

    async def get(self, path: str) -> dict[str, object]:
        async with self.api.get(f"/api/v1{path}") as reply:
            assert reply.status == 200, await reply.text()
            answer: dict[str, object] = await reply.json()
            return answer

    async def order(self, behaviour: str = "good", **changed: object) -> str:
        """Order a conversion whose program behaves so, and return its id."""
        source = await self.upload(behaviour.encode())
        await self.post("/models/digits/versions", {"sha256": source, "filename": "m.keras", "source_format": "keras"})
        versions = (await self.get("/models/digits/versions"))["items"]
        assert isinstance(versions, list)
        number = next(version["number"] for version in versions if version["sha256"] == source)
        status, answer = await self.post("/conversions", order_of(number, await self.data(), **changed))
        assert status == 202, answer
        return str(answer["conversion_id"])

    async def data(self) -> str:
        """Register a dataset and return its digest."""
        for content in opaque().values():
            await self.upload(content)
        status, registered = await self.post("/datasets", {"document": msgspec.to_builtins(spec_of(opaque()))})
        assert status in {200, 201}, registered
        return str(registered["sha256"])

    async def converted(self, conversion_id: str) -> dict[str, object]:
        """Return a conversion once it ended."""

        async def ended() -> dict[str, object] | None:
            shown = await self.get(f"/conversions/{conversion_id}")
            return shown if shown["state"] in {"succeeded", "failed", "canceled"} else None

        return await wait_until_async(ended, within_s=20)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Let a worker work the queue off."""
        async with asyncio.TaskGroup() as group:
            worker = group.create_task(self.conversions.work())
            try:
                yield
            finally:
                worker.cancel()

    async def ordered(self, behaviour: str = "good", **changed: object) -> str:
        """Return the id of a conversion that ended."""
        async with self.working():
            conversion_id = await self.order(behaviour, **changed)
            await self.converted(conversion_id)
        return conversion_id

    async def release(self, behaviour: str = "good", **changed: object) -> dict[str, object]:
        """Return a release."""
        conversion_id = await self.ordered(behaviour, **changed)
        status, released = await self.post("/releases", {"conversion_id": conversion_id})
        assert status == 201, released
        return released


def order_of(number: int, data: str, **changed: object) -> dict[str, object]:
    order: dict[str, object] = {
        "model": "digits",
        "version_number": number,
        "dataset_sha256": data,
        "pipeline": {"steps": [{"type": "run_model"}]},
    }
    return {**order, **changed}
