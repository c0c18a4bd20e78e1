"""What `/docs` says of the predict routes, which are plain ASGI and so unknown to FastAPI's own schema."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service import errors, schemas
from service.inputs import image
from service.inputs.fields import LARGEST_VERSION, MAX_EXPLAINED
from service.keys import SCOPES
from service.oip import docs
from service.oip.errors import is_open_inference
from service.security import ANY, needed_scope
from service.settings import Settings
from service.warnings import MEANINGS
from service.wire import problem

EXAMPLES = Path(__file__).parent / "examples"
_REF = "#/components/schemas/{model}"
_MEANING = {
    400: "The body is not what its media type says",
    401: "No key, or one that is not known",
    403: "The key lacks the scope",
    404: "No such model, version or job",
    409: "The thing exists but is in the wrong state",
    413: "The body is over the limit",
    415: "A media type that is not taken",
    422: "Well-formed but invalid; `errors` names the places",
    429: "The queue is full; come back after `Retry-After` seconds",
    503: "Not ready, or the device is lost",
    504: "The deadline passed",
}
_SHOWN: tuple[errors.ServiceError, ...] = (
    errors.UnreadableBody("The body is not valid JSON: unexpected end of data.", code="unreadable_json"),
    errors.Unauthorized("This API key is not known here.", code="key_unknown"),
    errors.Forbidden("The key 'web' lacks the scope 'admin' that this needs.", code="scope_missing"),
    errors.NotFound("digit-cnn has no version 9; it has 1, 2.", code="version_not_found"),
    errors.Conflict("digit-cnn version 2 is live.", code="version_live"),
    errors.BodyTooLarge("The body is larger than the limit of 10485760 bytes; send a smaller picture or fewer items."),
    errors.UnsupportedMediaType("Content-Type 'text/plain' is not taken here; send one of: application/json."),
    errors.InvalidInput(
        "A version is a whole number from 1.",
        errors=[(("query", "version"), "A version is a whole number from 1.")],
    ),
    errors.Busy("digit-cnn has 2048 rows waiting, the limit is 2048; try again"),
    errors.Unavailable("The service is shutting down; send the request to another replica."),
    errors.DeadlinePassed("The deadline passed while the request waited for the device."),
)
_PROBLEMS = {error.status: json.loads(problem(error, "5f8d1c02a94be673")[0]) for error in _SHOWN}
_KEY_WITH = {scope: f"a key with the scope `{scope}`" for scope in SCOPES} | {ANY: "a key of any scope"}
_PREDICT_ERRORS = (400, 404, 413, 415, 422, 429, 503, 504)
_WARNINGS = (
    "An answer may carry `warnings`, each with a `code` and a `detail`, and the header `X-Warnings` with the codes:\n\n"
    "| code | meaning |\n|---|---|\n"
    + "\n".join(f"| `{code}` | {meaning} |" for code, meaning in MEANINGS.items())
    + "\n\n`confidence` is the largest of the `probabilities`, which sum to 1."
)
_HEADERS = {
    "X-Model-Version": "version that answered",
    "X-Queue-Ms": "time the rows waited for the device",
    "X-Run-Ms": "time the device took for the batch",
    "X-Batch-Rows": "rows of that batch",
    "X-Provider": "execution provider that ran it",
    "X-Warnings": "the codes of the answer's warnings, or of all answers of a batch; absent where there are none",
    "X-Request-ID": "the request's id, the client's own if it sent one",
}


def install(app: FastAPI, settings: Settings, *, closed: bool) -> None:
    """Make `app.openapi()` tell of every route, and of the keys they need where the service is `closed` without."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=_description(settings), routes=app.routes
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(_components())
            document["paths"] = {**_predict_paths(), **document["paths"]}
            document["servers"] = [{"url": "./"}]  # beside the document, whatever prefix a proxy puts before it
            docs.complete(document, _HEADERS)
            if closed:
                _ask_for_keys(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _ask_for_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "an API key with the scope that the operation names"}
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = needed_scope(method.upper(), path)
            if scope is not None:
                operation["security"] = [{"key": []}]
                operation["description"] = f"{operation.get('description', '')}\n\nNeeds {_KEY_WITH[scope]}.".strip()
                told = docs.error_responses if is_open_inference(path) else problem_responses
                operation["responses"] |= {str(code): each for code, each in told(401, 403).items()}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a FastAPI route for these error statuses."""
    schema = {"$ref": _REF.format(model="Problem")}
    return {
        status: {
            "description": _MEANING[status],
            "content": {"application/problem+json": {"schema": schema, "example": _PROBLEMS[status]}},
        }
        for status in statuses
    }


def _description(settings: Settings) -> str:
    return (
        "Train a network, prove it, serve it. Errors are RFC 9457 problem+json with a stable `code`.\n\n"
        f"Limits: body {settings.max_body_bytes} bytes, picture {settings.max_image_pixels} pixels, "
        f"text {settings.max_text_chars} characters, series {settings.max_series_steps} steps, "
        f"batch {settings.max_batch_items} items, deadline {settings.deadline_ms:g} ms. "
        "A model reads the first tokens of a text (the shipped ones 256, about 200 words) and the last steps of a "
        "series (the shipped ones 336).\n\n"
        f"{_WARNINGS}"
    )


def _components() -> dict[str, Any]:
    classes: list[type[BaseModel]] = [
        value
        for value in vars(schemas).values()
        if isinstance(value, type) and issubclass(value, schemas.Schema) and value is not schemas.Schema
    ]
    _, document = models_json_schema([(each, "validation") for each in classes], ref_template=_REF)
    definitions: dict[str, Any] = document["$defs"]
    return definitions


def _predict_paths() -> dict[str, Any]:
    text = json.loads((EXAMPLES / "headline.json").read_text("utf-8"))
    week = json.loads((EXAMPLES / "week.json").read_text("utf-8"))
    day = {**week, "values": week["values"][:24], "explain": True}
    told = _answers()
    gap = {**week, "values": [*week["values"][:-1], [*week["values"][-1][:-1], None]]}
    sequence_json = _json(
        ["TextInput", "SeriesInput"],
        {
            "text": text,
            "text_explained": {**text, "explain": True},
            "text_warned": {"text": "???"},
            "series": week,
            "series_explained": day,
            "series_with_a_gap": gap,
        },
    )
    mixed = _json(["SequenceInputs"], {"mixed": {"inputs": [{**text, "explain": True}, week]}})
    sequences = ("text", "text_explained", "text_warned", "series", "series_explained", "series_with_a_gap")
    return {
        **_digit_paths(told),
        "/predict/sequence": _operation(
            "Classify a text, or forecast a series",
            "`text` goes to the topic model; `values` with `start` goes to the forecast model. `explain: true` "
            "in the body adds the weight of every word, or of every step and column. `null` is a missing reading; "
            "readings far outside the training range are refused unless `accept_implausible: true`.",
            {"application/json": sequence_json},
            _json(["TopicPrediction", "ForecastPrediction"], {name: told[name] for name in sequences}),
        ),
        "/predict/sequence/batch": _operation(
            "Many texts and series",
            f"Kinds may be mixed; answers come in order. At most {MAX_EXPLAINED} items may say `explain: true`.",
            {"application/json": mixed},
            _json(["SequencePredictions"], {"mixed": {"predictions": [told["text_explained"], told["series"]]}}),
        ),
    }


def _digit_paths(told: dict[str, Any]) -> dict[str, Any]:
    png = (EXAMPLES / "seven.png").read_bytes()
    encoded = base64.b64encode(png).decode()
    pixels = image.from_bytes(png).tolist()
    pictures = {kind: _binary() for kind in sorted(image.IMAGE_TYPES)}
    digit_json = _json(["ImageJson", "PixelsJson"], {"base64": {"image": encoded}, "pixels": {"pixels": pixels}})
    batch_json = _json(
        ["ImagesJson", "PixelBatchJson"], {"base64": {"images": [encoded] * 2}, "pixels": {"pixels": [pixels]}}
    )
    row = {key: value for key, value in told["digit"].items() if key != "model"}
    return {
        "/predict/digit": _operation(
            "Recognise one digit",
            "Any picture: any size, mode, orientation and polarity. `explain=true` in the query adds the weight of "
            f"every pixel.\n\n{_PICTURE_RULE}",
            {"application/json": digit_json, **pictures, "multipart/form-data": _form(many=False)},
            _json(
                ["DigitPrediction"],
                {"plain": told["digit"], "explained": told["digit_explained"], "warned": told["digit_warned"]},
            ),
            _MODEL_QUERY,
        ),
        "/predict/digit/batch": _operation(
            "Recognise many digits",
            "Answers come in the order of the pictures; one bad picture fails the request and is named. Each is read "
            f"as `/predict/digit` reads it. At most {MAX_EXPLAINED} pictures with `explain=true`.",
            {"application/json": batch_json, "multipart/form-data": _form(many=True)},
            _json(["DigitPredictions"], {"two": {"predictions": [row, row], "model": told["digit"]["model"]}}),
            _MODEL_QUERY,
        ),
    }


_PICTURE_RULE = """A file, its base64 and a list of `pixels` are read by one rule, whatever form the picture comes in:

