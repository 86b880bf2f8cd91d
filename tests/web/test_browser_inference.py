"""`litefleet model try`: a real release, proven, run by LiteRT in a real page, and held against a device's answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import numpy as np
import pytest
from PIL import Image

from controller.views import ReleaseView
from shared import manifest
from shared.pipeline import (
    MODEL_ONLY,
    ColourMode,
    DecodeImage,
    Normalise,
    PipelineSpec,
    ResizeImage,
    RunModel,
    Softmax,
    TopLabels,
)
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import drawn_networks, models, passing_converter
from tests.support.controller_process import ControllerProcess
from tests.support.datasets import opaque, written
from tests.support.inference_api import serving
from tests.support.operator import Operator
from tests.support.ports import free_port
from tests.support.programs import find_program, stop_process
from tests.support.serving import MODEL, make_slot, plan_of
from tests.support.tuf_repository import TufRepository
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.chromium import Chromium, Page
    from tests.support.inference_api import Served

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
LABELS = tuple("abcdefghij")
COMMAND = "from controller.cli import main; main()"
PICTURES = PipelineSpec(
    steps=(
        DecodeImage(colour=ColourMode.GREY),
        ResizeImage(height=12, width=12),
        Normalise(scale=1 / 255),
        RunModel(),
        Softmax(),
        TopLabels(count=3),
    ),
    labels=LABELS,
)
TOLERANCE = 1e-5
"""WebAssembly and native code add in different orders; scores are within 0..1."""
VERDICT = "document.querySelector('#verdict').innerText"
LAST_ROWS = """(() => {
  const rows = [...document.querySelectorAll('#rows tr')];
  const cells = (row) => [...row.querySelectorAll('td')].map((cell) => cell.innerText);
  return rows.length > 4 && rows.slice(-3).map(cells);
})()"""
"""Labels of both sides, once there are any."""
DAMAGING = """
const real = globalThis.fetch;
globalThis.fetch = async (path, ...rest) => {
  const answer = await real(path, ...rest);
  if (path !== '/model.tflite') { return answer; }
  const bytes = new Uint8Array(await answer.arrayBuffer());
  bytes[bytes.length - 1] ^= 1;
  return new Response(bytes);
};
"""
"""Turns one bit of the file on its way into the page."""
QUIET = "document.querySelector('#result').getAttribute('aria-busy') === 'false'"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator whose conversions hand on the file that came."""
    folder = tmp_path_factory.mktemp("operator")
    command = [sys.executable, str(Path(passing_converter.__file__))]
    with ControllerProcess(folder, convert_command=command) as controller:
        url = f"http://127.0.0.1:{controller.api_port}"
        yield Operator(url=url, token_file=controller.state_dir / "operator-token", folder=folder)


def release(operator: Operator, model: bytes, pipeline: PipelineSpec = MODEL_ONLY) -> int:
    """Push a model, and return the number of the version that is released now."""
    file, declared = operator.folder / "model.tflite", operator.folder / "pipeline.json"
    file.write_bytes(model)
    declared.write_bytes(msgspec.json.encode(pipeline))
    data = written(operator.folder / "data", opaque())
    words = ("--data", str(data), "--name", MODEL, "--pipeline", str(declared), "-o", "json")
    return operator.must("model", "push", str(file), *words).read(ReleaseView).version_number


@contextlib.asynccontextmanager
async def trying(operator: Operator, *words: str) -> AsyncIterator[str]:
    """Run `litefleet model try`, and give the address that it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LITEFLEET_")}
    told = {"LITEFLEET_URL": operator.url, "LITEFLEET_TOKEN_FILE": str(operator.token_file)}
    process = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time; what it says is awaited
        [sys.executable, "-u", "-c", COMMAND, "model", "try", *words],
        cwd=ROOT,
        env={**environment, **told, "HOME": str(operator.folder), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said: list[str] = []
    listening = asyncio.get_running_loop().run_in_executor(None, _gather, process, said)
    try:
        yield await wait_until_async(lambda: _address(said, process), within_s=30, what="the page can be opened")
    finally:
        stop_process(process)
        await listening


def _gather(process: subprocess.Popen[bytes], said: list[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        # One by one, as they come: somebody waits for one of them.
        said.extend(line.decode() for line in lines)


def _address(said: list[str], process: subprocess.Popen[bytes]) -> str:
    assert process.poll() is None, "".join(said)
    return next((line.split()[1] for line in said if line.startswith("open http")), "")


async def seen(browser: Chromium, url: str) -> Page:
    """Open the page and wait until it has compared."""
    page = await browser.page()
    await page.goto(url)
    await page.until(f"{QUIET} && {VERDICT} !== 'Loading…'")
    return page


def assert_agrees(verdict: str) -> None:
    """Equal, or so near that only the order of sums can have made the difference."""
    if verdict != "Equal to the last bit":
        found = re.fullmatch(r"The same top answer, numbers differ by at most (\S+)", verdict)
        assert found is not None, verdict
        assert float(found[1]) < TOLERANCE


def photograph(folder: Path) -> Path:
    """A picture with something in it, as a PNG: both sides then start from the same pixels."""
    rows, columns = np.mgrid[0:90, 0:120]
    waves = 127 + 80 * np.sin(rows / 9) * np.cos(columns / 7) + 40 * np.sin(columns / 31)
    path = folder / "photograph.png"
    Image.fromarray(waves.clip(0, 255).astype(np.uint8)).convert("RGB").save(path)
    return path


def run(*words: str) -> None:
    """Run this Python to its end."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def node(script: str, *words: str, stdin: bytes = b"") -> bytes:
    """Run one of the page's modules outside of a page."""
    command = [str(find_program("node")), str(FOLDER / script), *words]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=60).stdout


