"""A registry on both databases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest_asyncio

from controller.blobs import Blobs
from controller.convert import Converter, ConvertFolders
from controller.http.blob_routes import endpoints as blob_endpoints
from controller.registry.conversions import Conversions
from controller.registry.measurements import Measurements
from controller.registry.releases import Releases
from controller.registry.routes import RegistryRoutes
from controller.registry.routes import endpoints as registry_endpoints
from controller.registry.service import Registry
from shared.clock import SystemClock
from tests.support import fake_converter
from tests.support.api import served_api
from tests.support.registry_world import LIMITS, ListedRuntimes, ListedUse, NoDevices, RecordingPublisher, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from controller.db.engine import Database


@pytest_asyncio.fixture
async def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[4]))
    clock = SystemClock()
    blobs = Blobs(tmp_path / "blobs", max_blob_bytes=10_000_000)
    command = (sys.executable, fake_converter.__file__)
    folders = ConvertFolders(
        scratch=tmp_path / "scratch", cache=tmp_path / "cache", cache_bytes=10_000, environments=tmp_path / "workers"
    )
    converter = Converter(command=command, blobs=blobs, folders=folders, limits=LIMITS, clock=clock)
    fleet = ListedRuntimes()
    publisher, use = RecordingPublisher(), ListedUse()
    conversions = Conversions(database=database, blobs=blobs, worker=converter, runtimes=fleet, clock=clock)
    releases = Releases(database=database, blobs=blobs, publisher=publisher, use=use, clock=clock)
    registry = Registry(database=database, blobs=blobs, clock=clock)
    nobody = NoDevices()
    measurements = Measurements(database=database, devices=nobody, desires=nobody, publisher=publisher, clock=clock)
    routes = RegistryRoutes(
        registry=registry, conversions=conversions, measurements=measurements, releases=releases, blobs=blobs
    )
    async with served_api([*blob_endpoints(blobs), *registry_endpoints(routes)]) as api:
        yield World(
            database=database,
            blobs=blobs,
            publisher=publisher,
            use=use,
            fleet=fleet,
            conversions=conversions,
            releases=releases,
            api=api,
        )
    blobs.close()
