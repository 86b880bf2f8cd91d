"""The two kinds of edit: of variants and rule, and of the request log. Each works on a page of devices at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from controller.facts import Misfit
from controller.traffic.core.change import changed, check
from shared.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import ArtifactChoice, DeviceFacts, ModelTraffic
    from controller.traffic.core.change import LogOrder, TrafficOrder
    from controller.traffic.ports import Desires, Releases
    from shared.hardware import DeviceHardware
    from shared.ids import DeviceId, ModelName, ReleaseId, RolloutId

Edited = dict["DeviceId", "ModelTraffic | InvalidInputError"]
"""What is set of the model after the edit, or why it cannot be done on that device."""


class Edit(Protocol):
    """Something to do to what is set of one model."""

    action: str
    """As the audit log calls it."""

    @property
    def model(self) -> ModelName:
        """Whose traffic is edited."""
        ...

    @property
    def without_consent(self) -> int:
        """On how many of the devices seen so far it will come to nothing, since no release consents to it."""
        ...

    def told(self) -> dict[str, str | int | float | bool | None]:
        """Return what the audit log says of it."""
        ...

    async def check(self, uow: UnitOfWork) -> None:
        """Refuse what no device could do. Raises InvalidInputError."""
        ...

    async def apply(
        self, uow: UnitOfWork, facts: Mapping[DeviceId, DeviceFacts], before: Mapping[DeviceId, ModelTraffic]
    ) -> Edited:
        """Return what becomes of each of these devices."""
        ...


class TrafficEdit:
    """Variants and the rule."""

    action = "traffic.set"
    without_consent = 0

    def __init__(self, order: TrafficOrder, *, change_id: RolloutId, releases: Releases, desires: Desires) -> None:
        self._order, self._change_id = order, change_id
        self._releases, self._desires = releases, desires
        self._choices: dict[DeviceHardware, dict[str, ArtifactChoice] | InvalidInputError] = {}

    @property
    def model(self) -> ModelName:
        """Whose traffic is edited."""
        return self._order.model

    def told(self) -> dict[str, str | int | float | bool | None]:
        """Return what the audit log says of it."""
        order = self._order
        rule = order.rule
        return {
            "variants": ",".join(f"{name}={asked.release_id}" for name, asked in sorted(order.variants.items())),
            "remove": ",".join(sorted(order.remove)),
            "weights": "" if rule is None else ",".join(f"{arm.variant}={arm.weight}" for arm in rule.arms),
            "shadow": "" if rule is None else rule.shadow,
            "mode": "" if rule is None else rule.mode.value,
            "clear": order.clear,
        }

    async def check(self, uow: UnitOfWork) -> None:
        """Refuse an order that contradicts itself, and releases that are none or of another model."""
        check(self._order)
        for name, asked in self._order.variants.items():
            field = f"variants.{name}.release_id"
            try:
                release = await self._releases.facts(uow, asked.release_id)
            except NotFoundError as exc:
                remedy = "see `litefleet release ls`"
                raise InvalidInputError(field=field, problem=f"no release {asked.release_id}", remedy=remedy) from exc
            if release.model != self.model:
                problem = f"{release.model}/{release.version_number} is no release of {self.model}"
                raise InvalidInputError(field=field, problem=problem)

    async def apply(
        self, uow: UnitOfWork, facts: Mapping[DeviceId, DeviceFacts], before: Mapping[DeviceId, ModelTraffic]
    ) -> Edited:
        """Return what becomes of each of these devices."""
        main = await self._desires.current(uow, list(facts), self.model)
        ids = {variant.entry.rollout_id for one in before.values() for variant in one.variants.values()}
        halted = await self._desires.halted(uow, ids)
        edited: Edited = {}
        for device, known in facts.items():
            try:
                choices = await self._fitting(uow, known)
                after = changed(before[device], self._order, choices, rollout_id=self._change_id, halted=halted)
                _check_runs(self.model, after, runs_main=main[device] is not None)
                edited[device] = after
            except InvalidInputError as exc:
                edited[device] = exc
        return edited

    async def _fitting(self, uow: UnitOfWork, known: DeviceFacts) -> Mapping[str, ArtifactChoice]:
        """Return the artifact of each variant for a device. Raises InvalidInputError when there is none."""
        if not self._order.variants:
            return {}
        if known.hardware is None:
            raise InvalidInputError(field="device", problem=f"{known.device_id} has not enrolled", remedy="enrol it")
        # A fleet has few kinds of hardware: one look at the releases for each, not for each device.
        if known.hardware not in self._choices:
            self._choices[known.hardware] = await self._fit(uow, known.hardware)
        found = self._choices[known.hardware]
        if isinstance(found, InvalidInputError):
            raise found
        return found

    async def _fit(self, uow: UnitOfWork, hardware: DeviceHardware) -> dict[str, ArtifactChoice] | InvalidInputError:
        choices: dict[str, ArtifactChoice] = {}
        for name, asked in self._order.variants.items():
            choice = await self._releases.fit(uow, asked.release_id, hardware)
            if isinstance(choice, Misfit):
                return InvalidInputError(
                    field=f"variants.{name}.release_id",
                    problem=choice.reason,
                    remedy="convert the model for such devices, or choose others",
                )
            choices[name] = choice
        return choices


class LogEdit:
    """What of a model's requests is written down."""

    action = "request_log.set"

    def __init__(self, order: LogOrder, *, releases: Releases, desires: Desires) -> None:
        self._order = order
        self._releases, self._desires = releases, desires
        self._consents: dict[ReleaseId, bool] = {}
        self.without_consent = 0
        """Devices on which no release that should run consents: they are told all the same, and write nothing."""

    @property
    def model(self) -> ModelName:
        """Whose requests."""
        return self._order.model

    def told(self) -> dict[str, str | int | float | bool | None]:
        """Return what the audit log says of it."""
        wish = self._order.wish
        return {
            "sample_rate": 0.0 if wish is None else wish.sample_rate,
            "upstream": wish is not None and wish.upstream,
        }

    async def check(self, uow: UnitOfWork) -> None:
        """Nothing is wrong with a wish on its own; each release says on the device what it consents to."""

    async def apply(
        self, uow: UnitOfWork, facts: Mapping[DeviceId, DeviceFacts], before: Mapping[DeviceId, ModelTraffic]
    ) -> Edited:
        """Return what becomes of each of these devices."""
        main = await self._desires.current(uow, list(facts), self.model)
        edited: Edited = {}
        for device in facts:
            after = replace(before[device], log=self._order.wish)
            try:
                _check_runs(self.model, after, runs_main=main[device] is not None)
                edited[device] = after
            except InvalidInputError as exc:
                edited[device] = exc
                continue
            running = {main[device], *(variant.entry.release_id for variant in after.variants.values())}
            if after.log is not None and not await self._consented(uow, running):
                self.without_consent += 1
        return edited

    async def _consented(self, uow: UnitOfWork, running: Collection[ReleaseId | None]) -> bool:
        # A fleet runs few releases of a model: each is looked at once.
        for release in running:
            if release is not None and release not in self._consents:
                try:
                    self._consents[release] = (await self._releases.facts(uow, release)).log_consent is not None
                except NotFoundError:
                    # Nobody knows any more: nothing is said of it.
                    self._consents[release] = True
        return any(self._consents[release] for release in running if release is not None)


def _check_runs(model: ModelName, after: ModelTraffic, *, runs_main: bool) -> None:
    """Refuse rules and logs of a model that the device knows nothing of: a name misspelt would never be noticed."""
    if not (after.is_empty or runs_main or after.variants):
        raise InvalidInputError(
            field="model", problem=f"the device should run nothing of {model}", remedy="roll out a release of it first"
        )
