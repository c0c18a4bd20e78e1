"""How the page shows the end of a job: the gate's checks, failed ones first, and a bar that looks like the outcome."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import PHONE, WIDE, browser, serious, visit
from tests.server import Server

pytestmark = pytest.mark.slow

AT = "2026-01-02T03:04:05Z"
BLUE = "rgb(10, 95, 194)"
PROGRESS = {"epoch": 1, "epochs": 4, "step": 8, "steps": 8, "eta_s": None}
REFERENCE = (
    "mean validation loss 0.03126 is higher than the 0.01306 of reference version 3 by 0.01820, more than one standard "
    "error of the paired difference, 0.00140, over 5,000 rows"
)
FLOOR = "validation accuracy is 0.9916, and must be at least 0.97"
CHECKS = [
    {"name": "reference", "passed": False, "detail": REFERENCE, "value": 0.0182, "limit": 0.0014},
    {"name": "metric_floor", "passed": True, "detail": FLOOR, "value": 0.9916, "limit": 0.97},
]
GATE = {"passed": False, "reasons": [REFERENCE, FLOOR], "checks": CHECKS, "compared_with": 3, "figures": {}}
SPEC = {
    "task": "digit", "network": "cnn", "epochs": 4, "batch_size": 128, "learning_rate": 0.004, "seed": 0,
    "promote": "if_better", "priority": 5, "time_limit_s": None,
}  # fmt: skip


@pytest.fixture(scope="module", name="chromium")
def _chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("state"), workers=1) as server:
        yield server


def _open(page: Page, status: str, result: dict[str, Any] | None, error: str | None = None) -> None:
    """Show a job that ended so, as the service would tell it."""
    job = {
        "id": "job-1", "status": status, "spec": SPEC, "created_at": AT, "started_at": AT, "finished_at": AT,
        "progress": PROGRESS, "history": [], "result": result, "error": error,
    }  # fmt: skip
    done = {"type": "done", "at": AT, "status": status, "result": result, "error": error}
    told = [("progress", {"type": "progress", "at": AT, "progress": PROGRESS}), ("done", done)]
    events = "".join(
        f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for number, (kind, data) in enumerate(told, 1)
    )

    def answer(route: Route) -> None:
        if route.request.url.endswith("/events"):
            route.fulfill(body=events, content_type="text/event-stream")
        elif route.request.url.endswith("/job-1"):
            route.fulfill(json=job)
        elif route.request.url.endswith("/train"):
            route.fulfill(json={"jobs": [job]})
        else:
            route.continue_()

    page.route("**/train**", answer)
    page.evaluate("location.hash = '#train/job-1'")
    page.reload()
    expect(page.locator("#job-verdict p").first).to_be_visible()


def _bar(page: Page) -> tuple[float, str]:
    """How full the bar is, and the colour that its stylesheet gives the full part."""
    bar = page.locator("#job progress, progress").first
    name = bar.get_attribute("class") or ""
    colour = page.evaluate(
        """(name) => {
          const probe = document.createElement("i");
          const rule = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).findLast((rule) =>
            rule.selectorText?.includes("::-webkit-progress-value") &&
            (name ? rule.selectorText.includes(`.${name}`) : rule.selectorText.startsWith("progress::")));
          probe.style.background = rule?.style.background ?? "var(--accent)";
          document.body.append(probe);
          const found = getComputedStyle(probe).backgroundColor;
          probe.remove();
          return found;
        }""",
        name,
    )
    return float(bar.evaluate("(bar) => bar.value")), colour


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_refused_job_shows_failed_checks_first_with_marks_and_words(
    server: Server, chromium: Browser, size: dict[str, int], tmp_path: Path
) -> None:
    """The checks are open at once; each has a mark and a word, and the bar is not that of a good end."""
    with visit(chromium, f"{server.url}/#train", viewport=size) as page:
        _open(page, "rejected", {"model": None, "metrics": {}, "gate": GATE})
        expect(page.locator("#job-verdict li")).to_have_count(2)
        lines = page.locator("#job-verdict li").all_inner_texts()
        assert [line.split(":")[0] for line in lines] == ["not passed", "passed"]
        assert REFERENCE in lines[0]
        marks = page.locator("#job-verdict li b").evaluate_all(
            "(all) => all.map((each) => getComputedStyle(each, '::before').content)"
        )
        assert marks == ['"✗"', '"✓"']
        assert _bar(page)[1] != BLUE
        assert not serious(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=tmp_path / "refused.png", full_page=True)


@pytest.mark.parametrize(("status", "error"), [("failed", "the loss is no longer a number"), ("cancelled", None)])
def test_a_job_that_did_not_end_well_keeps_the_bar_where_it_stopped(
    server: Server, chromium: Browser, status: str, error: str | None
) -> None:
    """A quarter of the epochs was done: the bar says so, and not in blue."""
    with visit(chromium, f"{server.url}/#train") as page:
        _open(page, status, None, error)
        value, colour = _bar(page)
        assert value == 0.25
        assert colour != BLUE


def test_a_good_job_has_a_full_bar_and_an_earlier_release_sentences_only(server: Server, chromium: Browser) -> None:
    """Results of jobs from before the checks still tell their reasons."""
    gate = {"passed": True, "reasons": [FLOOR], "compared_with": None, "figures": {}}
    model = {"name": "digit-cnn", "version": 4, "live": True}
    with visit(chromium, f"{server.url}/#train") as page:
        _open(page, "succeeded", {"model": model, "metrics": {}, "gate": gate})
        assert _bar(page) == (1, BLUE)
        page.click("#job-verdict summary")
        expect(page.locator("#job-verdict li")).to_have_text([FLOOR])
