"""What `/docs` says of answers: examples that are such answers, and errors that are such errors."""

import numpy as np
import pytest
from pydantic import TypeAdapter

from service import schemas

ANSWERS = {
    "/predict/digit": schemas.DigitPrediction,
    "/predict/digit/batch": schemas.DigitPredictions,
    "/predict/sequence": schemas.TopicPrediction | schemas.ForecastPrediction,
    "/predict/sequence/batch": schemas.SequencePredictions,
}


@pytest.fixture(scope="module")
def document(service):
    return service.client.get("/openapi.json").json()


def answers(document, path):
    shown = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["examples"]
    return {name: each["value"] for name, each in shown.items()}


@pytest.mark.parametrize("path", ANSWERS)
def test_the_shown_answers_are_answers(document, path):
    """Each is what its schema promises."""
    shown = answers(document, path)
    assert shown
    for each in shown.values():
        TypeAdapter(ANSWERS[path]).validate_python(each)


def test_every_kind_of_explanation_is_shown(document):
    """A picture's, a text's and a series', in the shapes of the contract."""
    saliency = np.array(answers(document, "/predict/digit")["explained"]["explanation"]["saliency"])
    assert (saliency.shape, saliency.min(), saliency.max()) == ((28, 28), 0, 1)
    shown = answers(document, "/predict/sequence")
    assert max(word["weight"] for word in shown["text_explained"]["explanation"]["words"]) == 1
    reasons = shown["series_explained"]["explanation"]
    weights = np.array(reasons["weights"])
    assert (weights.shape, weights.max()) == ((24, len(reasons["columns"])), 1)


def test_the_shown_answers_fit_the_shown_requests(service, document):
    """The same call gives the keys of the example today."""
    body = document["paths"]["/predict/sequence"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    shown = answers(document, "/predict/sequence")
    assert body.keys() == shown.keys()
    for name, asked in body.items():
        answer = service.client.post("/predict/sequence", json=asked["value"]).json()
        assert answer.keys() == shown[name].keys(), name
        if "explanation" in answer:
            assert answer["explanation"].keys() == shown[name]["explanation"].keys()


def test_every_error_is_shown_as_itself(document):
    """The example of each status is a problem of that status."""
    count = 0
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                media = response.get("content", {}).get("application/problem+json")
                if media is not None:
                    assert schemas.Problem(**media["example"]).status == int(status)
                    count += 1
    assert count > 40


@pytest.mark.parametrize("path", ["/predict/digit", "/predict/digit/batch"])
@pytest.mark.parametrize("option", ["explain", "model", "version"])
def test_an_option_in_the_body_of_a_picture_is_sent_to_the_query(service, path, option):
    """The 422 says where it goes."""
    answer = service.client.post(path, json={"pixels": [], option: None})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", option]
    assert "query" in answer.json()["detail"]
