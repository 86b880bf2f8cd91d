"""What a loaded model costs on the device that it was loaded on."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ExecutionMode(StrEnum):
    """Where a model's invocations run."""

    INLINE = "inline"
    """On the event loop: they take no longer than handing them to a thread would."""
    WORKERS = "workers"
    """In threads with an interpreter each."""


class ThreadTiming(msgspec.Struct, frozen=True, kw_only=True):
    """One invocation with so many threads, at the model's own batch."""

    threads: int
    p50_ms: float


class BatchTiming(msgspec.Struct, frozen=True, kw_only=True):
    """One invocation of a batch."""

    batch: int
    p50_ms: float
    """Of the whole batch."""


class ModelProbe(msgspec.Struct, frozen=True, kw_only=True):
    """Measured in about 100 ms when the model was loaded; what chose the mode below."""

    mode: ExecutionMode
    workers: int
    threads: int
    """Of each worker's interpreter."""
    batches: tuple[int, ...] = ()
    """Sizes that requests which wait together are joined to; none where a batch gains too little."""
    by_threads: tuple[ThreadTiming, ...] = ()
    by_batch: tuple[BatchTiming, ...] = ()
    interpreter_bytes: int = 0
    """Memory that one more interpreter takes."""
