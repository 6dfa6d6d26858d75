"""A headless Chromium, driven over its own debugging protocol: no driver is needed beside the browser itself."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

WAIT_SECONDS = 20.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
    "--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*", "--hide-scrollbars",
)  # fmt: skip
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, " ": 32}


class Page:
    """A tab: what it shows can be asked, and mouse and keys act as a person's."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command("Performance.enable", timeDomain="threadTicks")

    def command(self, method: str, **values: Any) -> dict[str, Any]:
        """Do something, and return what the browser answers."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": values}))
        while True:
            message = json.loads(self._connection.recv(timeout=WAIT_SECONDS))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def ask(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.ask(f"Boolean({expression})"):
                return
            time.sleep(0.03)
        text = self.ask("document.body.innerText")
        raise AssertionError(f"It never came that {expression}; {self.problems}; the page says: {text[:1500]}")

    def go(self, address: str) -> None:
        """Open an address."""
        self.command("Page.navigate", url=address)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Set how large the window is."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    def dark(self, yes: bool) -> None:
        """Say what colours the system prefers."""
        value = "dark" if yes else "light"
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        quoted = json.dumps(selector)
        self.until(f"document.querySelector({quoted})?.offsetWidth && !document.querySelector({quoted}).disabled")
        place = self.ask(
            f"(() => {{const e = document.querySelector({quoted}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]})()"
        )
        self.click_at(*place)

    def click_at(self, x: float, y: float) -> None:
        """Click a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, *places: tuple[float, float]) -> None:
        """Press at the first place, move over the others, and let go at the last."""
        self.command("Input.dispatchMouseEvent", type="mousePressed", x=places[0][0], y=places[0][1], button="left")
        for x, y in places[1:]:
            self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.command("Input.dispatchMouseEvent", type="mouseReleased", x=places[-1][0], y=places[-1][1], button="left")

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"text": {"Enter": "\r"}.get(key, key)} if len(key) == 1 or key == "Enter" else {}
        code = _KEYS.get(key, ord(key.upper()) if len(key) == 1 and key.isalnum() else 0)
        self.command("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def set(self, selector: str, value: float | str, event: str = "input") -> None:
        """Give a field a value, as moving or typing does."""
        self.until(f"document.querySelector({json.dumps(selector)})")
        self.ask(
            f"(() => {{const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            f"e.dispatchEvent(new Event('{event}', {{bubbles: true}}))}})()"
        )

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a field for files a file, as its dialog does."""
        self.until(f"document.querySelector({json.dumps(selector)})")
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def spread(self, selector: str) -> float:
        """Return the standard deviation of the green values that a canvas shows, 0 to 255."""
        return float(self.ask(
            f"(() => {{const e = document.querySelector({json.dumps(selector)});"
            "const c = document.createElement('canvas'); c.width = e.width; c.height = e.height;"
            "const x = c.getContext('2d'); x.drawImage(e, 0, 0);"
            "const d = x.getImageData(0, 0, c.width, c.height).data; let s = 0, q = 0, n = 0;"
            "for (let k = 1; k < d.length; k += 4) { s += d[k]; q += d[k] * d[k]; n++; }"
            "return Math.sqrt(Math.max(0, q / n - (s / n) ** 2))})()"
        ))  # fmt: skip

    def until_drawn(self, selector: str, least: float) -> None:
        """Wait until a canvas shows more than one grey: see `spread`."""
        end = time.monotonic() + WAIT_SECONDS
        while self.spread(selector) <= least:
            assert time.monotonic() < end, f"{selector} stays empty"
            time.sleep(0.03)

    def work_seconds(self) -> float:
        """Return for how long processors have worked for the page, all of its threads together."""
        metrics = self.command("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "ProcessTime"))

    def picture(self, path: Path) -> None:
        """Write what is seen."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what went wrong in the page."""
        given = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning"):
            self.problems.append(" ".join(str(one.get("value", one.get("description"))) for one in given["args"]))
        elif message.get("method") == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Start a browser with one empty tab; skip the test where none is installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connect(_address(profile), max_size=None, proxy=None, ping_interval=None) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        process.wait(timeout=WAIT_SECONDS)


def _address(profile: Path) -> str:
    """Return where the tab listens, once the browser says so."""
    from urllib.request import ProxyHandler, build_opener

    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        try:
            port = (profile / "DevToolsActivePort").read_text().split()[0]
            with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/json") as answer:
                tabs = json.load(answer)
            return str(next(one["webSocketDebuggerUrl"] for one in tabs if one["type"] == "page"))
        except (OSError, IndexError, StopIteration):
            time.sleep(0.05)
    raise AssertionError("The browser did not start.")
