"""The report of a version over real HTTP."""

import re

import pytest

from models.store import Store
from tests.artifacts import digit_graph, draft, publish
from tests.service.test_train import serving

PAGE = "<!doctype html>\n<html lang='en'><title>digit-cnn: report</title><p>Ja, naïve</p></html>\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a service whose digit-cnn has a version with a report and one without."""
    state = tmp_path_factory.mktemp("reports")
    store = Store(state / "models")
    staged = store.stage()
    digit_graph(staged / "model.onnx", 1)
    (staged / "report").mkdir()
    (staged / "report" / "index.html").write_text(PAGE, "utf-8")
    assert store.publish(staged, draft()).version == 1
    assert publish(store) == 2
    with serving(state) as client:
        yield client


def test_the_report_is_served_as_it_was_published(client):
    """The page's own bytes, as UTF-8 HTML, hashed in the manifest."""
    answer = client.get("/models/digit-cnn/versions/1/report")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == PAGE.encode()


def test_a_report_can_be_asked_for_without_its_body(client):
    """HEAD has the headers of GET and no body, or the status of what is missing."""
    path = "/models/digit-cnn/versions/{}/report"
    told, shown = client.head(path.format(1)), client.get(path.format(1))
    assert (told.status_code, told.content) == (200, b"")
    same = ("content-length", "content-type", "etag", "content-security-policy")
    assert [told.headers[name] for name in same] == [shown.headers[name] for name in same]
    assert client.head(path.format(2)).status_code == 404


def test_a_browser_that_shows_a_report_runs_nothing_and_asks_no_other_host(client):
    """The page's policy allows inline styles and pictures inside the page, nothing else."""
    policy = client.get("/models/digit-cnn/versions/1/report").headers["content-security-policy"]
    assert re.split(r";\s*", policy) == ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("digit-cnn/versions/2", 404, "report_not_found"),
        ("digit-cnn/versions/9", 404, "version_not_found"),
        ("digit-gan/versions/1", 404, "model_not_found"),
        ("digit-cnn/versions/one", 422, "invalid_input"),
    ],
)
def test_a_report_that_is_not_there_is_a_problem_with_its_reason(client, path, status, code):
    """No report, no version, no model, no number."""
    answer = client.get(f"/models/{path}/report")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