| The picture, values 0..255 | What the model gets |
|---|---|
| 28x28, light on black (0 to 3 at its sides), 18 to 20 pixels long and centred, as MNIST's | these bytes |
| its negative | 255 minus these bytes |
| any other, dark on light or light on dark | the ink that was found, at full contrast, centred and scaled as MNIST's |
| no value above 16, as in a mask of 0 and 1 | 422 `invalid_scale`: multiply by 255, or by 255/16 |
| `pixels` with fractions or negative numbers | 422; `invalid_scale` if they look like 0..1, 0..16 or normalised |
| nothing stands out | 422 `blank_image` |

`/v2` and gRPC give the tensor to the model as it is."""


def _answers() -> dict[str, Any]:
    """The shown answers: those of the file, and some of them with warnings."""
    told: dict[str, Any] = json.loads((EXAMPLES / "answers.json").read_text("utf-8"))
    doubted = [round(0.1 * each + 0.09, 4) for each in told["digit"]["probabilities"]]
    outlier = {"code": "not_like_training_data", "detail": _OUTLIER.format(what="picture")}
    told["digit_warned"] = {
        **told["digit"],
        "probabilities": doubted,
        "confidence": max(doubted),
        "warnings": [outlier],
    }
    unknown = {"code": "unknown_words", "detail": "The text holds no word and no number. Do not rely on this answer."}
    told["text_warned"] = {**told["text"], "warnings": [unknown]}
    filled = {
        "code": "filled_values",
        "detail": "1 missing reading was filled from the neighbouring ones (OT), and the interval is wider for it.",
    }
    told["series_with_a_gap"] = {**told["series"], "warnings": [filled]}
    return told


_OUTLIER = (
    "The {what} is not like the training data: with a probability of 0.90 it shows none of the labels. Do not rely on "
    "this answer."
)
_MODEL_QUERY: list[dict[str, Any]] = [
    {
        "name": "model",
        "in": "query",
        "required": False,
        "description": "a model of GET /models; default: the task's default model",
        "schema": {"type": "string"},
    },
    {
        "name": "version",
        "in": "query",
        "required": False,
        "description": "default: the live version",
        "schema": {"type": "integer", "minimum": 1, "maximum": LARGEST_VERSION},
    },
    {
        "name": "explain",
        "in": "query",
        "required": False,
        "description": "tell which ink the answer rests on too; costs some hundred runs of the model, and at most "
        f"{MAX_EXPLAINED} pictures of a request can be explained",
        "schema": {"type": "boolean", "default": False},
    },
]


_CANARY_HEADER = {
    "X-Canary": "`candidate` if a canary's candidate answered, `fallback` if the live version did so in its place"
}
_CANARY_KEY: dict[str, Any] = {
    "name": "X-Canary-Key",
    "in": "header",
    "required": False,
    "description": "keeps a client on one side of a canary that splits the requests; default: the request's id",
    "schema": {"type": "string"},
}


def _operation(
    summary: str,
    description: str,
    content: dict[str, Any],
    answers: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    shown = _HEADERS | _CANARY_HEADER
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in shown.items()}
    done = {
        "description": "The prediction",
        "headers": headers,
        "content": {"application/json": answers},
    }
    failures = {str(status): response for status, response in problem_responses(*_PREDICT_ERRORS).items()}
    operation: dict[str, Any] = {
        "tags": ["predict"],
        "summary": summary,
        "description": description,
        "operationId": summary.lower().replace(",", "").replace(" ", "_"),
        "requestBody": {"required": True, "content": content},
        "responses": {"200": done, **failures},
    }
    operation["parameters"] = [*(parameters or []), _CANARY_KEY]
    return {"post": operation}


def _ref(names: list[str]) -> dict[str, Any]:
    found = [{"$ref": _REF.format(model=name)} for name in names]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _json(names: list[str], examples: dict[str, Any]) -> dict[str, Any]:
    return {"schema": _ref(names), "examples": {name: {"value": value} for name, value in examples.items()}}


def _binary() -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary"}}


def _form(*, many: bool) -> dict[str, Any]:
    one = {"type": "string", "format": "binary"}
    file = {"type": "array", "items": one, "minItems": 1} if many else one
    return {"schema": {"type": "object", "properties": {"file": file}, "required": ["file"]}}
