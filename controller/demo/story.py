"""The demo's plot: a first release, a better one under load, a tampered one, a wrong one, and a forged order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from controller.demo.load import InferenceLoad, read_samples
from controller.views import ConversionView, ReleaseView, VersionView
from shared.errors import PermanentError

if TYPE_CHECKING:
    from pathlib import Path

    from controller.client import Client
    from controller.demo.screen import Screen
    from controller.demo.world import World
    from controller.views import AssignmentView, RolloutView
    from shared.clock import Clock

MODEL = "digits"
WAVES = ["1", "25%", "100%"]
_POLL_S = 0.25
_REQUESTS_PER_DEVICE_S = 5.0
"""Enough for a verdict within ten seconds, and what two cores can serve on twelve devices, compared ones twice."""
_ROLLOUT_TIMEOUT_S = 300.0
MAX_DROP = 0.02
"""What the gate's 597 digits can certify: for 1 point no more than three of them might change their answer."""
_ENDED = frozenset({"completed", "aborted", "rolled_back"})
POLICY = {"min_pairs": 20, "max_flip_rate": 0.2, "max_latency_ratio": 4.0, "probation_s": 2.0, "deadline_s": 120.0}
"""Loose on latency, since twelve agents share this machine's cores; tight enough on answers to see a wrong model."""


class DemoFailedError(PermanentError):
    """Something did not come out as the demo claims."""

    reason = "demo_failed"


@dataclass(slots=True, kw_only=True)
class Episode:
    """How one rollout went."""

    rollout: RolloutView
    assignments: list[AssignmentView]
    seconds: float
    first_activation_s: float | None = None
    """Seconds after the start at which a device was first seen to have activated the release."""

    def exposed(self) -> list[str]:
        """Return the devices that loaded the release into their serving process."""
        return [a.device_id for a in self.assignments if a.activated]


@dataclass(slots=True, kw_only=True)
class Story:
    """Tells the chapters in order, on one world."""

    world: World
    api: Client
    screen: Screen
    clock: Clock
    load: InferenceLoad | None = field(default=None)

    async def release(self, folder: Path) -> tuple[ReleaseView, ConversionView]:
        """Upload, convert, sign: what `litefleet model push` does."""
        source = await self.api.upload(folder / "model.keras")
        data = await self.api.push_dataset(folder / "data")
        version = await self.api.post(
            f"/models/{MODEL}/versions",
            {"sha256": source, "filename": "model.keras", "source_format": "keras"},
            VersionView,
        )
        conversion = await self.api.post(
            "/conversions",
            {
                "model": MODEL,
                "version_number": version.number,
                "dataset_sha256": data.sha256,
                "pipeline": msgspec.json.decode((folder / "pipeline.json").read_bytes()),
                "budget": {"max_drop": MAX_DROP},
            },
            ConversionView,
        )
        while conversion.state in {"queued", "running"}:
            self.world.programs.check()
            await asyncio.sleep(_POLL_S)
            conversion = await self.api.conversion(conversion.conversion_id)
        if conversion.state != "succeeded":
            message = f"conversion of {folder.name} ended {conversion.state}: {conversion.message}"
            raise DemoFailedError(message)
        return await self.api.post("/releases", {"conversion_id": conversion.conversion_id}, ReleaseView), conversion

    async def roll_out(self, release: ReleaseView, *, override: bool = False) -> Episode:
        """Start a rollout and follow it to its end, showing every decision."""
        started = self.clock.monotonic()
        rollout = await self.api.start_rollout(
            {
                "release_id": release.release_id,
                "cohort": "fleet=demo",
                "waves": WAVES,
                "soak_s": 2.0,
                "on_failure": "revert",
                "wave_deadline_s": 240.0,
                "override_blacklist": override,
                "policy": POLICY,
            }
        )
        first_activation: float | None = None
        shown = 0
        while True:
            self.world.programs.check()
            rollout = await self.api.rollout(rollout.rollout_id)
            elapsed = self.clock.monotonic() - started
            if first_activation is None and any(w.activated for w in rollout.waves):
                first_activation = elapsed
            shown = await self._show_decisions(rollout.rollout_id, shown)
            self.screen.rollout(rollout, self.load.tally if self.load else None)
            if rollout.state in _ENDED:
                break
            if rollout.state == "paused" or elapsed > _ROLLOUT_TIMEOUT_S:
                self.screen.settle()
                message = f"rollout of {release.name} stands {rollout.state}: {rollout.explanation or rollout.reason}"
                raise DemoFailedError(message)
            await asyncio.sleep(_POLL_S)
        self.screen.settle()
        return Episode(
            rollout=rollout,
            assignments=await self.api.assignments(rollout.rollout_id),
            seconds=self.clock.monotonic() - started,
            first_activation_s=first_activation,
        )

    async def _show_decisions(self, rollout_id: str, shown: int) -> int:
        decisions = await self.api.decisions(rollout_id)
        for decision in decisions[shown:]:
            self.screen.verdict(decision.explanation or decision.reason)
        return len(decisions)

    def start_load(self, tasks: asyncio.TaskGroup, samples: Path) -> InferenceLoad:
        """Start the client that keeps asking every device, in the background."""
        self.load = InferenceLoad(
            model=MODEL,
            urls=[agent.url for agent in self.world.agents],
            samples=read_samples(samples),
            rate_per_s=_REQUESTS_PER_DEVICE_S * len(self.world.agents),
        )
        tasks.create_task(self.load.run())
        return self.load

    async def running_everywhere(self, release: ReleaseView) -> list[str]:
        """Return the devices that do not report `release` as their stable one."""
        return [
            d.device_id
            for d in await self.api.devices("fleet=demo")
            if not any(s.stable == release.release_id and s.candidate is None for s in d.slots)
        ]
