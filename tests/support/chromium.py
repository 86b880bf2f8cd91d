"""A real browser without a window: Chromium, spoken to over its DevTools protocol.

Source: https://chromedevtools.github.io/devtools-protocol/ (Page, Runtime, DOM, Emulation, Log, Network)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.support.programs import find_program, stop_process
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_ANSWER_S = 30.0
_START_S = 30.0
_FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    # Nothing but this machine can be found, whoever asks.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    # A camera that shows a moving figure, and a user who allows it.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


class PageError(AssertionError):
    """A script in the page failed."""


class Page:
    """One page; `complaints` are its errors and what its policy forbade, `requested` every address it fetched."""

    def __init__(self, session: _Session, session_id: str) -> None:
        self._session, self._id = session, session_id
        self.complaints: list[str] = []
        self.requested: list[str] = []

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Do one thing of the protocol."""
        return await self._session.call(method, parameters, self._id)

    async def goto(self, url: str) -> None:
        """Open an address, and wait for all that the page loads by itself."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - whatever the script says, as JSON
        """Return what a script in the page gives; a promise is awaited. Raises PageError."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def until(self, expression: str, *, within_s: float = 20.0) -> Any:  # noqa: ANN401 - as `evaluate`
        """Wait until a script in the page gives something that counts as true, and return it."""
        try:
            return await wait_until_async(lambda: self._asked(expression), within_s=within_s, what=expression)
        except AssertionError as exc:
            exc.add_note(f"complaints: {self.complaints}")
            raise

    async def text(self, selector: str) -> str:
        """Return what a person reads in a part of the page."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def click(self, selector: str) -> None:
        """Click a part of the page."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    async def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an input."""
        document = await self.call("DOM.getDocument")
        found = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(file)])

    async def press(self, key: str) -> None:
        """Press and release a key."""
        code = {"Tab": 9, "Enter": 13, "Space": 32}[key]
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        common = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """Change the size of the window and what the user prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page, as long as it is."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))

    def noticed(self, event: str, told: dict[str, Any]) -> None:
        """Take down what the browser tells of the page."""
        match event:
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requested.append(told["request"]["url"])
            case _:
                pass

    async def _asked(self, expression: str) -> Any:  # noqa: ANN401 - as `evaluate`
        # While a page gives way to the next one, there is nobody to ask.
        with contextlib.suppress(PageError, RuntimeError):
            return await self.evaluate(expression)


class _Session:
    """The connection to one browser: calls by number, events to the page that they are about."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.pages: dict[str, Page] = {}

    async def call(self, method: str, parameters: dict[str, object], session_id: str = "") -> dict[str, Any]:
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        body = {"id": number, "method": method, "params": parameters}
        async with asyncio.timeout(_ANSWER_S):
            await self._socket.send_json(body | ({"sessionId": session_id} if session_id else {}))
            told = await answer
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']['message']}")
        result: dict[str, Any] = told["result"]
        return result

    async def listen(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                answer = self._waiting.pop(told["id"])
                if not answer.done():  # nobody waits any longer for one that came too late
                    answer.set_result(told)
            elif (page := self.pages.get(told.get("sessionId", ""))) is not None:
                page.noticed(told["method"], told["params"])


class Chromium:
    """A running browser."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    async def page(self, *, width: int = 1280, height: int = 800) -> Page:
        """Open an empty page."""
        target = await self._session.call("Target.createTarget", {"url": "about:blank"})
        attached = await self._session.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = Page(self._session, attached["sessionId"])
        self._session.pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "DOM", "Log", "Network"):
            await page.call(f"{domain}.enable")
        await page.look(width=width, height=height)
        return page


@contextlib.asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Chromium]:
    """Run a browser with a profile of its own in `folder`."""
    # Its sandbox refuses to run as root, as continuous integration does; all that it opens is this machine's own.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    profile = folder / "profile"
    command = [str(find_program("chromium")), *_FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
    process = _launch(command, folder / "chromium.log")
    try:
        async with aiohttp.ClientSession() as http:
            address = await _address(profile / "DevToolsActivePort")
            async with http.ws_connect(address, max_msg_size=0) as socket, asyncio.TaskGroup() as tasks:
                session = _Session(socket)
                listening = tasks.create_task(session.listen())
                try:
                    yield Chromium(session)
                finally:
                    listening.cancel()
    finally:
        stop_process(process)


def _launch(command: list[str], log_file: Path) -> subprocess.Popen[bytes]:
    with log_file.open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


async def _address(port_file: Path) -> str:
    def written() -> list[str]:
        lines = port_file.read_text().splitlines() if port_file.exists() else []
        return lines if len(lines) > 1 else []

    port, path = await wait_until_async(written, within_s=_START_S, what="the browser listens")
    return f"ws://127.0.0.1:{port}{path}"