async def facts(page: Page) -> dict[str, Any]:
    """What the page says of the release."""
    names = "[...document.querySelectorAll('#release dt')]"
    told: dict[str, Any] = await page.evaluate(
        f"Object.fromEntries({names}.map((name) => [name.innerText, name.nextSibling.innerText]))"
    )
    return told


@contextlib.asynccontextmanager
async def beside_a_device(
    operator: Operator, folder: Path, model: bytes, pipeline: PipelineSpec = MODEL_ONLY
) -> AsyncIterator[tuple[str, Served]]:
    """Release a model, have a device serve it, and give the page's address."""
    number = await asyncio.to_thread(release, operator, model, pipeline)
    async with serving() as device:
        await device.engine.apply(plan_of(make_slot(folder, model, pipeline=pipeline, version=number)))
        async with trying(operator, MODEL, "--release", str(number), "--device-url", device.url) as url:
            yield url, device


@pytest.mark.parametrize("batch", [1, -1], ids=["batch of one", "open batch"])
async def test_dense_release_answers_in_the_page_as_on_the_device_to_the_last_bit(
    browser: Chromium, operator: Operator, tmp_path: Path, shots: Path, batch: int
) -> None:
    model = models.random_classifier(20, 10, seed=3, batch=batch)
    async with beside_a_device(operator, tmp_path, model) as (url, _):
        page = await seen(browser, url)
        assert await page.evaluate(VERDICT) == "Equal to the last bit", await page.text("main")
        told = await facts(page)
        assert told["Device"] == "runs this very file"
        assert "vouched for, from root version" in told["Signature"]
        assert ("as signed" in told["Batch"]) == (batch == 1)
        assert [address for address in page.requested if not address.startswith((url, "data:"))] == []
        assert page.complaints == []
        for look, width in (("desktop", 1280), ("phone", 390)):
            await page.look(width=width, height=844)
            await page.screenshot(shots / f"compare-{look}.png")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_convolutional_release_agrees_on_a_picture_from_the_file_to_the_labels(
    browser: Chromium, operator: Operator, tmp_path: Path, shots: Path
) -> None:
    model = drawn_networks.convolutional()
    async with beside_a_device(operator, tmp_path, model, PICTURES) as (url, _):
        page = await seen(browser, url)
        assert_agrees(await page.evaluate(VERDICT))
        await page.choose("#file", photograph(tmp_path))
        rows = await page.until(LAST_ROWS)
        assert_agrees(await page.evaluate(VERDICT))
        for here, there in rows:
            assert here.split()[0] == there.split()[0]
            assert float(here.split()[1]) == pytest.approx(float(there.split()[1]), abs=1e-5)
        await page.look(width=1280, height=844, dark=True)
        await page.screenshot(shots / "compare-picture.png")
        assert page.complaints == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained network for handwritten digits, its data and its pipeline."""
    folder = tmp_path_factory.mktemp("trained")
    run("-m", "converters.examples.digits", "--out", str(folder))
    return folder


@pytest.fixture(params=["float32", "full_int8"])
def converted(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> tuple[bytes, PipelineSpec]:
    """That network, converted; as whole numbers it takes the pixels as they are."""
    source, data, declared = (str(trained / name) for name in ("model.keras", "data", "pipeline.json"))
    words = ("--data", data, "--pipeline", declared, "--scheme", request.param, "--out", str(tmp_path / "converted"))
    folded = ("--image-input",) if request.param == "full_int8" else ()
    run("-c", COMMAND, "convert", source, *words, *folded)
    pipeline = msgspec.json.decode(Path(declared).read_bytes(), type=PipelineSpec)
    if folded:
        # What is folded into the model is no longer a step before it.
        steps = tuple(step for step in pipeline.steps if not isinstance(step, Normalise))
        pipeline = msgspec.structs.replace(pipeline, steps=steps)
    return (tmp_path / "converted" / "generic.tflite").read_bytes(), pipeline


@pytest.mark.timeout(300)  # a real conversion is in it
async def test_converted_network_runs_in_the_page_as_it_was_signed_and_agrees(
    browser: Chromium, operator: Operator, converted: tuple[bytes, PipelineSpec], tmp_path: Path
) -> None:
    model, pipeline = converted
    async with beside_a_device(operator, tmp_path, model, pipeline) as (url, _):
        page = await seen(browser, url)
        assert "as signed" in (await facts(page))["Batch"]
        assert_agrees(await page.evaluate(VERDICT))
        await page.choose("#file", photograph(tmp_path))
        for here, there in await page.until(LAST_ROWS):
            assert here.split()[0] == there.split()[0]
        assert page.complaints == []


async def test_release_runs_in_the_page_where_no_device_answers_and_says_so(
    browser: Chromium, operator: Operator
) -> None:
    number = await asyncio.to_thread(release, operator, models.random_classifier(20, 10, seed=3))
    nobody = f"http://127.0.0.1:{free_port()}"
    async with trying(operator, MODEL, "--release", str(number), "--device-url", nobody) as url:
        page = await seen(browser, url)
        assert "nothing to compare" in await page.evaluate(VERDICT)
        assert "There is no answer of the device" in await page.text("#problem")
        assert (await facts(page))["Device"].startswith("does not answer")


async def test_page_refuses_a_file_that_is_not_the_one_that_was_signed(browser: Chromium, operator: Operator) -> None:
    number = await asyncio.to_thread(release, operator, models.random_classifier(20, 10, seed=3))
    async with trying(operator, MODEL, "--release", str(number)) as url:
        page = await browser.page()
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=DAMAGING)
        await page.goto(url)
        await page.until(f"{VERDICT} === 'The model does not run here'")
        assert "it is not run" in await page.text("#problem")


async def test_other_sites_and_other_names_may_not_ask_through_the_page(operator: Operator) -> None:
    number = await asyncio.to_thread(release, operator, models.random_classifier(20, 10, seed=3))
    async with trying(operator, MODEL, "--release", str(number)) as url, aiohttp.ClientSession() as http:
        for headers, status in (
            ({}, 200),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Host": "attacker.example"}, 403),
        ):
            async with http.get(f"{url}release.json", headers=headers) as reply:
                assert reply.status == status, headers


def test_release_whose_signatures_do_not_hold_is_not_shown(operator: Operator) -> None:
    number = release(operator, models.random_classifier(20, 10, seed=3))
    root = operator.folder / "other-root.json"
    root.write_bytes(TufRepository(director_keys={}, installation_id="another").metadata["1.root.json"])
    words = ("--release", str(number), "--root", str(root))
    refused = operator.types("model", "try", MODEL, *words, HOME=str(operator.folder))
    assert refused.code == 1
    assert "the signatures do not hold" in refused.err


def test_attack_artifact_changed_on_the_controllers_disk_is_not_shown(operator: Operator) -> None:
    model = models.random_classifier(20, 10, seed=4)
    number = release(operator, model)
    [kept] = [path for path in operator.token_file.parent.rglob(f"*{manifest.digest(model)}*") if path.is_file()]
    kept.chmod(0o600)
    kept.write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    refused = operator.types("model", "try", MODEL, "--release", str(number), HOME=str(operator.folder))
    assert refused.code == 1
    assert "is not what was signed" in refused.err


def test_try_of_a_scheme_that_the_release_lacks_names_those_that_it_has(operator: Operator) -> None:
    number = release(operator, models.random_classifier(20, 10, seed=3))
    words = ("--release", str(number), "--scheme", "full_int8")
    refused = operator.types("model", "try", MODEL, *words, HOME=str(operator.folder))
    assert refused.code == 1
    assert "one of float32" in refused.err


@pytest.mark.parametrize("model", [models.random_classifier(20, 10, seed=3, batch=-1), drawn_networks.convolutional()])
def test_file_with_its_batch_fixed_by_the_page_answers_natively_as_the_signed_one_does(
    tmp_path: Path, model: bytes
) -> None:
    signed, fixed = tmp_path / "signed.tflite", tmp_path / "fixed.tflite"
    signed.write_bytes(model)
    node("fix_batch.mjs", str(signed), str(fixed))
    before, after = (LiteRtInterpreter(path.read_bytes(), threads=1) for path in (signed, fixed))
    assert all(size > 0 for spec in after.inputs + after.outputs for size in spec.shape)
    assert len(fixed.read_bytes()) == len(model)
    rng = np.random.default_rng(5)
    for _ in range(10):
        item = [rng.random([abs(size) for size in spec.shape], dtype=np.float32) for spec in before.inputs]
        for one, other in zip(before.run(item), after.run(item), strict=True):
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("size", "to"), [((31, 17), (12, 12)), ((12, 9), (24, 24)), ((640, 480), (224, 224)), ((12, 12), (12, 5))]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_page_resizes_as_the_device_does_to_the_last_bit(
    size: tuple[int, int], to: tuple[int, int], channels: int
) -> None:
    width, height = size
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, channels), dtype=np.uint8)
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    wanted = np.asarray(picture.resize(to, Image.Resampling.BILINEAR))
    words = (width, height, channels, *to)
    assert node("resize.mjs", *map(str, words), stdin=pixels.tobytes()) == wanted.tobytes()
