"""The whole controller as a process: it starts on nothing, outlives what it needs, and goes on where it was."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from openapi_spec_validator import validate
from yarl import URL

from controller.client import ApiError, Client
from controller.views import ConversionView, ReleaseView, VersionView
from shared.dataset import Split
from shared.errors import LitefleetError
from tests.support import fake_converter
from tests.support.controller_process import ControllerProcess
from tests.support.datasets import opaque, written
from tests.support.fleet_broker import FleetBroker
from tests.support.ports import LOOPBACK
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Iterator

FAKE = [sys.executable, fake_converter.__file__]
MAKE_MODEL = """
import os, sys
os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
import keras, numpy
keras.utils.set_random_seed(1)
folder = sys.argv[1]
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
model.save(f"{folder}/model.keras")
items = numpy.random.default_rng(1).normal(size=(400, 8)).astype("float32")
labels = model.predict(items, verbose=0).argmax(axis=1)
for split, part in {"calibration": slice(0, 100), "search": slice(100, 200), "gate": slice(200, 400)}.items():
    numpy.savez(f"{folder}/{split}.npz", x=items[part], y=labels[part])
"""


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[ControllerProcess]:
    with ControllerProcess(tmp_path, convert_command=FAKE) as running:
        yield running


async def _get(controller: ControllerProcess, path: str) -> dict[str, object]:
    url = f"http://{LOOPBACK}:{controller.api_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        assert reply.status == 200
        answer: dict[str, object] = await reply.json()
        return answer


async def _version(api: Client, folder: Path, content: bytes) -> VersionView:
    path = folder / "m.keras"
    path.write_bytes(content)
    body = {"sha256": await api.upload(path), "filename": "m.keras", "source_format": "keras"}
    return await api.post("/models/digits/versions", body, VersionView)


async def _order(api: Client, folder: Path, behaviour: str, **more: object) -> ConversionView:
    version = await _version(api, folder, behaviour.encode())
    data = await api.push_dataset(written(folder / "data", opaque()))
    order = {
        "model": "digits",
        "version_number": version.number,
        "dataset_sha256": data.sha256,
        "pipeline": {"steps": [{"type": "run_model"}]},
        **more,
    }
    return await api.post("/conversions", order, ConversionView)


async def _ended(api: Client, conversion_id: str, *, within_s: float = 20) -> ConversionView:
    async def ended() -> ConversionView | None:
        try:
            shown = await api.conversion(conversion_id)
        except LitefleetError:
            return None
        return shown if shown.state in {"succeeded", "failed"} else None

    return await wait_until_async(ended, within_s=within_s)


async def test_controller_on_an_empty_folder_makes_its_keys_and_serves(controller: ControllerProcess) -> None:
    assert (await _get(controller, "/healthz"))["database"] is True
    async with controller.client() as api:
        status = await api.status()
    assert (status.lab_mode, status.devices, status.broker_connected) == (True, 0, False)
    for secret in ("operator-token", "authority/ca.key"):
        assert (controller.state_dir / secret).stat().st_mode & 0o077 == 0
    assert (controller.state_dir / "operator-token").read_text().strip() not in controller.log


async def test_every_operation_refuses_callers_without_the_token(controller: ControllerProcess) -> None:
    described = await _get(controller, "/openapi.json")
    public = {"/healthz", "/openapi.json"}
    async with aiohttp.ClientSession(f"http://{LOOPBACK}:{controller.api_port}") as session:
        for path, method in _operations(described):
            for credentials in ("", "Bearer wrong", "Basic b3A6b3A="):
                headers = {"Authorization": credentials}
                async with session.request(method, re.sub(r"{\w+}", "x", path), headers=headers) as reply:
                    assert reply.status == (200 if path in public else 401), f"{method} {path}"


async def test_no_operation_breaks_on_what_a_caller_may_send(controller: ControllerProcess) -> None:
    described = await _get(controller, "/openapi.json")
    token = (controller.state_dir / "operator-token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    odd = ("%00", "..%2f..%2fetc%2fpasswd", "9" * 2000, "%F0%9F%92%A3", "-1")
    bodies = (b"", b"[]", b"{", b'{"soak_s": 1e999}', b"[" * 5000)
    async with aiohttp.ClientSession(f"http://{LOOPBACK}:{controller.api_port}") as session:
        for path, method in _operations(described):
            for name in odd:
                for query in ("", f"?after={name}", f"?limit={name}"):
                    target = URL(re.sub(r"{\w+}", name, path) + query, encoded=True)
                    async with session.request(method, target, headers=headers) as reply:
                        assert reply.status < 500, f"{method} {str(target)[:200]}"
            for body in bodies:
                async with session.request(method, re.sub(r"{\w+}", "x", path), headers=headers, data=body) as reply:
                    assert reply.status < 500, f"{method} {path} {body[:20]!r}"


def _operations(described: dict[str, object]) -> list[tuple[str, str]]:
    paths = described["paths"]
    assert isinstance(paths, dict)
    found = [(str(path), str(method).upper()) for path, item in paths.items() for method in item]
    assert len(found) > 20
    return found


async def test_controller_describes_its_whole_api(controller: ControllerProcess) -> None:
    described = await _get(controller, "/openapi.json")
    validate(described)
    paths = described["paths"]
    assert isinstance(paths, dict)
    expected = {"/healthz", "/openapi.json"} | {
        f"/api/v1/{path}"
        for path in (
            "uploads",
            "blobs/{sha256}",
            "models",
            "models/{model}/versions",
            "datasets",
            "conversions",
            "releases",
            "devices",
            "devices/{device}",
            "rollouts",
            "rollouts/plan",
            "status",
        )
    }
    assert expected <= {path.replace("{device_id}", "{device}") for path in paths}


async def test_controller_is_small_and_holds_no_framework(controller: ControllerProcess) -> None:
    # The first start of an installation migrates too, and holds what that needs.
    assert controller.resident_bytes < 120 * 1024 * 1024
    controller.kill()
    controller.start()
    await _get(controller, "/healthz")
    assert controller.resident_bytes < 112 * 1024 * 1024
    mapped = controller.mapped_files
    assert [name for name in ("numpy", "tensorflow", "litert", "PIL", "tornado") if f"/{name}" in mapped] == []


def test_controller_imports_no_framework() -> None:
    program = "import sys, controller.app, controller.__main__; print(*{m.split('.')[0] for m in sys.modules})"
    seen = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    frameworks = {"numpy", "tensorflow", "keras", "ai_edge_litert", "PIL", "torch", "jax", "onnx", "sklearn", "skops"}
    assert frameworks & set(seen) == set()


def test_controller_ends_well_on_sigterm(controller: ControllerProcess) -> None:
    assert controller.stop() == 0
    assert "controller_stopped" in controller.log
    assert "Traceback" not in controller.log


def test_recovery_from_a_backup_begins_a_new_epoch_while_no_controller_runs(controller: ControllerProcess) -> None:
    beside = controller.run("--recovered-from-backup")
    assert (beside.returncode, "that is running" in beside.stderr) == (1, True)
    controller.stop()
    recovered = controller.run("--recovered-from-backup")
    assert recovered.returncode == 0
    assert recovered.stdout.startswith("epoch 2 begins")
    controller.start()


async def test_controller_killed_goes_on_where_it_was(controller: ControllerProcess, tmp_path: Path) -> None:
    async with controller.client() as api:
        before = await api.status()
        running = await _order(api, tmp_path, "hang")
        queued = await _order(api, tmp_path, "good")
        await wait_until_async(lambda: list(controller.state_dir.rglob("hung.pid")), within_s=10)
    controller.kill()
    # What hung would hang again: this time its program does as it should.
    for blob in controller.state_dir.rglob("hung.pid"):
        blob.unlink()
    controller.start()
    async with controller.client() as api:
        assert (await api.status()).installation_id == before.installation_id
        assert (await api.conversion(running.conversion_id)).state in {"queued", "running"}
        assert (await api.conversion(queued.conversion_id)).state == "queued"
        await wait_until_async(lambda: list(controller.state_dir.rglob("hung.pid")), within_s=10)


async def test_controller_killed_in_a_conversion_leaves_no_process_behind(
    controller: ControllerProcess, tmp_path: Path
) -> None:
    async with controller.client() as api:
        await _order(api, tmp_path, "hang")

    def pids() -> list[str]:
        return [pid for path in controller.state_dir.rglob("hung.pid") for pid in path.read_text().split()]

    worker, _child = await wait_until_async(pids, within_s=10)
    controller.kill()
    await wait_until_async(lambda: not _runs(worker), within_s=2, what="the conversion program ended")


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_controller_second_on_the_same_folder_is_refused(controller: ControllerProcess, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = ControllerProcess(tmp_path / "second", state_dir=str(controller.state_dir))
    assert second.launch().wait(20) == 1
    assert "belongs to a controller that is running" in second.log
    await _get(controller, "/healthz")


@pytest.mark.parametrize("setting", ["api_port", "device_port"])
async def test_controller_port_in_use_is_named_and_ends_it(
    controller: ControllerProcess, tmp_path: Path, setting: str
) -> None:
    (tmp_path / "second").mkdir()
    second = ControllerProcess(tmp_path / "second", **{setting: controller.api_port})
    assert second.launch().wait(20) == 1
    assert f"{setting}: {LOOPBACK}:{controller.api_port} is in use by another program" in second.log
    assert "Traceback" not in second.log


async def test_controller_meets_the_broker_by_certificate_and_outlives_it(tmp_path: Path) -> None:
    with FleetBroker() as broker, ControllerProcess(tmp_path, **_broker_settings(broker)) as controller:

        async def connected() -> bool:
            return (await _get(controller, "/healthz"))["broker"] is True

        async def away() -> bool:
            return not await connected()

        await wait_until_async(connected, within_s=10)
        broker.kill()
        await wait_until_async(away, within_s=10)
        async with controller.client() as api:
            await api.models()
        broker.start()
        await wait_until_async(connected, within_s=20)


def _broker_settings(broker: FleetBroker) -> dict[str, str | float | list[str]]:
    files = broker.authority.controller_files()
    return {
        "broker_port": broker.port,
        "broker_certificate": str(files.certificate),
        "broker_key": str(files.key),
        "broker_ca": str(files.ca),
    }


async def test_controller_outlives_its_database(tmp_path: Path) -> None:
    with Postgres() as server:
        url = server.create_database()
        with ControllerProcess(tmp_path, database_url=url, convert_command=FAKE) as controller:
            async with controller.client() as api:
                running = await _order(api, tmp_path, "good")
                await _ended(api, running.conversion_id)
                server.stop()
                with pytest.raises(ApiError) as refused:
                    await api.models()
                assert (refused.value.http_status, refused.value.reason) == (503, "unreachable")
                assert (await _get(controller, "/healthz"))["database"] is False
                server.start()

                async def answers() -> bool:
                    return (await _get(controller, "/healthz"))["database"] is True

                await wait_until_async(answers, within_s=20)
                again = await _order(api, tmp_path, "good")
                assert (await _ended(api, again.conversion_id)).state == "succeeded"
            assert "loop_failed" not in controller.log
            assert controller.stop() == 0


async def test_controller_started_without_its_database_waits_for_it(tmp_path: Path) -> None:
    with Postgres() as server:
        url = server.create_database()
        server.stop()
        controller = ControllerProcess(tmp_path, database_url=url)
        process = controller.launch()
        try:
            await wait_until_async(lambda: "waiting_to_retry" in controller.log, within_s=20)
            server.start()
            await wait_until_async(lambda: "controller_started" in controller.log, within_s=20)
            assert process.poll() is None
            assert controller.stop() == 0
        finally:
            controller.__exit__(None, None, None)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a small Keras model and its data."""
    subprocess.run([sys.executable, "-c", MAKE_MODEL, str(tmp_path)], check=True, capture_output=True, timeout=60)
    return tmp_path


async def test_real_model_becomes_a_signed_release(tmp_path: Path, trained: Path) -> None:
    with ControllerProcess(tmp_path) as controller:
        async with controller.client() as api:
            shards = {f"{split}.npz": (trained / f"{split}.npz").read_bytes() for split in Split}
            data = await api.push_dataset(written(tmp_path / "data", shards))
            source = (trained / "model.keras").read_bytes()
            version = await _version(api, tmp_path, source)
            order = {
                "model": "digits",
                "version_number": version.number,
                "dataset_sha256": data.sha256,
                "pipeline": {"steps": [{"type": "run_model"}]},
                "budget": {"max_drop": 0.1},
            }
            ordered = await api.post("/conversions", order, ConversionView)
            done = await _ended(api, ordered.conversion_id, within_s=90)
            assert done.state == "succeeded", done.message
            released = await api.post("/releases", {"conversion_id": done.conversion_id}, ReleaseView)
            [chosen] = released.artifacts
            smallest = min(made.length_bytes for made in done.artifacts if not made.refused)
            assert chosen.length_bytes == smallest
            manifest = json.loads(await api.call("GET", f"/blobs/{released.manifest_sha256}"))
    assert manifest["artifacts"][0]["golden"]["cases"]
