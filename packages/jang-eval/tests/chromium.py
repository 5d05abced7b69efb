"""Drives a headless Chromium over its pipe: no port, no further package."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)

# Chromium's pipe has the numbers 3 and 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)


_LOOK = """(async () => {
  const image = new Image();
  image.src = %s;
  await image.decode();
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", {willReadFrequently: true});
  canvas.width = image.width; canvas.height = image.height;
  context.drawImage(image, 0, 0);
  const pixels = new Uint32Array(
    context.getImageData(0, 0, image.width, image.height).data.buffer);
  const counts = new Map();
  let light = 0;
  for (const pixel of pixels) {
    counts.set(pixel, (counts.get(pixel) || 0) + 1);
    light += (pixel & 255) + (pixel >> 8 & 255) + (pixel >> 16 & 255);
  }
  return {
    width: image.width,
    lightness: light / pixels.length / 765,
    drawn: 1 - Math.max(...counts.values()) / pixels.length,
  };
})()"""


@dataclass
class Tab:
    """One tab, and what happened in it."""

    commands: IO[bytes]
    messages: IO[bytes]
    session: str = ""
    number: int = 0
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        read = bytearray()
        while not read.endswith(b"\0"):
            byte = self.messages.read(1)
            assert byte, "the browser is gone"
            read += byte
        return json.loads(read[:-1])

    def evaluate(self, expression: str) -> Any:
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, page: Path, *, width: int, height: int, scheme: str) -> None:
        """Opens a file as on a screen of this size, for someone who likes this colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def screenshot(self, file: Path) -> None:
        """Keeps a picture of the whole page, also of what is below the window."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        picture = self.call(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1},
        )
        file.write_bytes(base64.b64decode(picture["data"]))

    def look_at(self, file: Path) -> dict[str, float]:
        """Width of a picture, its mean lightness, and the share that is not its commonest colour.

        The lightness is from 0 for black to 1 for white.
        """
        self.call("Page.navigate", url="about:blank")
        source = f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
        return self.evaluate(_LOOK % json.dumps(source))


@contextmanager
def a_tab(profile: Path) -> Generator[Tab]:
    """A fresh browser, gone afterwards.

    Args:
        profile: Where it may keep what it likes.
    """
    assert PROGRAM is not None
    ours, theirs = os.pipe(), os.pipe()
    # Out of the way of 3 and 4.
    reads, writes = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ours[0], theirs[1]))
    command = [sys.executable, "-c", _START, str(reads), str(writes), PROGRAM, *_OPTIONS]
    with (
        os.fdopen(ours[1], "wb") as commands,
        os.fdopen(theirs[0], "rb") as messages,
        subprocess.Popen(
            [*command, f"--user-data-dir={profile}"],
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        for end in (ours[0], theirs[1], reads, writes):
            os.close(end)
        try:
            tab = Tab(commands, messages)
            target = tab.call("Target.createTarget", url="about:blank")["targetId"]
            attached = tab.call("Target.attachToTarget", targetId=target, flatten=True)
            tab.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.call(f"{domain}.enable")
            yield tab
        finally:
            process.kill()
