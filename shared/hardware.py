"""What a class of devices can run, and whether a device or an artifact fits it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.ids import HardwareProfileId


class Runtime(StrEnum):
    """Interpreters that a device may have."""

    AI_EDGE_LITERT = "ai-edge-litert"
    TFLITE_RUNTIME = "tflite-runtime"


class HardwareProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A class of devices, and the budgets that an artifact for it must keep."""

    profile_id: HardwareProfileId
    architectures: tuple[str, ...]
    """As `platform.machine()` says it: x86_64, aarch64, armv7l."""
    runtime: Runtime = Runtime.AI_EDGE_LITERT
    min_memory_bytes: int = 0
    """Devices with less memory do not belong to this class."""
    threads: int = 1
    max_latency_ms: float | None = None
    """Budget for one invocation at the 95th percentile; None = no budget."""
    max_size_bytes: int | None = None
    """Largest artifact that this class takes; None = no limit."""


GENERIC = HardwareProfile(
    profile_id=HardwareProfileId("generic"), architectures=("x86_64", "aarch64", "armv7l", "arm64"), threads=1
)
"""The class that every LiteRT device belongs to; used where a release names no other."""


class DeviceHardware(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of itself when it enrols and in its reports."""

    architecture: str
    memory_bytes: int
    cores: int
    runtime: Runtime
    runtime_version: str
    system: str = ""
    """Free text for people, e.g. `Debian GNU/Linux 12`; decides nothing."""


def misfit(profile: HardwareProfile, device: DeviceHardware) -> str | None:
    """Return why `device` is not of this class, or None when it is."""
    # The most telling first: a device of another make has too little memory, too, and that helps nobody.
    if device.architecture not in profile.architectures:
        return f"architecture {device.architecture} is not one of {', '.join(profile.architectures)}"
    if device.runtime is not profile.runtime:
        return f"runtime {device.runtime} is not {profile.runtime}"
    if device.memory_bytes < profile.min_memory_bytes:
        return f"memory {device.memory_bytes} bytes is less than {profile.min_memory_bytes}"
    return None
