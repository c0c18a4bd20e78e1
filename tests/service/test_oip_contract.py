"""What an infer request may hold, by the model's manifest: all else is refused before the queue, with the reason."""

import json
import re
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput, ServiceError, UnreadableBody, attempt
from service.inputs.text import TextEncoder
from service.oip import request
from service.oip.contract import Contract
from tests.server import ROOT, shipped
from tests.service.oip import golden, infer, manifest

DIGIT, TOPIC, FORECAST = "digit-cnn", "topic-transformer", "forecast-lstm"
OTHERS = ["BOOL", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64",
          "BYTES", "uint8", ""]  # fmt: skip


def contract(name):
    found = manifest(name)
    vocabulary = None
    if found.text is not None:
        folder = ROOT / "models" / "zoo" / name / str(shipped(name))
        vocabulary = TextEncoder(folder / found.text.tokenizer, found.text).vocabulary
    return Contract(found, vocabulary, 256)


CONTRACTS = {name: contract(name) for name in (DIGIT, TOPIC, FORECAST)}


def check(name, inputs=None, *, binary=True, **content):
    asked = infer(golden(name)[0] if inputs is None else inputs, binary=binary, **content)
    return taken(name, asked["content"], asked["headers"].get("Inference-Header-Content-Length"))


def taken(name, body, length=None):
    end = request.split(body, None if length is None else str(length).encode())
    return CONTRACTS[name].check(request.read(body[:end]), body, end, lambda _: 64)


def changed(name, **arrays):
    return golden(name)[0] | arrays


def refusal(*args, **kwargs):
    with pytest.raises(InvalidInput) as caught:
        check(*args, **kwargs)
    return caught.value.detail


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", CONTRACTS)
def test_the_golden_rows_are_taken_as_they_are(name, binary):
    """One part, the very values, and the length the rows are padded to."""
    inputs = golden(name)[0]
    (part,) = check(name, binary=binary).parts
    assert part.inputs.keys() == inputs.keys()
    for key, array in inputs.items():
        np.testing.assert_array_equal(part.inputs[key], array)
        assert part.inputs[key].dtype == array.dtype
    assert (part.rows, part.length) == (3, {DIGIT: 0, TOPIC: inputs.get("token_ids", [[]])[0].__len__(),
                                            FORECAST: 336}[name])  # fmt: skip


def test_binary_rows_are_not_copied():
    """The graph reads them where they came."""
    (part,) = check(DIGIT).parts
    assert part.inputs["pixels"].base is not None
    assert not part.inputs["pixels"].flags.owndata


def test_many_rows_are_cut_into_parts():
    """Each no larger than a batch."""
    rows = np.zeros((150, 28, 28), np.uint8)
    assert [part.rows for part in check(DIGIT, {"pixels": rows}).parts] == [64, 64, 22]


@pytest.mark.parametrize("datatype", OTHERS)
@pytest.mark.parametrize("binary", [True, False])
def test_another_datatype_is_refused_by_name(datatype, binary):
    """Whatever the size of its data; the sentence says what is taken."""
    described = {"name": "pixels", "shape": [1, 28, 28], "datatype": datatype}
    described |= {"parameters": {"binary_data_size": 784}} if binary else {"data": [0] * 784}
    head = json.dumps({"inputs": [described]}).encode()
    with pytest.raises(InvalidInput, match="takes UINT8"):
        taken(DIGIT, head + bytes(784 * binary), len(head))


@pytest.mark.parametrize(
    "shape", [[], [28, 28], [1, 784], [1, 28, 28, 1], [1, 28, 27], [1, 1, 28, 28], [0, 28, 28], [257, 28, 28]]
)
def test_another_shape_is_refused(shape):
    """Wrong rank, wrong fixed sizes, no rows, too many rows."""
    assert re.search(r"shape|1 to 256 rows", refusal(DIGIT, {"pixels": np.zeros(shape, np.uint8)}))


