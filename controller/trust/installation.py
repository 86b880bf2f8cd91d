"""Everything that this installation signs and vouches with, opened from one state folder."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from controller.trust.authority import Authority
from controller.trust.director import Director
from controller.trust.files import open_signing_key
from controller.trust.keyring import KeyRing, Role
from controller.trust.reports import ReportKeys
from controller.trust.repository import Repository
from shared.clock import mint_id
from shared.ids import InstallationId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from controller.facts import PublishedFile
    from controller.trust.repository import Refreshed, TrustedFile
    from shared.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The installation's keys at work."""

    installation_id: InstallationId
    repository: Repository
    director: Director
    authority: Authority
    report_keys: ReportKeys

    @classmethod
    def open(cls, state_dir: Path, *, clock: Clock) -> Trust:
        """Take up, or make at the first start, `tuf/{metadata,keys}` and `authority/`. Blocks.

        Raises:
            UntrustedError: something is damaged, or its keys do not belong together.
        """
        keys = KeyRing(state_dir / "tuf" / "keys")
        director = Director(open_signing_key(keys.path(Role.DIRECTOR)))
        # The minted id counts only for a repository that is new; else the signed one stands.
        repository = Repository.open(
            folder=state_dir / "tuf" / "metadata",
            keys=keys,
            director_key_hex=director.public_hex,
            installation_id=InstallationId(mint_id(clock)),
            clock=clock,
        )
        if repository.lab_mode:
            log.warning(
                "lab_mode", meaning="all signing keys are on this controller; whoever takes it can sign anything"
            )
        return cls(
            installation_id=repository.installation_id,
            repository=repository,
            director=director,
            authority=Authority.open(state_dir / "authority", clock),
            report_keys=ReportKeys.open(state_dir / "authority" / "uplink.key"),
        )

    @property
    def lab_mode(self) -> bool:
        """Whether the two signatures protect against nobody who has the controller."""
        return self.repository.lab_mode


class Publisher:
    """The repository for asyncio: its blocking work runs, one at a time, in a thread of its own."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tuf")

    async def publish(self, files: Sequence[PublishedFile]) -> None:
        """Vouch for files. Raises as `Repository.publish`."""
        await self._run(self._repository.publish, files)

    async def refresh_expiring(self) -> Refreshed:
        """Sign again what has used half its lifetime; cheap to call at every tick."""
        refreshed = await self._run(self._repository.refresh_expiring)
        if refreshed.needs_offline_key:
            log.warning("signature_expires", roles=refreshed.needs_offline_key, remedy="bring the key, or sign offline")
        return refreshed

    async def find(self, path: str) -> TrustedFile:
        """Return what is vouched for under `path`. Raises NotFoundError."""
        return await self._run(self._repository.find, path)

    async def documents(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the signed documents that vouch for paths, by file name."""
        return await self._run(self._repository.documents, paths)

    def close(self) -> None:
        """Wait for the work under way, and end the thread."""
        self._executor.shutdown()

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))
