"""The report of a version: what it counts, what it shows, and that the page is whole and stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from models.manifest import Manifest, file_entry
from models.store import Store
from training import classify, pipeline, report
from training.datasets import ag_news
from training.registry import get_task
from training.reports import classes, html, mistakes, series, svg
from training.reports.answers import Answers
from training.reports.words import percent
from training.tasks.base import Split

ZOO = Store(Path(__file__).resolve().parents[2] / "models" / "zoo")
MOST_BYTES = 250_000
_ALONE = {"meta", "img", "br", "path", "circle", "rect"}


class _Reader(HTMLParser):
    """Collects elements and insists that every one is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _ALONE:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


def _version(name: str) -> tuple[Path, Manifest]:
    live = ZOO.live(name)
    assert live is not None
    return ZOO.folder(name, live), ZOO.manifest(name, live)


def _texts(data_dir: Path, folder: Path, rows: int) -> Split:
    """The first test articles as the shipped tokenizer reads them."""
    articles = ag_news.read_csv(data_dir / "ag_news" / "test.csv.gz")[:rows]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [found.ids[:256] for found in tokenizer.encode_batch([each.text for each in articles])]
    token_ids = torch.zeros(rows, max(map(len, ids)), dtype=torch.int64)
    for row, each in enumerate(ids):
        token_ids[row, : len(each)] = torch.tensor(each)
    return Split({"token_ids": token_ids}, torch.tensor([each.label for each in articles]))


def _answers(name: str, data_dir: Path, rows: int) -> Answers:
    """What a shipped version answers to the first rows of its test split."""
    folder, manifest = _version(name)
    task = get_task(manifest.task)
    if manifest.kind == "text":
        split = _texts(data_dir, folder, rows)
    else:
        whole = task.load(data_dir, 0).test
        split = Split({key: values[:rows] for key, values in whole.inputs.items()}, whole.targets[:rows])
    outputs = pipeline.outputs(task, folder / manifest.model_file, split)
    return Answers(
        manifest,
        {key: values.numpy() for key, values in split.inputs.items()},
        split.targets.numpy(),
        {key: values.numpy() for key, values in outputs.items()},
        folder,
    )


@pytest.fixture(scope="module", name="answered")
def _answered(data_dir: Path) -> dict[str, Answers]:
    rows = {"digit-mlp": 4000, "forecast-lstm": 400, "topic-transformer": 300}
    return {name: _answers(name, data_dir, count) for name, count in rows.items()}


@pytest.fixture(name="answers", params=["digit-mlp", "forecast-lstm", "topic-transformer"])
def _one(request: pytest.FixtureRequest, answered: dict[str, Answers]) -> Answers:
    return answered[request.param]


def _page(answers: Answers) -> str:
    return report.render(answers, get_task(answers.manifest.task).recipe)


def test_the_page_stands_alone(answers: Answers) -> None:
    """Well nested, small, no script, no link, no picture from elsewhere, no place of this machine."""
    page = _page(answers)
    read = _Reader(page)
    assert len(page.encode()) <= MOST_BYTES
    assert not {name for name, _ in read.found} & {"script", "link", "iframe", "object", "form"}
    for _, attributes in read.found:
        assert not any(name.startswith("on") or name in {"href", "srcset"} for name in attributes)
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?://", page)
    assert str(answers.folder) not in page
    assert str(Path.home()) + "/" not in page


def test_every_picture_says_in_words_what_it_shows(answers: Answers) -> None:
    """Charts and images have alternative texts that no two share; tables have captions and headed rows and columns."""
    read = _Reader(_page(answers))
    alts = [each["alt"] for each in read.all("img")]
    for chart in read.all("svg"):
        assert chart["role"] == "img"
        alts.append(chart["aria-label"])
    assert len(alts) >= 4
    assert all(len(alt) > 20 and "nan" not in alt for alt in alts)
    assert len(set(alts)) == len(alts)
    assert len(read.all("caption")) == len(read.all("table")) >= 5
    assert {each["scope"] for each in read.all("th")} == {"row", "col"}


def test_the_same_answers_give_the_same_bytes(answers: Answers, tmp_path: Path) -> None:
    """Nothing of the moment is in the page, and drawing it for a version that has one changes nothing."""
    (tmp_path / "index.html").write_text(_page(answers), "utf-8")
    files = answers.manifest.files | {report.PAGE: file_entry(tmp_path / "index.html")}
    manifest = answers.manifest.model_copy(update={"files": files})
    again = Answers(manifest, answers.inputs, answers.targets, answers.outputs, answers.folder)
    assert _page(again) == _page(answers)


def test_the_page_says_how_the_version_came_to_be(answers: Answers) -> None:
    """Command, data with licences, test figures and weights are to be read on it."""
    page, manifest = html.text(_page(answers)).replace("&amp;", "&"), answers.manifest
    assert manifest.provenance.command in page
    for file in manifest.provenance.data:
        assert file.file in page
        assert file.sha256[:12] in page
        assert str(html.text(file.licence)) in page
    assert f"{manifest.provenance.weights:,}" in page
    metric = manifest.metrics["test"].get("accuracy")
    assert (percent(metric, 2) if metric else f"{manifest.metrics['test']['mse']:.4f}") in page


