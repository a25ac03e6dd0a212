"""A headless Chromium for tests: opens a page, reports its errors, takes a picture.

It is driven through two pipes (`--remote-debugging-pipe`), messages ending in a null
byte, so it needs no driver and no package. CHROMIUM names the program, or it is looked
for by its usual names.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 300  # seconds, on a machine that does other work too
ERRORS = {"Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"}


def program():
    """The path of a Chromium; None if there is none."""
    named = os.environ.get("CHROMIUM")
    return (
        shutil.which(named)
        if named
        else next(filter(None, map(shutil.which, NAMES)), None)
    )


class Page:
    """A tab. As a context; `events` has everything that it reported."""

    def __init__(self, *, offline=True):
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        requests, answers = (
            os.pipe(),
            os.pipe(),
        )  # (read, write) of what it reads, writes
        command = f'exec "$@" 3<&{requests[0]} 4>&{answers[1]}'
        flags = [
            "--headless=new",
            "--no-sandbox",  # as root there is none
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile}",
        ]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", program(), *flags, "about:blank"],
            pass_fds=(requests[0], answers[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(requests[0])
        os.close(answers[1])
        self._write, self._read = requests[1], answers[0]
        self._left, self._number, self._session, self.events = b"", 0, None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        (target,) = [one["targetId"] for one in targets if one["type"] == "page"][:1]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for name in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{name}.enable")
        if offline:
            self.call(
                "Network.emulateNetworkConditions",
                offline=True,
                latency=0,
                downloadThroughput=-1,
                uploadThroughput=-1,
            )

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self._session = None
        with contextlib.suppress(RuntimeError, OSError):
            self.call("Browser.close")  # with all its processes
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _message(self):
        while b"\0" not in self._left:
            read = os.read(self._read, 1 << 20)
            if not read:
                raise RuntimeError("Chromium has ended")
            self._left += read
        text, _, self._left = self._left.partition(b"\0")
        return json.loads(text)

    def call(self, method, **parameters):
        """What a method of the DevTools protocol returns."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            got = self._message()
            if got.get("id") == self._number:
                if "error" in got:
                    raise RuntimeError(f"{method}: {got['error']}")
                return got["result"]
            self.events.append(got)

    def evaluate(self, expression):
        """The value of an expression of JavaScript, awaited."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        return found["result"].get("value")

    def open(self, url, *, width=1200, height=900, dark=False):
        """Opens a page of this width and waits until its scripts have run."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        end = time.monotonic() + PATIENCE
        while self.evaluate("document.URL + document.readyState") != f"{url}complete":
            if time.monotonic() > end:
                raise RuntimeError(f"{url} does not load")
            time.sleep(0.1)
        self.evaluate("new Promise(done => setTimeout(done, 500))")

    def errors(self):
        """Exceptions, warnings and failed requests, and what the page logged."""
        found = [one for one in self.events if one.get("method") in ERRORS]
        found += [
            one
            for one in self.events
            if one.get("method") == "Runtime.consoleAPICalled"
            and one["params"]["type"] in ("error", "warning", "assert")
        ]
        return [json.dumps(one["params"])[:600] for one in found]

    def requested(self):
        """The addresses of everything that was asked for."""
        return [
            one["params"]["request"]["url"]
            for one in self.events
            if one.get("method") == "Network.requestWillBeSent"
        ]

    def screenshot(self, path):
        """Writes the whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"]}
        found = self.call(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=True,
            clip=clip | {"scale": 1},
        )
        path.write_bytes(base64.b64decode(found["data"]))
