"""`/v2/models/{model}/drift`: whether what a model is asked is still like what it was judged on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from agent.serving.protocols.api import json_answer
from agent.serving.recording.drift import FigureDrift
from shared.ids import ModelName
from shared.traffic import split_line

if TYPE_CHECKING:
    from agent.serving.engine import Engine
    from agent.serving.models.resident import Resident


class VersionDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Of one version that answers."""

    version: str
    variant: str
    release_id: str
    watched: tuple[str, ...]
    """Figures that the release has references of; none of one that was made without, or is served unverified."""
    items: int
    """Requests that this serving process has looked at."""
    drifted: bool
    """Whether the last look at any figure found drift."""
    figures: tuple[FigureDrift, ...]
    """Those that were looked at."""


class ModelDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model."""

    name: str
    versions: tuple[VersionDrift, ...]


def routes(engine: Engine) -> list[web.RouteDef]:
    """Return the endpoints."""

    async def drift(request: web.Request) -> web.Response:
        route = engine.route(ModelName(request.match_info["model"]))
        version = request.match_info.get("version")
        asked = (route.pick(version),) if version is not None else route.answering()
        return json_answer(ModelDrift(name=route.model, versions=tuple(_of(engine, each) for each in asked)))

    models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [web.get(f"{model}/drift", drift) for model in models]


def _of(engine: Engine, resident: Resident) -> VersionDrift:
    slot = resident.slot
    watch = engine.observer.watches.get(slot.release_id) if engine.observer is not None else None
    found = watch.monitor.found if watch is not None else ()
    return VersionDrift(
        version=str(slot.version_number),
        variant=split_line(slot.model)[1],
        release_id=slot.release_id,
        watched=tuple(sorted(watch.monitor.figures)) if watch is not None else (),
        items=watch.monitor.items if watch is not None else 0,
        drifted=any(each.drifted for each in found),
        figures=found,
    )