def test_the_bins_give_the_calibration_error_of_the_manifest(answered: dict[str, Answers]) -> None:
    """The diagram and the figure beside it are about the same thing."""
    answers = answered["digit-mlp"]
    probabilities = answers.outputs["probabilities"]
    bins = classes.reliability(probabilities, answers.targets)
    assert sum(each.rows for each in bins) == len(answers.targets)
    expected = classify.calibration_error(torch.from_numpy(probabilities), torch.from_numpy(answers.targets))
    assert classes.calibration_error(bins) == pytest.approx(expected, abs=1e-9)


def test_the_confusion_matrix_counts_every_row_once() -> None:
    """Truths are lines, answers are columns."""
    counts = classes.confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_the_worst_mistakes_come_first() -> None:
    """Only wrong answers, the surest first, the lower row first among equals, no more than asked for."""
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])
    targets = np.array([0, 0, 0, 0, 1])
    assert mistakes.worst(probabilities, targets, 3).tolist() == [1, 3, 2]
    assert mistakes.worst(probabilities, np.array([0, 1, 1, 1, 0]), 3).tolist() == []


def test_each_mistake_is_shown_with_truth_answer_and_confidence(answered: dict[str, Answers]) -> None:
    """The first picture is the surest wrong answer; texts are words again."""
    answers = answered["digit-mlp"]
    probabilities = answers.outputs["probabilities"]
    row = int(mistakes.worst(probabilities, answers.targets, 1)[0])
    guess, truth = int(probabilities[row].argmax()), int(answers.targets[row])
    first = _Reader(_page(answers)).all("img")[0]
    assert first["alt"] == f"Test picture {row}: a {truth} that was taken for a {guess}"
    assert f"says <b>{guess}</b> ({percent(probabilities[row, guess])})" in _page(answers)
    texts = re.findall(r"<p>([^<]{60,})</p></li>", _page(answered["topic-transformer"]))
    assert texts
    assert all(" the " in text or " a " in text or " in " in text for text in texts[:3])
    assert not any("##" in text for text in texts)


def test_without_a_mistake_the_page_says_so(answered: dict[str, Answers]) -> None:
    """A perfect classifier has a report too."""
    answers = answered["digit-mlp"]
    perfect = np.full((len(answers.targets), 10), 0.001, np.float32)
    perfect[np.arange(len(answers.targets)), answers.targets] = 0.991
    page = _page(Answers(answers.manifest, answers.inputs, answers.targets, {"probabilities": perfect}, answers.folder))
    assert "every test row is answered rightly" in page
    assert not _Reader(page).all("img")


def test_a_run_of_one_epoch_and_one_without_history_have_reports(answered: dict[str, Answers]) -> None:
    """A lone epoch is a dot; without a history there are no curves."""
    answers = answered["digit-mlp"]
    for epochs, charts in ((1, 4), (0, 2)):
        made = answers.manifest.provenance
        settings = made.settings | {"best_epoch": epochs}
        made = made.model_copy(update={"history": made.history[:epochs], "epochs_run": epochs, "settings": settings})
        manifest = answers.manifest.model_copy(update={"provenance": made})
        page = _page(Answers(manifest, answers.inputs, answers.targets, answers.outputs, answers.folder))
        assert len(_Reader(page).all("svg")) == charts


def test_the_windows_are_forecasts_from_the_full_past(answered: dict[str, Answers]) -> None:
    """Six spread over the rows with a full past and the worst; the last value is the step before the truth."""
    answers = answered["forecast-lstm"]
    found = series.read(answers)
    assert (answers.inputs["lengths"] == found.spec.look_back).sum() == len(found.truth)
    assert found.last[24, 0] == found.truth[23, 0]
    assert found.hours[1] == (found.hours[0] + 1) % 168
    rows = series.chosen(found)
    assert len(rows) == 6
    assert max(np.diff(rows)) - min(np.diff(rows)) <= 1
    page = _page(answers)
    assert page.count("The worst: ") == 2  # title and alternative text
    assert len(_Reader(page).all("svg")) == 11


def test_no_word_of_the_data_becomes_markup() -> None:
    """Text is escaped in tables, paragraphs and attributes."""
    nasty = '<b onclick="x">&'
    made = html.join(
        [html.paragraph(nasty), html.table(nasty, [nasty], [[nasty, nasty]]), html.image("data:,", nasty, 1)]
    )
    assert "<b" not in made
    assert made.count("&lt;b onclick=&quot;x&quot;&gt;&amp;") == 6
    assert html.text(html.text(nasty)) == html.text(nasty)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.9712, 0.9934], [-3.0, 17.0], [2.0, 2.0], [0.0, 0.0], [1e-5, 3e-5]])
def test_an_axis_holds_its_values_between_round_marks(values: list[float]) -> None:
    """Two to nine marks, evenly spaced, ends outside the values."""
    made = svg.axis(values, "")
    assert made.low <= min(values) <= max(values) <= made.high
    assert made.low < made.high
    assert 2 <= len(made.marks) <= 9
    np.testing.assert_allclose(np.diff(made.marks), made.marks[1] - made.marks[0], rtol=1e-6)
