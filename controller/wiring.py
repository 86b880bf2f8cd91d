"""How the domains meet: each needs a port, another has the service; nothing is decided here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.convert import Converter, ConvertFolders
from controller.deltas.maker import ProgramMaker
from controller.deltas.service import DeltaService
from controller.desired.publisher import DesiredPublisher
from controller.desired.pulse import PulseService
from controller.desired.service import DesiredService
from controller.dispatch import Dispatch
from controller.fleet.cohorts import Cohorts, FleetRuntimes, Identities
from controller.fleet.service import FleetService
from controller.fleet.settings import BrokerAddress, FleetSettings
from controller.fleet.uplinks import Uplinks
from controller.ingest import Ingest, ReportSink, Sinks
from controller.mqtt import BrokerLink, PasswordLogin
from controller.registry.conversions import Conversions
from controller.registry.measurements import Measurements
from controller.registry.releases import Releases
from controller.registry.service import Registry
from controller.rollouts.service import RolloutService
from controller.telemetry.requests import RequestRecords
from controller.telemetry.service import TelemetryService
from controller.traffic.service import TrafficService
from controller.trust.broker_config import BrokerAccess
from controller.trust.tls import CertificateFiles, client_context
from shared.conversion_process import ConvertLimits, environments_folder
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from pathlib import Path

    from controller.blobs import Blobs
    from controller.config import ControllerConfig
    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DesiredFacts
    from controller.registry.ports import Worker
    from controller.trust.installation import Publisher, Trust
    from shared.clock import Clock
    from shared.ids import DeviceId, ReleaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What everything stands on; opened before and closed after all else."""

    config: ControllerConfig
    clock: Clock
    database: Database
    blobs: Blobs
    trust: Trust
    publisher: Publisher


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that the listeners and the background loops call."""

    registry: Registry
    conversions: Conversions
    measurements: Measurements
    releases: Releases
    fleet: FleetService
    rollouts: RolloutService
    traffic: TrafficService
    desired: DesiredService
    desired_publisher: DesiredPublisher
    pulse: PulseService
    telemetry: TelemetryService
    requests: RequestRecords
    broker: BrokerLink
    ingest: Ingest
    dispatch: Dispatch
    deltas: DeltaService


def wire(ground: Ground) -> Services:
    """Build every service and hand it what it needs. Opens no connection."""
    config, clock, database = ground.config, ground.clock, ground.database
    broker = BrokerLink(
        host=config.broker_host, port=config.broker_port, security=broker_security(config, ground.trust), clock=clock
    )
    installation_id, director = ground.trust.installation_id, ground.trust.director
    desired = DesiredService(
        database=database, sealer=director, identities=Identities(), installation_id=installation_id
    )
    pulse = PulseService(
        database=database,
        sealer=director,
        broker=broker,
        installation_id=installation_id,
        interval_s=config.pulse_interval_s,
    )
    use = ReleaseUse(desired)
    releases = Releases(database=database, blobs=ground.blobs, publisher=ground.publisher, use=use, clock=clock)
    rollouts = RolloutService(database=database, cohorts=Cohorts(), releases=releases, desires=desired, pulses=pulse)
    use.rollouts = rollouts
    fleet = FleetService(
        database=database,
        certificates=ground.trust.authority,
        mac_keys=ground.trust.report_keys,
        desires=FleetDesires(desired, rollouts),
        access=BrokerAccess(acl_file=_acl_file(config), reload_command=config.broker_reload_command),
        settings=_fleet_settings(config, ground.trust),
    )
    telemetry = TelemetryService(database=database)
    measurements = Measurements(
        database=database, devices=Cohorts(), desires=desired, publisher=ground.publisher, clock=clock
    )
    return Services(
        registry=Registry(database=database, blobs=ground.blobs, clock=clock),
        conversions=_conversions(ground),
        measurements=measurements,
        releases=releases,
        fleet=fleet,
        rollouts=rollouts,
        traffic=_traffic(ground, releases=releases, desired=desired, pulse=pulse),
        desired=desired,
        desired_publisher=DesiredPublisher(database=database, desired=desired, broker=broker),
        pulse=pulse,
        telemetry=telemetry,
        requests=RequestRecords(database=database),
        broker=broker,
        ingest=_ingest(ground, broker, reports=(rollouts, measurements), desired=desired, telemetry=telemetry),
        dispatch=Dispatch(database=database, rollouts=rollouts, clock=clock),
        deltas=_deltas(ground, rollouts=rollouts, desired=desired, releases=releases),
    )


def _traffic(ground: Ground, *, releases: Releases, desired: DesiredService, pulse: PulseService) -> TrafficService:
    return TrafficService(
        database=ground.database,
        devices=Cohorts(),
        releases=releases,
        desires=desired,
        pulses=pulse,
        clock=ground.clock,
    )


def _conversions(ground: Ground) -> Conversions:
    return Conversions(
        database=ground.database,
        blobs=ground.blobs,
        worker=_converter(ground),
        runtimes=FleetRuntimes(),
        clock=ground.clock,
    )


class ReleaseUse:
    """Asks rollouts and devices whether they still need a release; rollouts are made after releases."""

    def __init__(self, desired: DesiredService) -> None:
        self._desired = desired
        self.rollouts: RolloutService | None = None

    async def in_use(self, uow: UnitOfWork, release_id: ReleaseId) -> str:
        """Return by what a release is used, in words; empty when by nothing."""
        by_rollouts = "" if self.rollouts is None else await self.rollouts.in_use(uow, release_id)
        by_devices = await self._desired.in_use(uow, release_id)
        return ", ".join(user for user in (by_rollouts, by_devices) if user)


class FleetDesires:
    """Desired state as the fleet sees it; a device that goes is excused by its rollouts too."""

    def __init__(self, desired: DesiredService, rollouts: RolloutService) -> None:
        self._desired = desired
        self._rollouts = rollouts

    async def show(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DesiredFacts]:
        """Return what the devices should run."""
        return await self._desired.show(uow, ids)

    async def identity_changed(self, uow: UnitOfWork, device: DeviceId) -> None:
        """Seal for the key that speaks for the device now."""
        await self._desired.identity_changed(uow, device)

    async def clear(self, uow: UnitOfWork, device: DeviceId) -> None:
        """The device is gone."""
        await self._rollouts.device_removed(uow, device)
        await self._desired.clear(uow, device)


def _deltas(ground: Ground, *, rollouts: RolloutService, desired: DesiredService, releases: Releases) -> DeltaService:
    config = ground.config
    maker = ProgramMaker(
        command=config.delta_command,
        blobs=ground.blobs,
        scratch=config.state_dir / "delta-scratch",
        file_bytes=config.convert_file_bytes,
        wall_s=config.convert_wall_s,
    )
    return DeltaService(
        database=ground.database,
        rollouts=rollouts,
        desires=desired,
        releases=releases,
        publisher=ground.publisher,
        maker=maker,
        clock=ground.clock,
    )


def broker_security(config: ControllerConfig, trust: Trust) -> ssl.SSLContext | PasswordLogin:
    """Return how the controller proves itself to the broker.

    Raises:
        InvalidInputError: a file is missing or cannot be used.
    """
    try:
        if config.broker_password_file is not None:
            password = config.broker_password_file.read_text(encoding="utf-8").strip()
            return PasswordLogin(user=config.broker_user, password=password)
        own = trust.authority.controller_files()
        return client_context(
            CertificateFiles(
                certificate=config.broker_certificate or own.certificate,
                key=config.broker_key or own.key,
                ca=config.broker_ca or own.ca,
            )
        )
    except OSError as exc:
        # ssl.SSLError is an OSError too.
        raise InvalidInputError(field="broker_certificate, broker_key, broker_ca", problem=str(exc)) from exc


def _fleet_settings(config: ControllerConfig, trust: Trust) -> FleetSettings:
    broker = BrokerAddress(
        host=config.device_broker_host or config.broker_host,
        port=config.device_broker_port or config.broker_port,
        tls=config.broker_tls,
    )
    return FleetSettings(
        installation_id=trust.installation_id,
        controller_url=config.controller_url,
        broker=broker,
        tuf_root=trust.repository.bootstrap_root,
        invite_ttl_s=config.invite_ttl_s,
        silent_after_s=config.heartbeat_timeout_s,
    )


def _acl_file(config: ControllerConfig) -> Path | None:
    """Return the ACL that the controller writes: the one that is named, else that of a broker in the state folder."""
    beside = config.state_dir / "broker" / "acl"
    return config.broker_acl_file or (beside if beside.exists() else None)


def _converter(ground: Ground) -> Worker:
    config = ground.config
    limits = ConvertLimits(
        wall_s=config.convert_wall_s,
        cpu_s=config.convert_cpu_s,
        address_space_bytes=config.convert_memory_bytes,
        file_bytes=config.convert_file_bytes,
        threads=config.convert_threads,
    )
    if config.convert_cluster:
        return _remote_converter(ground, limits)
    folders = ConvertFolders(
        scratch=config.state_dir / "scratch",
        cache=config.state_dir / "conversion-cache",
        cache_bytes=config.convert_cache_bytes,
        environments=config.workers_dir or environments_folder(os.environ),
    )
    return Converter(
        command=config.convert_command, blobs=ground.blobs, folders=folders, limits=limits, clock=ground.clock
    )


def _remote_converter(ground: Ground, limits: ConvertLimits) -> Worker:
    config = ground.config
    certificates = config.cluster_certificates
    if certificates and certificates.ca.read_bytes().strip() == ground.trust.authority.ca_file.read_bytes().strip():
        raise InvalidInputError(
            field="convert_cluster_ca",
            problem="vouches for every device of this fleet, and whoever it vouches for may run code in the cluster",
            remedy="make an authority for the cluster alone (docs/converters.md)",
        )
    try:
        # Only who has a cluster pays for its libraries.
        from controller.remote_conversions import ClusterSettings, DaskConverter  # noqa: PLC0415 - see above
    except ModuleNotFoundError as exc:
        problem = f"{exc.name} is not installed"
        raise InvalidInputError(
            field="convert_cluster", problem=problem, remedy="pip install 'litefleet[controller,cluster]'"
        ) from exc
    settings = ClusterSettings(scheduler=config.convert_cluster, certificates=certificates)
    scratch = config.state_dir / "scratch"
    return DaskConverter(settings=settings, blobs=ground.blobs, scratch=scratch, limits=limits)


def _ingest(
    ground: Ground,
    broker: BrokerLink,
    *,
    reports: tuple[ReportSink, ...],
    desired: DesiredService,
    telemetry: TelemetryService,
) -> Ingest:
    uplinks = Uplinks()
    return Ingest(
        database=ground.database,
        source=broker,
        proof=ground.trust.report_keys,
        order=uplinks,
        sinks=Sinks(reports=(uplinks, *reports), heartbeats=(uplinks.seen, desired.observed), telemetry=telemetry),
        clock=ground.clock,
    )
