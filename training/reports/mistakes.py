"""The wrong answers that a classifier was surest of: pictures as pictures, texts as texts."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders

from training.reports.answers import Answers, Array
from training.reports.html import Html, image, join, paragraph, section, tag
from training.reports.words import percent

PICTURES, TEXTS = 24, 15
_LONGEST = 420
_Show = Callable[[Array, int, str, str, Html], Html]


def mistakes(answers: Answers, probabilities: Array, targets: NDArray[np.int64]) -> Html:
    """Up to 24 pictures or 15 texts."""
    pictures = answers.manifest.kind == "image"
    rows = worst(probabilities, targets, PICTURES if pictures else TEXTS)
    if not len(rows):
        return section("The worst mistakes", paragraph("There are none: every test row is answered rightly."))
    labels = answers.manifest.labels
    first = answers.inputs[answers.manifest.inputs[0].name]
    show: _Show = _picture if pictures else _Texts(answers).show
    items = []
    for row in rows:
        guess, truth = int(probabilities[row].argmax()), int(targets[row])
        given = _verdict("says", labels[guess], probabilities[row, guess], ",")
        said = join([given, " ", _verdict("is", labels[truth], probabilities[row, truth], "")])
        items.append(tag("li", show(first[row], int(row), labels[truth], labels[guess], said)))
    told = "test row, the answer with its confidence, and the truth with the probability that was left for it"
    apart = "" if pictures else " The words are as the tokenizer reads them: in small letters, signs apart."
    return section(
        "The worst mistakes",
        paragraph(f"The {len(items)} wrong answers that were given with the highest confidence: {told}.{apart}"),
        tag("ul", join(items), class_=f"mistakes {'pictures' if pictures else 'texts'}"),
    )


def worst(probabilities: Array, targets: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The rows answered wrongly with the highest confidence, surest first; a tie goes to the lower row."""
    wrong = np.flatnonzero(probabilities.argmax(1) != targets)
    order = np.argsort(-probabilities[wrong].max(1), kind="stable")
    return wrong[order][:count].astype(np.int64)


def _verdict(verb: str, label: str, probability: float, end: str) -> Html:
    words = [f"{verb} ", tag("b", label), f" ({percent(probability)}){end}"]
    return tag("span", join(words), class_="whole")


def _picture(pixels: Array, row: int, truth: str, guess: str, said: Html) -> Html:
    packed = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(packed, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"
    alt = f"Test picture {row}: a {truth} that was taken for a {guess}"
    return join([image(source, alt, 112), said, Html("<br>"), tag("span", f"row {row}", class_="row")])


class _Texts:
    """Token ids back to words."""

    def __init__(self, answers: Answers) -> None:
        text = answers.manifest.text
        if text is None:
            raise ValueError("a text model's manifest has no `text`")
        self._pad = text.pad_id
        self._tokenizer = Tokenizer.from_file(str(answers.folder / text.tokenizer))
        if self._tokenizer.decoder is None:
            self._tokenizer.decoder = decoders.WordPiece()

    def show(self, token_ids: Array, row: int, truth: str, guess: str, said: Html) -> Html:  # noqa: ARG002 (as `_picture`)
        words: str = self._tokenizer.decode([int(each) for each in token_ids if each != self._pad])
        if len(words) > _LONGEST:
            words = f"{words[:_LONGEST].rpartition(' ')[0]} …"
        return join([said, " ", tag("span", f"row {row}", class_="row"), tag("p", words)])
