"""The controller's settings: a TOML file, then `LITEFLEET_CONTROLLER_*`; read once, then passed as a value."""

from __future__ import annotations

import difflib
import ipaddress
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from shared.cluster_address import checked_address
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.cluster_address import ClusterCertificates

ENV_PREFIX = "LITEFLEET_CONTROLLER_"

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Bytes = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65_535)]
_GIB = 1024**3


class ControllerConfig(BaseSettings):
    """What an operator may set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    state_dir: Path
    """Folder of all that the controller keeps. No default: a guess would scatter keys and releases."""

    database_url: str = ""
    """`postgresql+asyncpg://user:password@host/name`; empty: SQLite in `state_dir`."""

    api_host: str = "127.0.0.1"
    """Address of the REST API. Elsewhere than on loopback it needs TLS, since it takes a token."""

    api_port: Port = 8470
    """TCP port of the REST API."""

    api_tls_certificate: Path | None = None
    """PEM certificate chain of the REST API."""

    api_tls_key: Path | None = None
    """PEM key of that certificate."""

    device_host: str = "0.0.0.0"  # noqa: S104 - devices come from elsewhere; this listener speaks mutual TLS only
    """Address of the listener for devices."""

    device_port: Port = 8471
    """TCP port of the listener for devices."""

    device_names: tuple[str, ...] = ("localhost", "127.0.0.1")
    """Names and addresses by which devices call this controller, all in its certificate, the first in invites."""

    broker_host: str = "127.0.0.1"
    """Where the MQTT broker is, for the controller."""

    broker_port: Port = 8883
    """TCP port of the broker, for the controller."""

    broker_certificate: Path | None = None
    """Client certificate for the broker; none: one of this installation's own authority."""

    broker_key: Path | None = None
    """Key of that certificate."""

    broker_ca: Path | None = None
    """Who vouches for the broker; none: this installation's own authority."""

    broker_user: str = ""
    """Set: plain MQTT with a password, on loopback only. Devices use TLS all the same unless they are there too."""

    broker_password_file: Path | None = None
    """File with the password of `broker_user`, readable by its owner only."""

    broker_acl_file: Path | None = None
    """ACL file of a mosquitto on this machine, kept in step with the fleet; none: nobody tells it of removals."""

    broker_reload_command: tuple[str, ...] = ()
    """What makes that broker read its ACL again, e.g. `["systemctl", "reload", "mosquitto"]`."""

    broker_application_port: Port | None = None
    """TCP port on which `litefleet broker config` lets applications in, over TLS with login and key; none: nowhere."""

    device_broker_host: str = ""
    """Where devices find the broker; empty: as the controller does."""

    device_broker_port: Port | None = None
    """TCP port of the broker for devices; none: as for the controller."""

    convert_command: tuple[str, ...] = (sys.executable, "-m", "converters")
    """The conversion program; another environment's Python where the training framework lives elsewhere."""

    convert_parallel: Annotated[int, Field(ge=1, le=64)] = max(1, (os.cpu_count() or 1) // 2)
    """Conversions at once; with their threads, more than there are cores only makes each slower."""

    convert_cluster: str = ""
    """Scheduler of the machines that convert, `tls://host:8786`; `convert_parallel` says how many conversions are
    placed at once. Empty: this machine converts."""

    convert_cluster_ca: Path | None = None
    """Who vouches for all parts of that cluster, and for nobody else: whoever it vouches for may run code on each."""

    convert_cluster_certificate: Path | None = None
    """This controller's certificate in that cluster."""

    convert_cluster_key: Path | None = None
    """Key of that certificate."""

    convert_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads of one conversion."""

    convert_wall_s: Seconds = 1800.0
    """Longest time for one conversion in seconds."""

    convert_cpu_s: Annotated[int, Field(ge=1)] = 3600
    """Longest processor time for one conversion, over all its threads, in seconds."""

    convert_memory_bytes: Bytes = 16 * _GIB
    """Address space of one conversion, and memory that its front end may use, which is never more than 8 GiB."""

    convert_file_bytes: Bytes = 4 * _GIB
    """Largest file that one conversion may write."""

    delta_command: tuple[str, ...] = (sys.executable, "-m", "converters.delta")
    """The program that makes deltas between artifacts; empty: devices fetch every artifact whole."""

    convert_cache_bytes: Annotated[int, Field(ge=0)] = 4 * _GIB
    """What conversions may keep to go on with, or to do again in no time; 0 keeps nothing."""

    workers_dir: Path | None = None
    """Where the front ends are installed; none: where `litefleet converters install` puts them for this user."""

    max_upload_bytes: Bytes = 4 * _GIB
    """Largest uploaded file."""

    tick_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """Seconds between looks at soak times and deadlines."""

    pulse_interval_s: Seconds = 300.0
    """Seconds between Pulses when nothing changes; devices call one stale after three of them."""

    heartbeat_timeout_s: Seconds = 120.0
    """Seconds without a heartbeat after which a device is called silent: three lost ones of 30 s, and some."""

    invite_ttl_s: Seconds = 900.0
    """Seconds for which an invite may be used."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written."""

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite+aiosqlite:///{self.state_dir / 'litefleet.db'}"

    @property
    def broker_tls(self) -> bool:
        """Whether the broker is spoken to under mutual TLS."""
        return not self.broker_user

    @property
    def cluster_certificates(self) -> ClusterCertificates | None:
        """What proves that this controller is of the cluster; none without a cluster, or on loopback without TLS.

        Raises:
            InvalidInputError: the address or a file cannot be used.
        """
        if not self.convert_cluster:
            return None
        files = {
            "convert_cluster_ca": self.convert_cluster_ca,
            "convert_cluster_certificate": self.convert_cluster_certificate,
            "convert_cluster_key": self.convert_cluster_key,
        }
        return checked_address(self.convert_cluster, field="convert_cluster", files=files)

    @property
    def broker_names(self) -> tuple[str, ...]:
        """Names and addresses by which anybody calls the broker."""
        return tuple(dict.fromkeys(name for name in (self.broker_host, self.device_broker_host) if name))

    @property
    def controller_url(self) -> str:
        """The device listener, as devices call it."""
        return f"https://{_in_url(self.device_names[0])}:{self.device_port}"

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, and nothing else speak."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.api_tls_certificate is None) != (self.api_tls_key is None):
            raise ValueError("api_tls_certificate and api_tls_key: set both or none")
        if self.api_tls_certificate is None and not is_loopback(self.api_host):
            raise ValueError(
                f"api_host {self.api_host} is not loopback: set api_tls_certificate and api_tls_key, or use 127.0.0.1"
            )
        if not self.device_names:
            raise ValueError("device_names: name at least one host name or address by which devices call")
        if (self.broker_certificate is None) != (self.broker_key is None):
            raise ValueError("broker_certificate and broker_key: set both or none")
        if bool(self.broker_user) != (self.broker_password_file is not None):
            raise ValueError("broker_user and broker_password_file: set both or none")
        if self.broker_user and not is_loopback(self.broker_host):
            raise ValueError(
                f"broker_host {self.broker_host} is not loopback, so a password would travel in the clear: use TLS"
            )
        try:
            _ = self.cluster_certificates
        except InvalidInputError as exc:
            raise ValueError(str(exc)) from exc
        return self


def load(path: Path, environment: Mapping[str, str]) -> ControllerConfig:
    """Read the settings.

    Raises:
        InvalidInputError: names the setting and what would mend it.
    """
    _refuse_misspelt(environment)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidInputError(field=str(path), problem=str(exc), remedy="write a TOML file") from exc
    try:
        return ControllerConfig(**values)
    except ValidationError as exc:
        problems = "; ".join(_problem(dict(item)) for item in exc.errors(include_input=False, include_url=False))
        raise InvalidInputError(field=str(path), problem=problems) from exc


def is_loopback(host: str) -> bool:
    """Whether only this machine can be at the other end."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_misspelt(environment: Mapping[str, str]) -> None:
    known = [ENV_PREFIX + name.upper() for name in ControllerConfig.model_fields]
    for name in environment:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            raise InvalidInputError(
                field=name, problem="no such setting", remedy=f"did you mean {close[0]}?" if close else "unset it"
            )


def _problem(item: dict[str, object]) -> str:
    location = item["loc"]
    where = ".".join(str(part) for part in location) if isinstance(location, tuple) else ""
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(where, list(ControllerConfig.model_fields), n=1)
        return f"{where}: no such setting" + (f" (did you mean {close[0]}?)" if close else "")
    said = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
