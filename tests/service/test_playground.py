"""The pages for people as files: how they are served, what a browser may do with them, and what they must not hold."""

import gzip
import json
import re

import pytest

from service.routes.playground import FILES, TYPES
from tests.service import sample_series

MOST_BYTES = 300_000
OUTSIDE = re.compile(r"(?:https?:)?//[a-z0-9-]+(?:\.[a-z0-9-]+)+", re.IGNORECASE)
NAMESPACE = "http://www.w3.org/2000/svg"
SCRIPTS = sorted(FILES.glob("*.js"))
PAGES = ("/", "/docs", "/redoc")


def parts():
    return sorted(path.name for path in FILES.iterdir())


def policy(answer):
    rules = (rule.split() for rule in answer.headers["content-security-policy"].split(";"))
    return {name: values for name, *values in rules}


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", *(f"/playground/{name}" for name in parts())])
def test_every_part_is_served_with_its_type_and_tag(service, path):
    """GET and HEAD, compressed where it is asked for, not again when it is known; nothing is guessed or told on."""
    whole = service.client.get(path, headers={"Accept-Encoding": "identity"})
    suffix = "." + path.rpartition(".")[2] if "." in path else ".html"
    assert whole.status_code == 200
    assert whole.headers["content-type"] == TYPES[suffix]
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["referrer-policy"] == "no-referrer"
    assert whole.headers["cache-control"] == "no-cache"
    told = service.client.head(path, headers={"Accept-Encoding": "identity"})
    assert (told.status_code, told.content) == (200, b"")
    assert told.headers["content-length"] == str(len(whole.content))
    known = service.client.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    plain = service.client.get(path, headers={"Accept-Encoding": "br, gzip;q=0"})
    assert "content-encoding" not in plain.headers
    with service.client.stream("GET", path, headers={"Accept-Encoding": "br, gzip;q=0.5"}) as zipped:
        assert gzip.decompress(b"".join(zipped.iter_raw())) == whole.content


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fsettings.py", "%2e%2e/app.py", "index.html%00", ""])
def test_only_the_pages_own_files_are_served(service, name):
    """No other file, whatever the path looks like."""
    answer = service.client.get(f"/playground/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_playground_may_run_its_own_scripts_and_nothing_else(service):
    """Everything is forbidden but this service; no inline script, no eval, no text as markup."""
    rules = policy(service.client.get("/"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == ["'self'"]
    assert rules["require-trusted-types-for"] == ["'script'"]


@pytest.mark.parametrize("path", PAGES)
def test_no_page_may_run_an_inline_script_or_ask_another_host(service, path):
    """Also the documentation pages, whose libraries write styles of their own."""
    answer = service.client.get(path)
    rules = policy(answer)
    assert rules["default-src"] == ["'none'"]
    assert rules["script-src"] == rules["connect-src"] == ["'self'"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=|style=|javascript:", answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_everything_a_page_names_is_there(service, path):
    """Scripts, styles and icons, by addresses that also work behind a prefix."""
    named = re.findall(r'(?:src|href)="((?:playground|docs)/[^"]+)"', service.client.get(path).text)
    assert len(named) > 3
    for each in named:
        assert service.client.get(f"/{each}").status_code == 200, each


def test_no_file_of_the_playground_names_another_host():
    """The only address is the name of SVG."""
    for path in FILES.iterdir():
        found = {each for each in OUTSIDE.findall(path.read_text("utf-8")) if each not in NAMESPACE}
        assert not found, path.name


def test_what_redoc_would_fetch_from_elsewhere_is_here(service):
    """Its logo is replaced; Swagger UI is told to validate nowhere."""
    assert b"cdn.redoc.ly" not in service.client.get("/docs/static/redoc.standalone.js").content
    assert "validatorUrl: null" in (FILES / "docs.js").read_text("utf-8")


def test_the_playground_is_small():
    """Everything together, as it lies in the folder."""
    assert sum(path.stat().st_size for path in FILES.iterdir()) < MOST_BYTES


def test_its_files_stay_short():
    """At most 300 lines, as everywhere in this project; the sample is data."""
    for path in FILES.iterdir():
        assert path.suffix == ".csv" or path.read_text("utf-8").count("\n") <= 300, path.name


def test_no_text_becomes_markup_or_code():
    """The scripts use none of the ways to turn a string into elements or into a program."""
    for path in SCRIPTS:
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", path.read_text("utf-8")
        )
        assert not found, path.name


def test_every_file_is_our_own_work():
    """Nothing was copied in: no notice of another's copyright, which would need its licence beside it."""
    for path in FILES.iterdir():
        assert not re.search(r"copyright|@license|licen[cs]ed under", path.read_text("utf-8"), re.IGNORECASE), path.name


def test_every_module_is_loaded_at_once():
    """index.html preloads what main.js imports, so that the page does not wait for one after the other."""
    index = (FILES / "index.html").read_text("utf-8")
    told = set(re.findall(r'rel="modulepreload" href="playground/([\w.]+)"', index))
    imported = {name for path in SCRIPTS for name in re.findall(r'from "\./([\w.]+)"', path.read_text("utf-8"))}
    assert told == imported


def test_every_word_of_the_page_has_its_chinese():
    """The English in index.html, and what the scripts say by themselves, with the same values in both."""
    chinese = words()
    index = (FILES / "index.html").read_text("utf-8")
    english = {re.sub(r"\s+", " ", each) for each in re.findall(r"\bdata-t>([^<]+)<", index)}
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        english |= set(re.findall(r'\b(?:t|say)\(\s*"([^"]+)"', text))
        english |= set(re.findall(r'\b(?:t|tLabel|title|text|yes|word):\s+\[?\s*"([A-Z][^"]+)"', text))
        english |= set(re.findall(r'\bconst (?:forced|good|waiting|text) =\s+"([^"]+)"', text))
    assert len(english) > 90
    assert english - chinese.keys() == set()
    for key, value in chinese.items():
        assert set(re.findall(r"\{\w+\}", key)) == set(re.findall(r"\{\w+\}", value)), key


def words():
    """`zh.js` as a dictionary: it is JSON but for its comments and last comma."""
    text = (FILES / "zh.js").read_text("utf-8").partition("export default ")[2].rstrip().rstrip(";")
    text = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    return json.loads(re.sub(r",\s*\}$", "}", text))


def test_the_sample_is_made_up_and_answered(service):
    """The shipped series is what its maker makes, in the form that the forecast model takes."""
    text = sample_series.PATH.read_text("utf-8")
    assert text == sample_series.make()
    rows = [line.split(",") for line in text.splitlines()[1:]]
    values = [[float(cell) for cell in row[1:]] for row in rows[:-24]]
    body = {"values": values, "start": rows[0][0].replace(" ", "T")}
    answer = service.client.post("/predict/sequence", json=body).json()
    truth = [float(row[-1]) for row in rows[-24:]]
    assert [time.replace("T", " ") for time in answer["times"]] == [row[0] for row in rows[-24:]]
    held = [low <= value <= high for low, value, high in zip(answer["lower"], truth, answer["upper"], strict=True)]
    assert sum(held) >= 12
