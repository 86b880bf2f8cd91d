"""What the API shows of variants, rules, probes and request logs, as its callers read it."""

from __future__ import annotations

import msgspec


class TimingView(msgspec.Struct, frozen=True):
    """One invocation with so many threads."""

    threads: int = 1
    p50_ms: float = 0.0


class ProbeView(msgspec.Struct, frozen=True):
    """What a loaded model costs on its device."""

    mode: str = ""
    workers: int = 0
    threads: int = 0
    batches: list[int] = []
    by_threads: list[TimingView] = []
    interpreter_bytes: int = 0


class ArmView(msgspec.Struct, frozen=True):
    """One variant's share."""

    variant: str
    weight: int


class RuleView(msgspec.Struct, frozen=True):
    """How one model's requests are divided."""

    model: str
    arms: list[ArmView]
    mode: str = "weighted"
    sticky_by: str = "nothing"
    header: str = ""
    pins: dict[str, str] = {}
    shadow: str = ""


class VariantView(msgspec.Struct, frozen=True):
    """One release of a model on a device, and what brought it."""

    variant: str
    release_id: str
    change_id: str = ""


class LogView(msgspec.Struct, frozen=True):
    """What of a model's requests is written down."""

    sample_rate: float
    upstream: bool = False


class TrafficView(msgspec.Struct, frozen=True):
    """One model on a device."""

    model: str
    variants: list[VariantView] = []
    rule: RuleView | None = None
    request_log: LogView | None = None


class DeviceTrafficView(msgspec.Struct, frozen=True):
    """All models of a device."""

    device_id: str
    items: list[TrafficView]


class RefusalView(msgspec.Struct, frozen=True):
    """A device that cannot do it, and why."""

    device_id: str
    reason: str


class ChangeView(msgspec.Struct, frozen=True):
    """What a change of traffic or of request logs came to, or would."""

    change_id: str
    dry_run: bool
    devices: int
    changed: int
    unchanged: int
    refused: int
    refusals: list[RefusalView] = []
    without_consent: int = 0
    """On how many a request log will stay empty."""
