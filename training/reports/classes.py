"""Where a classifier is right, where it is wrong, and whether its confidence can be believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.reports.answers import Answers, Array
from training.reports.html import Html, details, figure, grid, join, paragraph, section, side_by_side, table, tag
from training.reports.mistakes import mistakes
from training.reports.svg import Axis, Chart, plain
from training.reports.words import percent, round_percent

BINS = 15
_PAIRS = 3


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence is in [low, high): how many, their mean confidence, the share that is right."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


def draw(answers: Answers) -> Html:
    """Confusion, reliability and the worst mistakes; `probabilities` [rows, classes] against `targets` [rows]."""
    probabilities, targets = answers.outputs["probabilities"], answers.targets.astype(np.int64)
    labels, guesses = answers.manifest.labels, probabilities.argmax(1)
    counts = confusion(targets, guesses, len(labels))
    return join(
        [
            section(
                "What is taken for what",
                paragraph(_pairs(counts, labels)),
                side_by_side([_matrix(counts, labels), _by_class(counts, labels)]),
            ),
            _reliability(reliability(probabilities, targets)),
            mistakes(answers, probabilities, targets),
        ],
        "\n",
    )


def confusion(targets: NDArray[np.int64], guesses: Array, classes: int) -> NDArray[np.int64]:
    """Counts [truth, answer]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (targets, guesses), 1)
    return counts


def reliability(probabilities: Array, targets: Array) -> list[Bin]:
    """15 equal bins of confidence, empty ones too (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""
    confidence = probabilities.astype(np.float64).max(1)
    right = probabilities.argmax(1) == targets
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = []
    for number in range(BINS):
        here = places == number
        rows = int(here.sum())
        bins.append(
            Bin(
                number / BINS,
                (number + 1) / BINS,
                rows,
                float(confidence[here].mean()) if rows else 0.0,
                float(right[here].mean()) if rows else 0.0,
            )
        )
    return bins


def calibration_error(bins: list[Bin]) -> float:
    """The gap between confidence and accuracy, averaged over all answers."""
    total = sum(each.rows for each in bins)
    return sum(each.rows * abs(each.accuracy - each.confidence) for each in bins) / total


def _pairs(counts: NDArray[np.int64], labels: list[str]) -> str:
    """The most frequent mistakes, in words."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    total, right = int(counts.sum()), int(counts.trace())
    said = f"{right:,} of the {total:,} test rows are answered rightly, {total - right:,} wrongly."
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [(int(place) // len(labels), int(place) % len(labels)) for place in order]
    told = [
        f"{labels[one]} taken for {labels[other]} ({wrong[one, other]})" for one, other in pairs if wrong[one, other]
    ]
    return f"{said} The most frequent mistakes: {', '.join(told)}." if told else said


def _matrix(counts: NDArray[np.int64], labels: list[str]) -> Html:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    most = max(int(wrong.max()), 1)
    rows = []
    for truth, line in enumerate(counts):
        cells = [labels[truth]]
        for answer, count in enumerate(line):
            if truth == answer:
                cells.append(
                    tag("td", f"{count}", class_="right", style=f"--w:{0.12 + 0.3 * count / counts.max():.2f}")
                )
            elif count:
                cells.append(tag("td", f"{count}", class_="wrong", style=f"--w:{0.08 + 0.5 * count / most:.2f}"))
            else:
                cells.append(tag("td", "·", class_="soft"))
        rows.append(cells)
    return table(
        "Confusion matrix of the test split: a line for each truth, a column for each answer, counts in the cells. "
        "Right answers are on the diagonal.",
        ["truth \\ answer", *labels],
        rows,
        "matrix",
    )


def _by_class(counts: NDArray[np.int64], labels: list[str]) -> Html:
    rows = []
    for number, label in enumerate(labels):
        truths, said, right = counts[number].sum(), counts[:, number].sum(), counts[number, number]
        rows.append([label, f"{truths:,}", f"{said:,}", _ratio(right, truths), _ratio(right, said)])
    return table(
        "By class. Recall: the share of this class that is recognised. Precision: the share of answers with this "
        "label that are right.",
        ["class", "rows", "answers", "recall", "precision"],
        rows,
    )


def _ratio(part: np.int64, whole: np.int64) -> str:
    return percent(part / whole, 2) if whole else "none"


def _reliability(bins: list[Bin]) -> Html:
    error = calibration_error(bins)
    rows = [
        [
            f"{each.low * 100:.1f} to {percent(each.high)}",
            f"{each.rows:,}",
            percent(each.confidence) if each.rows else "",
            percent(each.accuracy) if each.rows else "",
        ]
        for each in bins
    ]
    return section(
        "Can its confidence be believed?",
        paragraph(
            "The confidence of an answer is the probability that the network gives to it. Of all answers given with "
            "90 % confidence, nine in ten should be right. The expected calibration error, the distance from that in "
            f"{BINS} bins, averaged over all answers, is {percent(error, 2)} on the test split."
        ),
        grid([_diagram(bins, error), _histogram(bins)]),
        details(
            "The bins as a table",
            table(f"{BINS} bins of confidence.", ["confidence", "answers", "mean", "right"], rows),
        ),
    )


def _shares(label: str) -> Axis:
    return Axis(0.0, 1.0, label, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], round_percent)


def _diagram(bins: list[Bin], error: float) -> Html:
    chart = Chart(_shares("confidence"), _shares("answers that are right"))
    for each in bins:
        if each.rows:
            chart.bar(each.low + 0.004, each.high - 0.004, each.accuracy)
    chart.line([0.0, 1.0], [0.0, 1.0], "d")
    for each in bins:
        if each.rows:
            chart.dot(each.confidence, each.accuracy, "a")
    filled = [each for each in bins if each.rows]
    least, surest = filled[0], filled[-1]
    alt = (
        f"Share of right answers in {len(filled)} filled bins of confidence, from {percent(least.accuracy)} right at a "
        f"mean confidence of {percent(least.confidence)} to {percent(surest.accuracy)} right at "
        f"{percent(surest.confidence)}; the calibration error is {percent(error, 2)}."
    )
    note = "Dots on the dotted line would be perfect; below it the network is too sure, above it too modest."
    keys = [("bar", "share that is right"), ("d", "confidence = share that is right")]
    return figure("Reliability", chart.svg(alt), note, keys)


def _histogram(bins: list[Bin]) -> Html:
    most = max(each.rows for each in bins)
    top = max(1, int(np.ceil(np.log10(most))))
    up = Axis(-0.3, float(top), "answers", [float(power) for power in range(top + 1)], lambda power: plain(10**power))
    chart = Chart(_shares("confidence"), up)
    for each in bins:
        if each.rows:
            chart.bar(each.low + 0.004, each.high - 0.004, float(np.log10(each.rows)))
    total = sum(each.rows for each in bins)
    alt = f"{bins[-1].rows:,} of {total:,} answers have a confidence above {percent(bins[-1].low)}."
    note = f"{alt} Each line of the scale is ten times the one below it."
    return figure("How many answers are how sure", chart.svg(alt), note)