@pytest.mark.parametrize("shape", [None, "1", [1.0, 28, 28], [True, 28, 28], [-1, 28, 28], [[1], 28, 28]])
def test_a_shape_that_is_none_is_refused(shape):
    """It is a list of whole numbers."""
    head = json.dumps({"inputs": [{"name": "pixels", "shape": shape, "datatype": "UINT8", "data": [0]}]}).encode()
    with pytest.raises(InvalidInput, match="shape"):
        taken(DIGIT, head)


def test_a_shape_beyond_all_memory_is_refused():
    """No array is made for it."""
    described = {"name": "token_ids", "shape": [256, 2**62], "datatype": "INT64"}
    for more in ({"parameters": {"binary_data_size": 8}}, {"data": [1]}):
        head = json.dumps({"inputs": [described | more]}).encode()
        with pytest.raises(InvalidInput, match="1 to 256 steps"):
            taken(TOPIC, head + bytes(8), len(head))


@pytest.mark.parametrize(
    "data",
    [
        [0] * 783,
        [0] * 785,
        [],
        [-1] + [0] * 783,
        [256] + [0] * 783,
        [2**70] + [0] * 783,
        [1.0] + [0] * 783,
        [True] + [0] * 783,
        ["1"] + [0] * 783,
        [None] + [0] * 783,
        [[0] * 784],
        [[0] * 28] * 28,
        [[[0] * 28] * 27],
        [[[0] * 28] * 27 + [[0] * 27]],
        [[[0] * 28] * 28] * 2,
        [[[[0]] * 28] * 28],
        [0, [0]],
        "AAAA",
        {"0": 0},
        None,
        0,
    ],
)
def test_data_that_is_not_so_many_pixels_is_refused(data):
    """Counts, ranges, types and nesting."""
    head = json.dumps({"inputs": [{"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8", "data": data}]})
    with pytest.raises(InvalidInput, match="pixels"):
        taken(DIGIT, head.encode())


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1e400", "1e39", "2e30", "true", '"1"', "1" * 400])
def test_a_reading_that_is_no_finite_number_is_refused(bad):
    """In JSON, however it is written."""
    inputs = golden(FORECAST)[0]
    head = infer(inputs, binary=False)["content"].replace(b'"data": [', b'"data": [' + bad.encode() + b", ", 1)
    head = re.sub(rb"^(.*?\"data\": \[" + bad.encode() + rb"), [^,]+", rb"\1", head, count=1)
    with pytest.raises(InvalidInput, match="values"):
        taken(FORECAST, head)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e31])
def test_bytes_that_are_no_finite_reading_are_refused(bad):
    """Wherever they stand."""
    values = golden(FORECAST)[0]["values"].copy()
    values[-1, -1, -1] = bad
    assert "finite" in refusal(FORECAST, changed(FORECAST, values=values))


@pytest.mark.parametrize(
    ("field", "bad"), [("lengths", 0), ("lengths", -1), ("lengths", 23), ("lengths", 337), ("lengths", 2**62),
                       ("hour_of_week", -1), ("hour_of_week", 168), ("hour_of_week", -(2**63))]
)  # fmt: skip
def test_a_length_or_an_hour_outside_its_range_is_refused(field, bad):
    """The sentence holds the number and the range."""
    array = golden(FORECAST)[0][field].copy()
    array[1] = bad
    assert str(bad) in refusal(FORECAST, changed(FORECAST, **{field: array}))


def test_a_series_that_is_too_short_or_too_long_is_refused():
    """By the model's shortest series and what it looks back on."""
    inputs = golden(FORECAST)[0]
    short = changed(FORECAST, values=inputs["values"][:, :20], lengths=np.full(3, 20))
    assert "24 steps or more" in refusal(FORECAST, short)
    long = np.zeros((3, 337, 7), np.float32)
    assert "1 to 336 steps" in refusal(FORECAST, changed(FORECAST, values=long))


