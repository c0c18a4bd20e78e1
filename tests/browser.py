"""A real browser for tests of the pages: Debian's Chromium under Playwright, with every complaint of a page kept."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
WAIT_MS = 20_000
WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
SHOTS = os.environ.get("PLAYGROUND_SHOTS")
"""A folder: where the README's pictures are written anew by the tests; unset, none is taken."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, headless."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "the tests of the pages need Chromium; on Debian: apt-get install chromium"
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@contextmanager
def visit(
    chromium: Browser, url: str, *, expected: tuple[str, ...] = (), wait: bool = True, **options: object
) -> Iterator[Page]:
    """A page in a context of its own; fails when it complained, or asked another host than its own.

    `expected` are pieces of complaints that the test provokes; `wait` is off where a page waits for someone.
    """
    options = {"viewport": WIDE, "locale": "en-GB", "color_scheme": "light", **options}
    context = chromium.new_context(**options)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    complaints: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(url)
    if wait:
        ready(page)
    yield page
    unexpected = [each for each in complaints if not any(piece in each for piece in expected)]
    assert not unexpected, unexpected
    assert hosts <= {urlsplit(url).netloc, ""}, hosts
    context.close()


def ready(page: Page) -> None:
    """Wait until the page works."""
    page.wait_for_selector("html[data-ready]", state="attached")


def serious(page: Page) -> list[tuple[str, str, list[object]]]:
    """What axe-core calls serious or critical, and where."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (each["id"], each["help"], [node["target"] for node in each["nodes"]][:3])
        for each in found
        if each["impact"] in {"serious", "critical"}
    ]


def shoot(page: Page, name: str, *, whole: bool = False) -> None:
    """A picture for the README, if this run is to make them; few colours keep it small."""
    if SHOTS:
        page.evaluate("scrollTo(0, 0)")  # else the head, which sticks to the window, would be in the middle
        taken = page.screenshot(full_page=whole, animations="disabled")
        Image.open(BytesIO(taken)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(
            Path(SHOTS) / f"{name}.png", optimize=True
        )


class Hand:
    """Draws on the pad with the mouse, in its own 280x280 units."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.locator("#pad").scroll_into_view_if_needed()
        box = page.locator("#pad").bounding_box()
        assert box is not None
        self._left, self._top, self._scale = box["x"], box["y"], box["width"] / 280

    def draw(self, *strokes: list[tuple[float, float]]) -> None:
        """Each stroke from point to point, pen down to pen up."""
        for first, *rest in strokes:
            self.page.mouse.move(*self._place(first))
            self.page.mouse.down()
            for point in rest:
                self.page.mouse.move(*self._place(point), steps=2)
            self.page.mouse.up()

    def _place(self, point: tuple[float, float]) -> tuple[float, float]:
        return self._left + point[0] * self._scale, self._top + point[1] * self._scale
