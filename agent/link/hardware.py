"""What this machine is, without asking anything heavier than the operating system."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from shared.errors import NotFoundError
from shared.hardware import DeviceHardware, Runtime


def this_hardware() -> DeviceHardware:
    """Describe the machine that this process runs on. Raises NotFoundError when no TFLite runtime is installed."""
    runtime, version = _runtime()
    return DeviceHardware(
        architecture=platform.machine(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cores=os.cpu_count() or 1,
        runtime=runtime,
        runtime_version=version,
        system=_system(),
    )


def _runtime() -> tuple[Runtime, str]:
    """Read the installed runtime's version from its package, so that the control process never loads numpy for it."""
    for runtime in Runtime:
        try:
            return runtime, metadata.version(runtime.value)
        except metadata.PackageNotFoundError:
            continue
    raise NotFoundError(kind="TFLite runtime (pip install 'litefleet[agent]')", name=Runtime.AI_EDGE_LITERT)


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()