@pytest.mark.parametrize("bad", [-1, -(2**63), 2**63 - 1, "vocabulary"])
def test_a_token_that_the_model_does_not_know_is_refused(bad):
    """It would be an error deep in the graph."""
    ids = golden(TOPIC)[0]["token_ids"].copy()
    vocabulary = CONTRACTS[TOPIC]._vocabulary
    ids[0, 0] = vocabulary if bad == "vocabulary" else bad
    assert f"from 0 to {vocabulary - 1}" in refusal(TOPIC, {"token_ids": ids})
    ids[0, 0] = vocabulary - 1
    check(TOPIC, {"token_ids": ids})


def test_padding_is_at_the_end_of_a_row_only():
    """A row of nothing else, one that begins with it, one with a hole."""
    for row in ([0, 0, 0], [0, 5, 6], [5, 0, 6]):
        assert "padding" in refusal(TOPIC, {"token_ids": np.array([[5, 6, 7], row])})
    check(TOPIC, {"token_ids": np.array([[5, 6, 7], [5, 6, 0], [5, 0, 0]])})


def test_all_inputs_have_the_same_rows():
    """And every one is there, once, and known."""
    inputs = golden(FORECAST)[0]
    assert "same number of rows" in refusal(FORECAST, changed(FORECAST, lengths=inputs["lengths"][:2]))
    assert "'lengths' is missing" in refusal(FORECAST, {k: v for k, v in inputs.items() if k != "lengths"})
    assert "no input 'more'" in refusal(FORECAST, changed(FORECAST, more=inputs["lengths"]))
    twice = json.loads(infer(golden(DIGIT)[0], binary=False)["content"])
    twice["inputs"] *= 2
    with pytest.raises(InvalidInput, match="given twice"):
        taken(DIGIT, json.dumps(twice).encode())


@pytest.mark.parametrize("form", ["binary", "flat", "nested"])
def test_one_number_a_row_may_come_as_a_column(form):
    """The configuration says `dims: [1]` of it, as Triton's do."""
    inputs = golden(FORECAST)[0]
    asked = changed(FORECAST, lengths=inputs["lengths"][:, None], hour_of_week=inputs["hour_of_week"][:, None])
    body = infer(asked, binary=form == "binary")
    content = body["content"]
    if form == "nested":
        lists = json.loads(content)
        lists["inputs"][1]["data"] = asked["lengths"].tolist()
        content = json.dumps(lists).encode()
    (part,) = taken(FORECAST, content, body["headers"].get("Inference-Header-Content-Length")).parts
    for name in ("lengths", "hour_of_week"):
        np.testing.assert_array_equal(part.inputs[name], inputs[name])
    assert "takes the shape [batch]" in refusal(FORECAST, changed(FORECAST, lengths=np.full((3, 2), 300)))


def test_an_unknown_output_is_refused_and_an_empty_list_asks_for_all():
    """The sentence names what there is."""
    assert "'mean', 'lower', 'upper'" in refusal(FORECAST, outputs=[{"name": "median"}])
    assert [each.wanted.name for each in check(FORECAST, outputs=[]).outputs] == ["mean", "lower", "upper"]


