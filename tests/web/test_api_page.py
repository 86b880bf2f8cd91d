"""The page `/`: it renders every operation out of this server's own files, with and without the explorer."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from agent.serving.protocols import pages
from agent.serving.protocols.operations import OPERATIONS
from shared.pages import PageFiles
from tests.support.serving import MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.chromium import Chromium
    from tests.support.inference_api import Served


async def test_api_page_shows_every_operation_and_fetches_nothing_from_elsewhere(
    browser: Chromium, device: Served, shots: Path
) -> None:
    page = await browser.page()
    await page.goto(device.url)
    await page.until(f"document.querySelectorAll('.opblock').length === {len(OPERATIONS)}")
    assert MODEL in await page.text("main ul")
    assert [url for url in page.requested if not url.startswith((device.url, "data:"))] == []
    assert page.complaints == []
    for name, width, dark in (("desktop", 1280, False), ("phone", 390, True)):
        await page.look(width=width, height=844, dark=dark)
        await page.screenshot(shots / f"api-{name}.png")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone has to scroll sideways"


async def test_api_page_sends_an_operation_to_the_device_and_shows_the_answer(
    browser: Chromium, device: Served
) -> None:
    page = await browser.page()
    await page.goto(device.url)
    live = "document.querySelector('[id$=get__v2_health_live]')"
    # The explorer draws itself in several goes; what is pressed before the last one is lost, as it is for people.
    await page.until(f"""(() => {{
      const opener = {live}?.querySelector('.opblock-summary-control[aria-expanded=false]');
      opener?.click();
      return {live}?.querySelector('.execute') != null;
    }})()""")
    await page.until(f"""(() => {{
      const status = {live}.querySelector('.live-responses-table tbody .response-col_status');
      if (!status) {{ {live}.querySelector('.execute')?.click(); }}
      return status?.innerText.startsWith('200');
    }})()""")
    assert page.complaints == []


@pytest.mark.parametrize("has_explorer", [True, False])
async def test_api_page_lists_operations_and_models_without_scripts(has_explorer: bool) -> None:
    text = pages.page([MODEL], with_explorer=has_explorer)
    assert f'href="/v2/models/{MODEL}"' in text
    assert "/v1/models/{model}:predict" in text
    assert "<style" not in text
    assert ("<noscript>" in text) == has_explorer
    assert ("make web" in text) != has_explorer


def test_page_files_without_the_built_ones_still_hold_every_page(tmp_path: Path) -> None:
    bare = tmp_path / "web"
    shutil.copytree(pages.FILES.folder, bare, ignore=shutil.ignore_patterns("built"))
    files = PageFiles(folder=bare)
    assert files.find("try.html") is not None
    assert files.find("swagger-ui.css") is None
