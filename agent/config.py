"""The agent's settings: TOML file, then `LITEFLEET_AGENT_*` environment; read once at start, then passed as a value."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from agent.doors import INFER_SOCKET, check_opening
from agent.serving.callers.cors import check_origins
from agent.serving.planned.sockets import numbered
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV_PREFIX = "LITEFLEET_AGENT_"

_LISTS = frozenset({"cors_origins"})
"""Settings of several values; in an environment variable commas part them."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Bytes = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may set on one device. Who the device is stands in `identity/`, written when it enrolled."""

    state_dir: Path
    """Folder of all that the agent keeps. No default: a guess would scatter identity, journal and releases."""

    http_host: str = "127.0.0.1"
    """Address on which inference is served. Loopback by default, where no key is asked for. Any other address takes
    `tls_certificate` and `tls_key`, and then every request an application's key."""

    http_port: Port = 8080
    """TCP port of the inference API; 0 takes a free one."""

    tls_certificate: Path | None = None
    """PEM file of the inference API's certificate and its chain, for an `http_host` that other machines reach. Read
    again when it changes, without dropping a connection."""

    tls_key: Path | None = None
    """PEM file of the certificate's key, without a passphrase."""

    infer_socket: Path | None = None
    """Unix socket of the inference API, 0660. None: `run/infer.sock` in `state_dir`, which its owner alone reaches."""

    infer_socket_group: str = ""
    """Group whose members may call by the unix socket; empty: the agent's own."""

    applications_path: Path | None = None
    """File of the applications that may call, kept by `litefleet-agent application`. None: `applications.json` in
    `state_dir`. Read again when it changes."""

    cors_origins: tuple[str, ...] = ()
    """Origins (`https://shop.example`) whose pages may call from a browser; `*` alone: any. Commas part them in the
    environment."""

    grpc_port: Port | None = None
    """TCP port of the Open Inference Protocol over gRPC, at the same address; 0 takes a free one. None: gRPC is not
    loaded, since it takes 18 MiB and three times the CPU of HTTP with binary tensors. Needs the extra `grpc`."""

    serving_processes: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """Processes that answer, all by the same plan; the kernel deals callers out among them. One is enough until its
    event loop is busy all the time: each takes its own 40 MiB and its own copy of every model."""

    model_memory_bytes: Bytes | None = None
    """Memory in bytes that loaded models may take, over all serving processes. Beyond it, those that were not asked
    for longest are unloaded until somebody asks. None: half of the machine's memory, or of the control group's."""

    idle_unload_s: Seconds | None = None
    """Seconds without a request after which a model is unloaded; the next request loads it again, and waits for that.
    None: never."""

    request_log_bytes: Bytes = 64 * 1024 * 1024
    """Disk in bytes for requests that Desired asks to write down; beyond it the oldest give way. Some hundred thousand
    requests without their values, and less than one large model."""

    pulse_max_age_s: Seconds = 900.0
    """Seconds after which the newest Pulse is too old to activate under. Three of the controller's intervals."""

    heartbeat_s: Seconds = 30.0
    """Seconds between heartbeats, ±20 % so that a fleet does not beat in step."""

    tick_s: Seconds = 1.0
    """Seconds between looks at timers: deadlines, retries, staleness."""

    stats_s: Seconds = 1.0
    """Seconds between readings of the serving process while a candidate is watched: how soon a bad one is reverted."""

    telemetry_window_s: Seconds = 60.0
    """Length of a telemetry window in seconds."""

    refresh_s: Seconds = 3600.0
    """Seconds between asking for Desired and Pulse over HTTPS, ±20 %: heals whatever the broker lost."""

    max_download_bytes: Bytes = 512 * 1024 * 1024
    """Largest single download in bytes; no model for a small device is near it, and a disk is not filled by mistake."""

    min_rate_bytes_s: Bytes = 1024
    """Download rate in bytes per second below which a server counts as stuck."""

    trial_memory_bytes: Bytes = 2 * 1024 * 1024 * 1024
    """Address space in bytes of the trial child; the interpreter's libraries alone map several hundred MiB."""

    trial_deadline_s: Seconds = 60.0
    """Seconds after which a trial counts as failed."""

    boot_tries: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    """How often serving, or an interrupted attempt, may start over with a candidate before the device gives it up."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written."""

    @property
    def is_wide(self) -> bool:
        """Whether other machines may call, by TLS and with an application's key."""
        return self.tls_certificate is not None

    @property
    def grants_path(self) -> Path:
        """The file of applications."""
        return self.applications_path or self.state_dir / "applications.json"

    @property
    def infer_path(self) -> Path:
        """The unix socket of the inference API."""
        return self.infer_socket or self.run_dir / INFER_SOCKET

    @property
    def identity_dir(self) -> Path:
        """Key, certificate, CA and identity.json."""
        return self.state_dir / "identity"

    @property
    def tuf_dir(self) -> Path:
        """Verified repository metadata."""
        return self.state_dir / "tuf"

    @property
    def releases_dir(self) -> Path:
        """One folder a release: manifest.json and model.tflite."""
        return self.state_dir / "releases"

    @property
    def journal_path(self) -> Path:
        """The durable state."""
        return self.state_dir / "journal.db"

    @property
    def boot_path(self) -> Path:
        """The plan from which serving starts without control."""
        return self.state_dir / "boot.json"

    @property
    def rewards_path(self) -> Path:
        """What serving has learned of rewards, shared by all of its processes."""
        return self.state_dir / "rewards.bin"

    @property
    def request_log_dir(self) -> Path:
        """Requests that were written down."""
        return self.state_dir / "request-log"

    @property
    def run_dir(self) -> Path:
        """Unix sockets, 0700."""
        return self.state_dir / "run"

    @property
    def serving_socket(self) -> Path:
        """Where control reaches serving; the first of its processes."""
        return self.serving_sockets[0]

    @property
    def serving_sockets(self) -> tuple[Path, ...]:
        """Where control reaches each serving process."""
        return tuple(self.run_dir / f"{numbered('serving', number)}.sock" for number in range(self.serving_processes))