@pytest.mark.parametrize("size", [0, 783, 785, 784.0, "784", True, -1, 2**80])
def test_a_binary_size_that_is_not_the_tensors_is_refused(size):
    """Whatever lies behind the JSON."""
    described = {"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [described]}).encode()
    with pytest.raises(InvalidInput, match="binary_data_size"):
        taken(DIGIT, head + bytes(784), len(head))


def test_a_body_with_too_few_or_too_many_bytes_is_refused():
    """Counted to the byte."""
    asked = infer(golden(DIGIT)[0])
    length = int(asked["headers"]["Inference-Header-Content-Length"])
    for body, words in ((asked["content"][:-1], "ends before"), (asked["content"] + b"\0", "1 bytes more")):
        with pytest.raises(InvalidInput, match=words):
            taken(DIGIT, body, length)


@pytest.mark.parametrize("length", ["", "-1", "x", "1e3", "99999999", "9" * 20, "³"])
def test_a_header_length_that_is_none_is_refused(length):
    """Not a number, or beyond the body."""
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        request.split(b"{}", length.encode("latin-1", "replace"))


@pytest.mark.parametrize(
    "content",
    [
        {"id": 7},
        {"parameters": []},
        {"parameters": {"timeout": "1"}},
        {"parameters": {"timeout": -1}},
        {"parameters": {"timeout": 1.5}},
        {"parameters": {"priority": True}},
        {"parameters": {"binary_data_output": 1}},
        {"outputs": {}, "id": 1},
        {"outputs": [1]},
        {"outputs": [{}]},
        {"outputs": [{"name": "probabilities", "parameters": {"binary_data": "yes"}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": -1}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 1.5}}]},
    ],
)
def test_a_field_of_the_wrong_type_is_refused(content):
    """With a sentence that names it."""
    asked = json.loads(infer(golden(DIGIT)[0], binary=False)["content"]) | content
    with pytest.raises(InvalidInput):
        taken(DIGIT, json.dumps(asked).encode())


@pytest.mark.parametrize("field", ["id", "datatype"])
def test_half_of_a_surrogate_pair_is_refused(field):
    """It could be sent back neither in an answer nor in an error; Python's own JSON reader lets it in."""
    asked = json.loads(infer(golden(DIGIT)[0], binary=False, parameters={"more": float("nan")})["content"])
    (asked if field == "id" else asked["inputs"][0])[field] = "\ud800"
    with pytest.raises(UnreadableBody, match="surrogate") as caught:
        taken(DIGIT, json.dumps(asked).encode())
    caught.value.detail.encode()


def test_fields_of_extensions_are_let_through():
    """A client may send parameters that mean nothing here."""
    more = {"parameters": {"sequence_id": 7, "sequence_start": True, "mine": "x"}, "unknown": [1]}
    assert check(DIGIT, **more).asked.timeout_s is None


def test_an_unaligned_tensor_is_read_right():
    """The JSON before it has any length."""
    for spaces in range(8):
        inputs = golden(TOPIC)[0]
        asked = infer(inputs, id="x" * spaces)
        end = int(asked["headers"]["Inference-Header-Content-Length"])
        (part,) = taken(TOPIC, asked["content"], end).parts
        np.testing.assert_array_equal(part.inputs["token_ids"], inputs["token_ids"])
        assert part.inputs["token_ids"].flags.aligned


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(["name", "shape", "datatype", "parameters", "data"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(list(CONTRACTS)),
    key=KEYS,
    value=JSON_VALUES,
    tail=st.binary(max_size=40),
    length=st.none() | st.integers(0, 400),
)
@example(name=DIGIT, key="parameters", value={"binary_data_size": 2**70}, tail=b"", length=None)
def test_whatever_comes_only_our_own_errors_come_out(name, key, value, tail, length):
    """Any JSON value in the place of any field, with any bytes behind it."""
    inputs = {field: array[:1, :24] if array.ndim > 1 else array[:1] for field, array in golden(name)[0].items()}
    asked = json.loads(infer(inputs, binary=False)["content"])
    asked["inputs"][0][key] = value
    body = json.dumps(asked).encode() + tail
    found = attempt(taken, name, body, length)
    if isinstance(found, ServiceError):
        assert found.status in {400, 422, 501}
    else:
        assert sum(part.rows for part in found.parts) >= 1


def test_a_raw_body_of_floats_is_refused_for_a_model_of_several_inputs():
    """One tensor cannot say it all."""
    with pytest.raises(InvalidInput, match="more than one tensor"):
        CONTRACTS[FORECAST].check_raw(struct.pack("<7f", *range(7)), lambda _: 64)
