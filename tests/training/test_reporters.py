"""What a person and a worker hear of a training."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from models.jobs import JOB_EVENT, EpochRow, JobGate, JobGateCheck, JobModel, JobResult, Progress
from training.reporters import ConsoleReporter, ReporterHandler

ROOT = Path(__file__).resolve().parents[2]
ROW = EpochRow(epoch=2, train_loss=0.5, val_loss=0.25, val_metric=0.9, seconds=3.0)


def _result(passed: bool) -> JobResult:
    model = JobModel(name="digit-cnn", version=3, live=False) if passed else None
    return JobResult(model=model, metrics={"test": {"accuracy": 0.9}}, gate=JobGate(passed=passed, reasons=["so"]))


def test_without_a_terminal_each_epoch_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Logs get whole lines and no bars; steps alone say nothing for half a minute."""
    reporter = ConsoleReporter()
    reporter.step(Progress(epoch=2, epochs=5, step=1, steps=10, eta_s=3700))
    reporter.epoch(ROW, stopped_early=True)
    reporter.done(_result(passed=True))
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        "epoch 2/5: train loss 0.5000, validation loss 0.2500, validation metric 0.9000, 3.0 s",
        "stopped early: the validation split has not improved for a while",
        "gate: so",
        "test: accuracy 0.9000",
        "digit-cnn version 3 is published, not live",
    ]


def test_a_verdict_tells_failed_checks_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each check, with the outcome in a word."""
    checks = [
        JobGateCheck(name="reference", passed=False, detail="the loss is higher"),
        JobGateCheck(name="size", passed=True, detail="its files are small"),
    ]
    gate = JobGate(passed=False, reasons=[check.detail for check in checks], checks=checks)
    ConsoleReporter().done(JobResult(model=None, metrics={}, gate=gate))
    assert capsys.readouterr().out.splitlines() == [
        "gate: FAILED: the loss is higher",
        "gate: passed: its files are small",
        "refused by the gate: nothing was published",
    ]


def test_a_long_epoch_tells_the_time_left_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 30 s a line with the step and what is left."""
    clock = iter(float(second) for second in range(0, 1000, 20))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    reporter = ConsoleReporter()
    for step in range(1, 4):
        reporter.step(Progress(epoch=1, epochs=5, step=step, steps=10, eta_s=3700.0))
    assert capsys.readouterr().out == "epoch 1/5: step 2/10, 1:01:40 left in all\n"


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real pseudo-terminal the bar shows epoch, steps and the time left, and goes when the epoch ends."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    os.set_blocking(master, False)
    with os.fdopen(slave, "w", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        reporter = ConsoleReporter()
        for step in (1, 10):
            reporter.step(Progress(epoch=1, epochs=5, step=step, steps=10, eta_s=75.0))
        reporter.epoch(ROW, stopped_early=False)
        seen = os.read(master, 65536).decode()
    os.close(master)
    assert "epoch 1/5, 1:15 left in all" in seen
    assert "/10 " in seen


def test_a_refusal_and_an_error_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal says that nothing was published; errors go to standard error."""
    reporter = ConsoleReporter()
    reporter.done(_result(passed=False))
    reporter.error("no luck")
    said = capsys.readouterr()
    assert said.out.endswith("refused by the gate: nothing was published\n")
    assert said.err == "error: no luck\n"


def test_the_packages_log_reaches_the_reporter(capsys: pytest.CaptureFixture[str]) -> None:
    """Downloads are logged; the handler hands them on, formatted."""
    log = logging.getLogger("training.test")
    handler = ReporterHandler(ConsoleReporter())
    log.addHandler(handler)
    log.warning("half of %s", "it")
    log.removeHandler(handler)
    assert capsys.readouterr().out == "half of it\n"


def test_events_have_standard_output_to_themselves() -> None:
    """Prints of Python and of C code end on standard error; progress is told at most twice a second."""
    script = (
        "import os\n"
        "from models.jobs import Progress\n"
        "from training.reporters import EventReporter\n"
        "r = EventReporter()\n"
        "print('a chatty library', flush=True)\n"
        "os.system('echo a chatty tool')\n"
        "for step in range(1, 200):\n"
        "    r.step(Progress(epoch=1, epochs=1, step=step, steps=1000))\n"
        "r.log('hello')\n"
        "r.error('sorry')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True, text=True)
    events = [JOB_EVENT.validate_json(line) for line in ended.stdout.splitlines()]
    assert [event.type for event in events] == ["progress", "log", "error"]
    assert ended.stderr == "a chatty library\na chatty tool\n"


def test_events_nobody_reads_end_the_run() -> None:
    """When the listener is gone the child goes as well, quietly."""
    script = (
        "import sys\n"
        "from training.reporters import EventReporter\n"
        "r = EventReporter()\n"
        "sys.stdin.readline()\n"
        "while True:\n"
        "    r.log('hello')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdout.close()
        child.stdin.write(b"go\n")
        child.stdin.flush()
        assert child.wait(20) == 1
        assert child.stderr.read() == b""