def load(path: Path | None, environ: Mapping[str, str]) -> AgentConfig:
    """Read the file, lay the environment over it, and check the whole.

    Raises:
        InvalidInputError: names the key or variable, and what would mend it.
    """
    settings: dict[str, object] = {} if path is None else _from_file(path)
    settings.update(_from_environment(environ))
    try:
        # strict=False: environment variables are text, and "8080" must count as a port.
        config = msgspec.convert(settings, AgentConfig, strict=False, dec_hook=_as_path)
    except msgspec.ValidationError as exc:
        raise InvalidInputError(field="agent configuration", problem=str(exc), remedy=_known_keys()) from exc
    _check_opening(config)
    if config.serving_processes > 1 and config.grpc_port == 0:
        problem = "each of several serving processes would take another free port"
        raise InvalidInputError(field="grpc_port", problem=problem, remedy="set a port, or serving_processes = 1")
    return config


def _check_opening(config: AgentConfig) -> None:
    has_certificate, has_key = config.tls_certificate is not None, config.tls_key is not None
    try:
        check_opening(config.http_host, has_certificate=has_certificate, has_key=has_key)
    except ValueError as exc:
        raise InvalidInputError(field="http_host", problem=str(exc)) from exc
    check_origins(config.cors_origins, field="cors_origins")


def _from_file(path: Path) -> dict[str, object]:
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise InvalidInputError(field=str(path), problem=f"cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidInputError(field=str(path), problem=f"is not TOML: {exc}") from exc


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        if key not in AgentConfig.__struct_fields__ or name != name.upper():
            raise InvalidInputError(field=name, problem="is no setting of the agent", remedy=_known_keys())
        found[key] = value.split(",") if key in _LISTS else value
    return found


def _as_path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str) or not value:
        raise TypeError(f"expected a path, got {value!r}")
    return Path(value).absolute()


def _known_keys() -> str:
    return "known keys: " + ", ".join(AgentConfig.__struct_fields__)
