"""AG News: headlines and first sentences in four classes, the frozen split of them, and the tokenizer made from them.

The corpus is A. Gulli's, the benchmark that of X. Zhang, J. Zhao and Y. LeCun ("Character-level Convolutional Networks
for Text Classification", NIPS 2015). A folder that holds `train_subset.csv.gz` (30,020 of the 120,000 official rows)
is trained on with these, any other gets the official file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from models.manifest import DataFile
from training.datasets.files import DataDamagedError, RemoteFile, cache_root, fetch

FOLDER = "ag_news"
LICENCE = "no formal licence; given to the academic community for research and other non-commercial use"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]
VALIDATION_SHARE = 20
"""One training row in so many is a validation row; its text alone decides, so no seed or file order moves it."""

PAD, UNKNOWN = "[PAD]", "[UNK]"
_LONGEST_WORD = 40
# Many small patterns, as each that begins with a fixed sign costs next to nothing and one with branches does not.
_REPLACED = [
    ("&amp;", "&"),
    (r"\bamp;", "&"),
    (r"&lt;[^&<>]{0,200}&gt;", " "),
    (r"<[^<>]{0,200}>", " "),
    ("&?#39;", "'"),
    ("&?#14[56];", "'"),
    ("&?#821[67];", "'"),
    ("‘", "'"),
    ("’", "'"),
    ("&quot;", '"'),
    (r"\bquot;", '"'),
    ("&?#14[78];", '"'),
    ("&?#822[01];", '"'),
    ("“", '"'),
    ("”", '"'),
    ("&?#36;", "$"),
    ("&?#151;", "-"),
    ("&?#821[12];", "-"),
    ("–", "-"),
    ("—", "-"),
    ("&?nbsp;", " "),
    (r"[\x00-\x1f\\]", " "),  # the corpus writes a line break as a backslash
    ("[\u00ad\u200b-\u200f\ufeff]", ""),
]
_LOG = logging.getLogger(__name__)

# The same bytes that torchtext's loader knows by their md5, at a revision that cannot change.
_MIRRORS = (
    "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/555590db4219b1243abb1918effd6a7425a2d75f/data/ag_news_csv/",
    "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/",
)


def _official(name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(name, sha256, size, tuple(mirror + name for mirror in _MIRRORS))


def _packed(name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(name, sha256, size, ())


TRAIN = _official("train.csv", 29470338, "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e")
TEST = _official("test.csv", 1857427, "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699")
TRAIN_SUBSET = _packed(
    "train_subset.csv.gz", 3050779, "6591bc1ede4bc6ec5d023e2149e69f11acb4ecf0ecff6a3dde0e88b8e7700094"
)
TEST_PACKED = _packed("test.csv.gz", 748824, "3c277beb6ce3dd635407635cb90a7c5ceaf87168fabb3be218e39aa2b097f706")


@dataclass(frozen=True)
class Article:
    """One row; `label` is its place in LABELS."""

    label: int
    title: str
    description: str

    @property
    def text(self) -> str:
        """What the classifier reads. The title is a prefix of it, in characters and in tokens."""
        return f"{self.title} {self.description}"

    @property
    def held_out(self) -> bool:
        """Whether the row, if it is a training row, belongs to the validation split."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return int.from_bytes(digest[:8], "big") % VALIDATION_SHARE == 0


@dataclass(frozen=True)
class AgNews:
    """The three splits and the files they come from."""

    train: list[Article]
    validation: list[Article]
    test: list[Article]
    sources: list[DataFile]


def read(data_dir: Path) -> AgNews:
    """The splits from `data_dir/ag_news`, downloaded if there are none; errors are those of `files.fetch`."""
    folder = data_dir / FOLDER
    train = _choose(folder, [TRAIN_SUBSET, TRAIN])
    test = _choose(folder, [TEST_PACKED, TEST])
    rows = read_csv(fetch(folder, train, _LOG.info))
    return AgNews(
        train=[row for row in rows if not row.held_out],
        validation=[row for row in rows if row.held_out],
        test=read_csv(fetch(folder, test, _LOG.info)),
        sources=[DataFile(file=f"{FOLDER}/{file.name}", sha256=file.sha256, licence=LICENCE) for file in (train, test)],
    )


def read_csv(path: Path) -> list[Article]:
    """The rows of a file, packed or not: class 1..4, title, description, no header."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    articles = []
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
        if len(row) != 3 or row[0] not in {"1", "2", "3", "4"}:
            raise DataDamagedError(f"{path}: row {number} is not a class 1 to 4, a title and a description")
        articles.append(Article(int(row[0]) - 1, row[1], row[2]))
    return articles


def _choose(folder: Path, files: list[RemoteFile]) -> RemoteFile:
    """The first file that is there, else the last, which can be downloaded."""
    places = [folder, cache_root() / folder.name]
    return next((file for file in files if any((place / file.name).is_file() for place in places)), files[-1])


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A WordPiece tokenizer with at most `vocabulary` entries, its normalisation inside; [PAD] is 0, [UNK] is 1.

    The pieces are those byte-pair encoding finds (Sennrich et al., ACL 2016), as the library's WordPiece trainer
    breaks ties by chance and this one does not. The special words are mere entries: a text that holds "[PAD]" does
    not become one.
    """
    learner = Tokenizer(models.BPE(unk_token=UNKNOWN))
    learner.normalizer = _normalizer()
    mark = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), mark])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        limit_alphabet=100,
        special_tokens=[PAD, UNKNOWN],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    pieces = _pieces(learner.get_vocab(), mark.replacement)
    model = models.WordPiece(pieces, unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _pieces(learned: dict[str, int], mark: str) -> dict[str, int]:
    """WordPiece's entries from byte-pair encoding's: a marked piece begins a word, any other goes on with one."""
    entries = {PAD: 0, UNKNOWN: 1}
    for piece in sorted(learned, key=learned.__getitem__)[2:]:
        names = [piece.removeprefix(mark)] if piece.startswith(mark) else [f"##{piece}"]
        if len(piece) == 1 and piece != mark:
            names.append(piece)  # a lone letter or sign may also begin a word
        for name in filter(None, names):
            entries.setdefault(name, len(entries))
    return entries


def _normalizer() -> normalizers.Normalizer:
    """Undoes the markup of the corpus (its entities often lack their `&`) and levels case, accents and signs."""
    levelled = [normalizers.Replace(Regex(pattern), to) for pattern, to in _REPLACED]
    return normalizers.Sequence([*levelled, normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
