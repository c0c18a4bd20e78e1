"""Training and versions in the playground: real jobs of a real service, followed and steered from a real browser."""

import re
import socket
import time
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.browser import SHOTS, browser, ready, serious, shoot, visit
from tests.server import Server, shipped
from tests.workers import WorkerProcess, plan

pytestmark = pytest.mark.slow

NEW = shipped("digit-mlp") + 1
LOST = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE")
JOB_MS = 400_000


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@contextmanager
def serving(state, port=0):
    """The service with its trainer, on a port of its own, so that it can come back to the same address."""
    with Server(state, trainer="embedded", workers=1, port=port) as server:
        yield server


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def order(page, network, epochs, promote="always", task="digit"):
    """Fill the form in and send it."""
    page.select_option("#train-task", task)
    page.select_option("#train-network", network)
    page.fill("#train-epochs", str(epochs))
    page.fill("#train-batch_size", "256")
    page.select_option("#train-promote", promote)
    page.click("#train-go")
    page.wait_for_url("**/#train/*")


def test_a_job_that_no_worker_can_take_says_so(chromium, tmp_path):
    """In place of how far it is; with a worker it goes on without a reload."""
    plan(tmp_path)
    with Server(tmp_path, trainer="external", workers=1) as server, visit(chromium, f"{server.url}/#train") as page:
        order(page, "mlp", 1)
        expect(page.locator("#job-where")).to_contain_text("No training worker is running")
        with WorkerProcess(tmp_path):
            expect(page.locator("#job-where")).not_to_contain_text("No training worker")


def answer(page, kind, model, version):
    """Press an action of a version and confirm the question."""
    page.click(f'[data-action="{kind} {model} {version}"]')
    expect(page.locator("#confirm")).to_be_visible()
    page.click("#confirm-yes")


def row(page, version):
    return page.locator(f'tbody[data-model="digit-mlp"] tr[data-version="{version}"]')


def test_a_job_is_followed_through_a_reload_and_a_lost_server_to_a_live_version_and_back(tmp_path, chromium, data_dir):
    """One epoch: curves, log and ETA, over a reload and a kill -9 of all; then live, on trial, and rolled back."""
    port = free_port()
    server = serving(tmp_path, port)
    first = server.__enter__()
    with visit(chromium, f"{first.url}/#train", expected=LOST) as page:
        order(page, "mlp", 1)
        expect(page.locator("#job-status")).to_have_text("running", timeout=JOB_MS)
        page.reload()
        ready(page)
        expect(page.locator("#job-log p")).to_have_text([re.compile("waiting"), re.compile("running")])
        expect(page.locator("#train-curl code")).to_contain_text("/events")
        first.kill()
        expect(page.locator("#job-link")).to_contain_text("trying again")
        expect(page.locator("#state-text")).to_have_text("not reachable")
        with serving(tmp_path, port):
            expect(page.locator("#job-link")).to_be_empty()
            expect(page.locator("#state-text")).to_have_text("ready: CPU")
            expect(page.locator("#job-where")).to_contain_text(re.compile("step [1-9].* left"), timeout=JOB_MS)
            expect(page.locator("#job-status")).to_have_text("succeeded", timeout=JOB_MS)
            check_end(page)
            page.click("#job-verdict a[href='#models']")
            expect(row(page, NEW)).to_contain_text("live")
            check_canary_and_rollback(page)
            if SHOTS:
                show_curves(page)


def show_curves(page):
    """A job of more epochs, for the README's picture."""
    page.click('header nav a[href="#train"]')
    order(page, "rnn", 6, "always", task="forecast")
    expect(page.locator("#job-title")).to_have_text("forecast · rnn")
    expect(page.locator("#job-status")).to_have_text("succeeded", timeout=JOB_MS)
    expect(page.locator("#job-metric circle")).to_have_count(6)
    shoot(page, "train", whole=True)


def check_end(page):
    """The verdict in words, the report, each epoch and each line once, the curves drawn."""
    expect(page.locator("#job-verdict")).to_contain_text(f"version {NEW} of digit-mlp")
    expect(page.locator("#job-loss circle")).to_have_count(2)
    expect(page.locator("#job-metric circle")).to_have_count(1)
    lines = page.locator("#job-log p").all_text_contents()
    assert len(lines) == len(set(lines)), "a line of the log came twice"
    expect(page.locator("#job-cancel")).to_be_hidden()
    assert not serious(page)
    with page.expect_popup() as opened:
        page.click("#job-verdict a[data-report]")
    expect(opened.value.locator("h1")).to_contain_text("digit-mlp")
    opened.value.close()


def check_canary_and_rollback(page):
    """Each change asks first; what is refused there changes nothing."""
    old = NEW - 1
    page.click(f'[data-action="rollback digit-mlp {NEW}"]')
    expect(page.locator("#confirm-title")).to_have_text("Roll digit-mlp back?")
    assert not serious(page)
    page.click("#confirm-no")
    expect(row(page, NEW)).to_contain_text("live")
    answer(page, "canary", "digit-mlp", old)
    expect(row(page, old)).to_contain_text("answers 10 %")
    expect(page.locator("#models-curl code")).to_contain_text('"percent":10,"mode":"split"')
    shoot(page, "models", whole=True)
    answer(page, "end", "digit-mlp", old)
    expect(row(page, old)).not_to_contain_text("answers")
    answer(page, "rollback", "digit-mlp", NEW)
    expect(page.locator("#models-notice")).to_have_text(f"Version {old} of digit-mlp is live.")
    expect(row(page, old)).to_contain_text("Runs onCPU")
    answer(page, "promote", "digit-mlp", NEW)
    expect(row(page, NEW).locator(".chip.succeeded")).to_have_text("live")


def test_a_job_is_cancelled_after_a_question_and_wrong_numbers_are_not_sent(tmp_path, chromium, data_dir):
    """The ranges of the recipe are checked in the page; a long job stops soon, and its end is told in words."""
    with serving(tmp_path) as server, visit(chromium, f"{server.url}/#train") as page:
        expect(page.locator("#train-epochs")).to_have_value("24")
        for field, wrong in (
            ("epochs", "0"),
            ("epochs", "1.5"),
            ("batch_size", "7"),
            ("learning_rate", "2"),
            ("seed", ""),
        ):
            good = page.input_value(f"#train-{field}")
            page.fill(f"#train-{field}", wrong)
            expect(page.locator("#train-go")).to_be_disabled()
            expect(page.locator(f"#train-{field}")).to_have_attribute("aria-invalid", "true")
            page.fill(f"#train-{field}", good)
            expect(page.locator("#train-go")).to_be_enabled()
        order(page, "cnn", 200)
        expect(page.locator("#job-status")).to_have_text("running", timeout=JOB_MS)
        page.click("#job-cancel")
        page.click("#confirm-no")
        expect(page.locator("#job-status")).to_have_text("running")
        expect(page.locator("#train-jobs .chip")).to_have_text(["running"])
        page.click("#job-cancel")
        page.click("#confirm-yes")
        asked = time.monotonic()
        expect(page.locator("#job-status")).to_have_text("cancelled")
        assert time.monotonic() - asked < 15
        expect(page.locator("#job-verdict")).to_have_text("It was cancelled. Nothing was published.")
        expect(page.locator("#train-jobs .chip")).to_have_text(["cancelled"])
        assert server.client.get("/train").json()["jobs"][0]["status"] == "cancelled"
