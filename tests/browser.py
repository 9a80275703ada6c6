"""A page as a headless Chromium shows it: what it asks the network for, what it complains of, and how it looks."""

import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-default-apps", "--disable-sync", "--no-first-run", "--no-default-browser-check", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe", "about:blank"),
]


class Seen(NamedTuple):
    """What was seen of a page.

    Attributes:
        requests: everything that was asked for, but the page itself and what stands within it.
        complaints: errors and warnings of the console, and exceptions of scripts.
        answers: of the expressions that were asked for.
        size: width and height of the page's content, in CSS pixels.
    """

    requests: list[str]
    complaints: list[str]
    answers: list[Any]
    size: tuple[int, int]


class Browser:
    """A Chromium that is spoken to over two pipes, in the Chrome DevTools Protocol."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._number, self._rest = to, back, 0, b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.page(f"{domain}.enable")

    def call(self, method: str, session: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Call a method, and return its result; events that come meanwhile are kept."""
        self._number += 1
        own = {"sessionId": session} if session else {}
        message = json.dumps({"id": self._number, "method": method, "params": arguments, **own})
        os.write(self._to, message.encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def page(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the page."""
        return self.call(method, self.session, **arguments)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._back, 1 << 20)
            assert more, "Chromium has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def look(
        self, path: Path, width: int = 1280, dark: bool = False, ask: tuple[str, ...] = (), picture: Path | None = None
    ) -> Seen:
        """Open a file.

        Args:
            path: it.
            width: of the window.
            dark: whether the reader prefers dark pages.
            ask: JavaScript expressions to evaluate in the page, one after the other.
            picture: where a picture of the whole page is kept; ``None`` for none.
        """
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.page(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        self.page("Emulation.setEmulatedMedia", features=[scheme])
        self.page("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        answers = [
            self.page("Runtime.evaluate", expression=each, returnByValue=True)["result"].get("value") for each in ask
        ]
        size = self.page("Page.getLayoutMetrics")["cssContentSize"]
        if picture is not None:
            clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
            shot = self.page("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            picture.write_bytes(base64.b64decode(shot["data"]))
        return Seen(self._requests(path), self._complaints(), answers, (int(size["width"]), int(size["height"])))

    def _told(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def _requests(self, path: Path) -> list[str]:
        asked = [each["request"]["url"] for each in self._told("Network.requestWillBeSent")]
        return [url for url in asked if url != path.resolve().as_uri() and not url.startswith("data:")]

    def _complaints(self) -> list[str]:
        return [
            *(each["entry"]["text"] for each in self._told("Log.entryAdded")),
            *(str(each["args"]) for each in self._told("Runtime.consoleAPICalled")),
            *(each["exceptionDetails"]["text"] for each in self._told("Runtime.exceptionThrown")),
        ]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a Chromium of its own, and end it."""
    read, write = os.pipe()
    back, answer = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4: the ends that it gets must not stand in each other's way.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read, answer)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, open(os.devnull, "wb") as nothing:  # noqa: PTH123
        actions = [
            (os.POSIX_SPAWN_DUP2, nothing.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, nothing.fileno(), 2),
            (os.POSIX_SPAWN_DUP2, theirs[0], 3),
            (os.POSIX_SPAWN_DUP2, theirs[1], 4),
        ]
        command = [CHROMIUM, f"--user-data-dir={profile}", *FLAGS]
        process = os.posix_spawn(CHROMIUM, command, os.environ, file_actions=actions, setpgroup=0)
        for end in (read, answer, *theirs):
            os.close(end)
        try:
            yield Browser(write, back)
        finally:
            os.close(write)
            os.close(back)
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
