"""The settings of the control process's parts, as they follow from configuration and identity."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from agent.core.state import Identity as CoreIdentity
from agent.core.state import Settings
from agent.delivery.repository import RepositorySettings
from agent.link.hardware import this_hardware
from agent.link.identity import identity_files
from agent.link.mqtt import PlainLogin

if TYPE_CHECKING:
    import ssl

    from agent.config import AgentConfig
    from agent.link.https import DeviceApi
    from agent.link.identity import Identity


def repository_settings(settings: AgentConfig, identity: Identity, api: DeviceApi) -> RepositorySettings:
    """Return where the repository is and what it must descend from."""
    return RepositorySettings(
        base_url=api.repository_url,
        metadata_dir=str(settings.tuf_dir),
        root=identity.tuf_root,
        identity_dir=str(settings.identity_dir),
        min_rate_bytes_s=settings.min_rate_bytes_s,
    )


def broker_security(
    settings: AgentConfig, identity: Identity, tls: ssl.SSLContext
) -> ssl.SSLContext | PlainLogin | None:
    """Return TLS; or, for a broker on this very machine, the password that was laid beside the identity, if one was."""
    if identity.broker.tls:
        return tls
    password = identity_files(settings.state_dir).folder / "broker-password"
    try:
        return PlainLogin(password=password.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None


def core_settings(settings: AgentConfig, identity: Identity) -> Settings:
    """Return what the core needs to know of configuration, identity and machine."""
    return Settings(
        identity=CoreIdentity(
            installation_id=identity.installation_id,
            device_id=identity.device_id,
            key_fingerprint=identity.key_fingerprint,
        ),
        hardware=this_hardware(),
        agent_version=metadata.version("litefleet"),
        releases_dir=str(settings.releases_dir),
        pulse_max_age_s=settings.pulse_max_age_s,
        refresh_s=settings.refresh_s,
        stats_s=settings.stats_s,
        idle_stats_s=settings.heartbeat_s,
        boot_tries=settings.boot_tries,
        trial_memory_bytes=settings.trial_memory_bytes,
        trial_deadline_s=settings.trial_deadline_s,
    )
