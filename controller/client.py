"""The REST API from the other side: what the CLI and the demo speak. One file wraps the HTTP client.

Views hold what a person is shown; readers ignore fields that they do not know, so that an older CLI reads a newer
controller.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from controller import dataset_folder
from controller.traffic_views import ChangeView, DeviceTrafficView
from controller.views import (
    AssignmentView,
    ConversionView,
    DatasetView,
    DecisionView,
    DeviceView,
    DriftView,
    ExportView,
    InviteView,
    Measured,
    ModelView,
    Page,
    PlanView,
    ReleaseView,
    RequestView,
    RolloutView,
    StatusView,
    UploadView,
    VersionView,
)
from shared.errors import DigestMismatchError, InvalidInputError, PermanentError, UnreachableError
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from shared.dataset import Shard

T = TypeVar("T")

REQUEST_TIMEOUT_S = 30.0
"""Any single call; uploads send one piece per call, so that a slow link only needs a fast enough piece."""
PIECE_BYTES = 1024 * 1024
_PAGE = 200


class ApiError(PermanentError):
    """The controller refused a call, with a problem document (RFC 9457)."""

    def __init__(self, *, http_status: int, title: str, detail: str, reason: str) -> None:
        super().__init__(detail or title)
        self.http_status, self.title, self.detail = http_status, title, detail
        self.reason = reason


class _Problem(msgspec.Struct, frozen=True):
    title: str = ""
    detail: str = ""
    reason: str = ""


class Client:
    """A session with one controller. Use as `async with Client(url, token) as api`."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        )

    async def __aenter__(self) -> Self:
        """Return the client; the connection opens with the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._session.close()

    async def call(
        self, method: str, path: str, body: object = None, *, data: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> bytes:
        """Make one call under `/api/v1` and return the body.

        Raises:
            ApiError: the controller refused it.
            UnreachableError: nothing answers at that address, or not in time.
        """
        payload = data if data is not None else (msgspec.json.encode(body) if body is not None else None)
        kind = "application/octet-stream" if data is not None else "application/json"
        try:
            async with (
                asyncio.timeout(REQUEST_TIMEOUT_S),
                self._session.request(
                    method, f"{self._url}/api/v1{path}", data=payload, headers={"Content-Type": kind, **headers}
                ) as reply,
            ):
                content = await reply.read()
                if reply.status >= 400:  # noqa: PLR2004 - HTTP: 4xx and 5xx are refusals
                    raise _api_error(reply.status, reply.reason or "", content)
                return content
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise UnreachableError(f"controller at {self._url} does not answer: {_cause(exc)}") from exc

    async def get(self, path: str, kind: type[T]) -> T:
        """Read one resource. Raises ApiError, UnreachableError."""
        return msgspec.json.decode(await self.call("GET", path), type=kind)

    async def pages(self, path: str, kind: type[T]) -> AsyncIterator[T]:
        """Walk a list to its end, page by page."""
        after: str | None = None
        while True:
            mark = "&" if "?" in path else "?"
            cursor = f"&after={after}" if after is not None else ""
            raw = await self.call("GET", f"{path}{mark}limit={_PAGE}{cursor}")
            page = msgspec.json.decode(raw, type=Page)
            for item in page.items:
                yield msgspec.json.decode(item, type=kind)
            if page.next is None:
                return
            after = page.next

    async def listed(self, path: str, kind: type[T]) -> list[T]:
        """Read a whole list."""
        return [item async for item in self.pages(path, kind)]

    async def post(self, path: str, body: object, kind: type[T]) -> T:
        """Create or act. Raises ApiError, UnreachableError."""
        return msgspec.json.decode(await self.call("POST", path, body), type=kind)

    async def delete(self, path: str) -> None:
        """Take something away."""
        await self.call("DELETE", path)

    async def upload(self, path: Path, progress: Callable[[int, int], None] = lambda _sent, _total: None) -> Sha256:
        """Bring a file to the controller, from where an earlier attempt was cut, and return its digest.

        `progress` is told (bytes there, bytes in all).
        """
        size, digest = await asyncio.to_thread(_measure, path)
        state = await self.post("/uploads", {"sha256": digest, "size_bytes": size}, UploadView)
        progress(state.offset_bytes, size)
        with path.open("rb") as source:
            while not state.complete:
                source.seek(state.offset_bytes)
                piece = await asyncio.to_thread(source.read, PIECE_BYTES)
                raw = await self.call(
                    "PATCH", f"/uploads/{digest}", data=piece, headers={"Upload-Offset": str(state.offset_bytes)}
                )
                state = msgspec.json.decode(raw, type=UploadView)
                progress(state.offset_bytes, size)
        return digest

    async def push_dataset(
        self, folder: Path, progress: Callable[[Shard, int, int], None] = lambda _shard, _sent, _total: None
    ) -> DatasetView:
        """Bring a dataset to the controller; of its shards, those that it does not have yet.

        `progress` is told (shard, bytes there, bytes in all).

        Raises:
            InvalidInputError: the folder is no dataset, or a shard is not what its document says.
        """
        spec = await asyncio.to_thread(dataset_folder.read, folder)
        for shard in spec.shards:
            sha256 = await self.upload(folder / shard.path, partial(progress, shard))
            if sha256 != shard.sha256:
                raise InvalidInputError(
                    field=shard.path,
                    problem="is not the file that dataset.json names",
                    remedy=f"write the document anew: litefleet dataset describe {folder}",
                )
        return await self.post("/datasets", {"document": msgspec.to_builtins(spec)}, DatasetView)

    async def datasets(self) -> list[DatasetView]:
        """List the datasets."""
        return await self.listed("/datasets", DatasetView)

    async def cancel_conversion(self, conversion_id: str) -> ConversionView:
        """End a conversion."""
        return await self.post(f"/conversions/{_part(conversion_id)}/cancel", None, ConversionView)

    async def models(self) -> list[ModelView]:
        """List the models."""
        return await self.listed("/models", ModelView)

    async def versions(self, model: str) -> list[VersionView]:
        """List the versions of a model."""
        return await self.listed(f"/models/{_part(model)}/versions", VersionView)

    async def conversion(self, conversion_id: str) -> ConversionView:
        """Read how a conversion stands."""
        return await self.get(f"/conversions/{conversion_id}", ConversionView)

    async def conversions(self) -> list[ConversionView]:
        """List the conversions, newest first."""
        return await self.listed("/conversions", ConversionView)

    async def measure(self, conversion_id: str, device: str) -> Measured:
        """Have a device time the artifacts of a conversion."""
        return await self.post(f"/conversions/{conversion_id}/measurements", {"device_id": device}, Measured)

    async def measurements(self, conversion_id: str) -> Measured:
        """Read what devices measured of a conversion."""
        return await self.get(f"/conversions/{conversion_id}/measurements", Measured)

    async def releases(self) -> list[ReleaseView]:
        """List the releases, newest first."""
        return await self.listed("/releases", ReleaseView)

    async def release(self, release_id: str) -> ReleaseView:
        """Read one release."""
        return await self.get(f"/releases/{_part(release_id)}", ReleaseView)

    async def export(self, release_id: str, profile: str) -> ExportView:
        """Read which files a release has for one class of hardware, and what vouches for them."""
        return await self.get(f"/releases/{_part(release_id)}/export?profile={_part(profile)}", ExportView)

    async def download(self, path: Path, *, sha256: str, length_bytes: int) -> None:
        """Bring a file of the controller here, piece by piece. Raises DigestMismatchError."""
        digest, there = hashlib.sha256(), 0
        with path.open("wb") as sink:
            while there < length_bytes:
                last = min(there + PIECE_BYTES, length_bytes) - 1
                piece = await self.call("GET", f"/blobs/{sha256}", headers={"Range": f"bytes={there}-{last}"})
                if not piece:
                    break
                digest.update(piece)
                sink.write(piece)
                there += len(piece)
        if digest.hexdigest() != sha256:
            raise DigestMismatchError(expected=sha256, actual=digest.hexdigest(), path=str(path))

    async def devices(self, query: str = "all") -> list[DeviceView]:
        """List the devices that match a label query."""
        return await self.listed(f"/devices?query={_part(query)}", DeviceView)

    async def device(self, device: str) -> DeviceView:
        """Read one device: what it should run, what it says it runs, and why they differ."""
        return await self.get(f"/devices/{_part(device)}", DeviceView)

    async def label(self, device: str, labels: Mapping[str, str]) -> DeviceView:
        """Replace the labels of a device."""
        raw = await self.call("PATCH", f"/devices/{_part(device)}", {"labels": dict(labels)})
        return msgspec.json.decode(raw, type=DeviceView)

    async def remove_device(self, device: str) -> None:
        """Take a device out of the fleet."""
        await self.delete(f"/devices/{_part(device)}")

    async def invite(self, device: str, *, site: str, labels: Mapping[str, str]) -> InviteView:
        """Make a device known and return the invite with which it enrols, once."""
        return await self.post("/devices", {"device_id": device, "site": site, "labels": dict(labels)}, InviteView)

    async def traffic(self, device: str) -> DeviceTrafficView:
        """Read which variants a device should run, and who answers which share."""
        return await self.get(f"/devices/{_part(device)}/traffic", DeviceTrafficView)

    async def set_traffic(self, body: object) -> ChangeView:
        """Set variants and the rule of a model on a device or a cohort."""
        return await self.post("/traffic", body, ChangeView)

    async def halt_traffic(self, change_id: str, mode: str) -> None:
        """Take back on every device the variants that one change brought."""
        await self.call("POST", f"/traffic/{_part(change_id)}/halt", {"mode": mode})

    async def set_request_log(self, body: object) -> ChangeView:
        """Set what of a model's requests a device or a cohort writes down."""
        return await self.post("/request-logs", body, ChangeView)

    def request_log(self, device: str, *, model: str = "") -> AsyncIterator[RequestView]:
        """Walk the requests that a device wrote down and sent, oldest first."""
        of_model = f"?model={_part(model)}" if model else ""
        return self.pages(f"/devices/{_part(device)}/request-log{of_model}", RequestView)

    async def drift(self, device: str) -> list[DriftView]:
        """Read what a device found of its requests in the last day, that which alarmed first."""
        # All of it is one page, so that the route takes no `limit`.
        page = await self.get(f"/devices/{_part(device)}/drift", Page)
        return [msgspec.json.decode(item, type=DriftView) for item in page.items]

    async def rollouts(self) -> list[RolloutView]:
        """List the rollouts, newest first."""
        return await self.listed("/rollouts", RolloutView)

    async def rollout(self, rollout_id: str) -> RolloutView:
        """Read how a rollout stands and why."""
        return await self.get(f"/rollouts/{rollout_id}", RolloutView)

    async def plan_rollout(self, body: object) -> PlanView:
        """Say who would be in which wave and which gates could decide, without starting anything."""
        return await self.post("/rollouts/plan", body, PlanView)

    async def start_rollout(self, body: object) -> RolloutView:
        """Start a rollout."""
        return await self.post("/rollouts", body, RolloutView)

    async def assignments(self, rollout_id: str) -> list[AssignmentView]:
        """List every device's share of a rollout."""
        return await self.listed(f"/rollouts/{rollout_id}/assignments", AssignmentView)

    async def some_assignments(self, rollout_id: str, *, status: str, limit: int) -> list[AssignmentView]:
        """Read the first few assignments of a status: enough to name, however large the fleet."""
        page = await self.get(f"/rollouts/{rollout_id}/assignments?status={status}&limit={limit}", Page)
        return [msgspec.json.decode(item, type=AssignmentView) for item in page.items]

    async def decisions(self, rollout_id: str) -> list[DecisionView]:
        """List what was decided, when and why, oldest first."""
        return await self.listed(f"/rollouts/{rollout_id}/decisions", DecisionView)

    async def status(self) -> StatusView:
        """Read the state of the controller itself."""
        return await self.get("/status", StatusView)


def _part(text: str) -> str:
    """Return a text that somebody typed as one part of an address."""
    return quote(text, safe="")


def _cause(error: Exception) -> str:
    """Return why there was no answer, in the system's own words where there are any."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno is not None:
        return os.strerror(error.os_error.errno) if error.os_error.errno > 0 else str(error.os_error.strerror)
    return str(error) or "no reply in time"


def _measure(path: Path) -> tuple[int, Sha256]:
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    return path.stat().st_size, Sha256(digest)


def _api_error(http_status: int, phrase: str, content: bytes) -> ApiError:
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem(title=phrase)
    return ApiError(
        http_status=http_status, title=problem.title or phrase, detail=problem.detail, reason=problem.reason
    )
