"""The page `/try`: pictures from a file and from the camera, answers, and what goes wrong, in plain words."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from shared.box_terms import BoxFormat
from shared.pipeline import ColourMode, DecodeImage, Normalise, PipelineSpec, ResizeImage, RunModel
from shared.steps import DetectBoxes, TensorMap
from tests.support import models
from tests.support.inference_api import picture
from tests.support.serving import make_slot, plan_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from tests.support.chromium import Chromium, Page
    from tests.support.inference_api import Served

BEST = "document.querySelector('#labels .name')?.innerText"
PROBLEM = "document.querySelector('#problem').innerText"


@pytest.fixture
async def page(browser: Chromium, device: Served) -> AsyncIterator[Page]:
    opened = await browser.page()
    await opened.goto(f"{device.url}/try")
    await opened.until("!document.querySelector('#model').disabled")
    yield opened
    assert [url for url in opened.requested if not url.startswith((device.url, "data:", "blob:"))] == []


def file_with(folder: Path, content: bytes, name: str = "picture.png") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def detector(releases: Path) -> SlotSpec:
    """A detector that finds the same door and the same cat in every picture."""
    door, cat = (0.3, 0.4, 0.3, 0.5, 0.9, 0.1), (0.7, 0.6, 0.4, 0.4, 0.2, 0.8)
    model = models.dense_classifier(
        np.zeros((4, 12), np.float32), np.array([*door, *cat], np.float32), input_shape=(2, 2, 1), softmax=False
    )
    steps = (
        DecodeImage(colour=ColourMode.GREY),
        ResizeImage(height=2, width=2),
        Normalise(),
        RunModel(),
        TensorMap(reshape=(2, 6)),
        DetectBoxes(format=BoxFormat.YOLO),
    )
    return make_slot(releases, model, pipeline=PipelineSpec(steps=steps, labels=("door", "cat")))


def street() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (400, 200), (90, 90, 90)).save(out, "PNG")
    return out.getvalue()


async def test_picture_from_a_file_gets_labels_times_and_who_answered(page: Page, tmp_path: Path, shots: Path) -> None:
    await page.choose("#file", file_with(tmp_path, picture(3)))
    await page.until(f"{BEST} === 'd'")
    facts = await page.text("#facts")
    assert "digits" in facts
    assert "Version\n1" in facts
    assert "Whole time" in facts
    assert "On the device" in facts
    assert "10 × 1" in facts
    assert page.complaints == []
    for name, width, dark in (("desktop", 1280, False), ("desktop-dark", 1280, True), ("phone", 390, False)):
        await page.look(width=width, height=844, dark=dark)
        await page.screenshot(shots / f"try-{name}.png")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone has to scroll sideways"


async def test_dropped_picture_of_another_kind_is_turned_into_one_that_the_device_takes(page: Page) -> None:
    await page.evaluate("""(async () => {
      const canvas = Object.assign(document.createElement('canvas'), {width: 10, height: 1});
      const pen = canvas.getContext('2d');
      pen.fillStyle = 'black'; pen.fillRect(0, 0, 10, 1);
      pen.fillStyle = 'white'; pen.fillRect(7, 0, 1, 1);
      const blob = await new Promise((done) => canvas.toBlob(done, 'image/webp', 1));
      const dropped = new DataTransfer();
      dropped.items.add(new File([blob], 'seven.webp', {type: 'image/webp'}));
      document.querySelector('#stage').dispatchEvent(new DragEvent('drop', {dataTransfer: dropped, bubbles: true}));
    })()""")
    await page.until(f"{BEST} === 'h'")


async def test_camera_sends_again_and_again_until_it_is_stopped(page: Page, shots: Path) -> None:
    await page.click("#camera")
    await page.until("!document.querySelector('#camera-controls').hidden")
    await page.evaluate("document.querySelector('#rate').value = '10'")
    await page.click("#stream")
    await page.until("Number(document.querySelector('#facts').innerText.match(/Rate\\s+([\\d.]+)/)?.[1]) > 1")
    await page.look(width=390, height=844)
    await page.screenshot(shots / "try-camera.png")
    await page.click("#stream")
    assert await page.evaluate("document.querySelector('#stream').getAttribute('aria-pressed')") == "false"
    await page.click("#camera")
    assert await page.evaluate("document.querySelector('#video').srcObject") is None
    assert page.complaints == []


async def test_boxes_of_a_detector_are_drawn_into_the_picture(
    browser: Chromium, device: Served, tmp_path: Path, shots: Path
) -> None:
    await device.engine.apply(plan_of(detector(tmp_path / "boxes"), serial=2))
    opened = await browser.page()
    await opened.goto(f"{device.url}/try")
    await opened.until("!document.querySelector('#model').disabled")
    await opened.choose("#file", file_with(tmp_path, street()))
    await opened.until(f"{BEST} === 'door'")
    assert "cat" in await opened.text("#labels")
    assert await opened.evaluate("document.querySelector('#video').hidden")
    await opened.screenshot(shots / "try-boxes.png")
    drawn = "document.querySelector('#picture').getContext('2d').getImageData({}, {}, 1, 1).data.join()"
    grey = "90,90,90,255"
    # The left edge of the door, and a place in the middle of it.
    assert await opened.evaluate(drawn.format(60, 70)) != grey
    assert await opened.evaluate(drawn.format(120, 80)) == grey


async def test_file_that_is_no_picture_is_refused_in_plain_words(page: Page, tmp_path: Path) -> None:
    await page.choose("#file", file_with(tmp_path, b"no picture"))
    await page.until(f"{PROBLEM}.includes('no readable picture')")


async def test_picture_that_the_pipeline_cannot_take_is_refused_with_the_devices_own_reason(
    page: Page, tmp_path: Path, shots: Path
) -> None:
    deep = io.BytesIO()
    Image.new("I;16", (10, 1)).save(deep, "PNG")
    await page.choose("#file", file_with(tmp_path, deep.getvalue()))
    await page.until(f"{PROBLEM}.includes('8 bits a channel')")
    await page.look(width=390, height=844, dark=True)
    await page.screenshot(shots / "try-refused.png")


async def test_device_that_went_away_is_said_to_not_answer(page: Page, device: Served, tmp_path: Path) -> None:
    await page.call(
        "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
    )
    await page.choose("#file", file_with(tmp_path, picture(3)))
    await page.until(f"{PROBLEM}.startsWith('The device does not answer.')")
    assert device.url


async def test_model_of_numbers_cannot_be_chosen_and_the_page_says_where_to_go(
    browser: Chromium, device: Served, stable: SlotSpec
) -> None:
    await device.engine.apply(plan_of(stable, serial=2))
    opened = await browser.page()
    await opened.goto(f"{device.url}/try")
    await opened.until(f"{PROBLEM}.includes('takes pictures')")
    assert await opened.evaluate("document.querySelector('#model').disabled")


async def test_application_key_is_sent_once_entered_and_kept_nowhere(page: Page, tmp_path: Path) -> None:
    sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    noticed = page.noticed

    def notice(event: str, told: dict[str, object]) -> None:
        noticed(event, told)
        request = told.get("request")
        if event == "Network.requestWillBeSent" and isinstance(request, dict) and request["url"].endswith("/classify"):
            sent.set_result(request["headers"].get("Authorization", ""))

    page.noticed = notice  # type: ignore[method-assign] # what the browser tells, before the page forgets it
    await page.evaluate("document.querySelector('#key').value = 'key-of-the-door'")
    await page.choose("#file", file_with(tmp_path, picture(3)))
    async with asyncio.timeout(20):
        assert await sent == "Bearer key-of-the-door"
    stored = "localStorage.length + sessionStorage.length + document.cookie.length"
    assert await page.evaluate(stored) == 0


async def test_file_is_chosen_and_sent_by_keyboard_alone(page: Page) -> None:
    reached = []
    for _ in range(8):
        await page.press("Tab")
        reached.append(await page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert [name for name in reached if name in {"model", "file", "camera"}] == ["model", "file", "camera"]
