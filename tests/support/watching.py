"""Releases that say how they are to be watched, and an engine that does it."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from agent.serving.engine import Engine
from agent.serving.exchange import Ask, Caller, CallProtocol
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.recording.observation import Observer
from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor
from shared import manifest
from shared.clock import SystemClock
from shared.ids import BootId
from shared.pipeline import MODEL_ONLY
from tests.support import models
from tests.support.serving import MODEL, make_slot

if TYPE_CHECKING:
    from agent.core.plan import SlotSpec
    from agent.serving.exchange import Reply
    from agent.serving.recording.request_log import RequestLog
    from agent.serving.requests import Request
    from shared.manifest import ReferenceHistogram
    from shared.pipeline import PipelineSpec
    from shared.request_log import LogConsent

BOOT = BootId("boot")


def watched_slot(
    releases: Path,
    *,
    model: bytes | None = None,
    references: tuple[ReferenceHistogram, ...] = (),
    consent: LogConsent | None = None,
    pipeline: PipelineSpec = MODEL_ONLY,
) -> SlotSpec:
    """Write a release of the one-hot classifier that declares this."""
    slot = make_slot(releases, model or models.one_hot_classifier(), pipeline=pipeline, version=4)
    path = Path(slot.folder) / "manifest.json"
    made = manifest.decode(path.read_bytes())
    artifacts = tuple(msgspec.structs.replace(each, references=references) for each in made.artifacts)
    data = manifest.encode(msgspec.structs.replace(made, artifacts=artifacts, log_consent=consent))
    path.write_bytes(data)
    return msgspec.structs.replace(slot, manifest_sha256=manifest.digest(data))


def watching_engine(log: RequestLog | None = None, *, seed: int = 1) -> Engine:
    """An engine that is watched."""
    observer = Observer(chance=random.Random(seed), clock=SystemClock(), log=log)
    return Engine(boot_id=BOOT, load=partial(load_slot, cores=1, open_interpreter=open_litert), observer=observer)


async def ask(engine: Engine, request: Request | list[float], *, headers: dict[str, str] | None = None) -> Reply:
    """Ask, and finish as a protocol does."""
    if isinstance(request, list):
        request = InferRequest(inputs=(NamedTensor(name="input", array=np.array([request], np.float32)),))
    assert isinstance(request, InferRequest | ClassifyRequest)
    caller = Caller(protocol=CallProtocol.OIP, application="shop", key="customer-7", headers=headers or {})
    sent = Ask(model=MODEL, version=None, request=request, received_s=time.monotonic(), caller=caller)
    reply = await engine.answer(sent)
    engine.finish(reply, ready_s=time.monotonic())
    return reply
