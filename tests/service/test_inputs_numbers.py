"""Arrays of numbers read straight from JSON: the same as the general way gives, and nothing that it would refuse."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inputs import image, numbers


@pytest.mark.parametrize("shape", [(28, 28), (3, 7), (1, 1), (5, 28, 28), (1, 3, 2), (2, 1, 1)])
def test_a_rectangle_is_read_as_it_is(shape):
    """Whole numbers in two or three axes, with other fields and white space around them."""
    array = np.random.default_rng(1).integers(0, 256, shape)
    for indent in (None, 2):
        body = json.dumps({"before": 1, "pixels": array.tolist(), "after": {"deep": "x"}}, indent=indent).encode()
        found, rest = numbers.read(body, "pixels", "u")
        assert np.array_equal(found, array)
        assert rest == {"before": 1, "after": {"deep": "x"}}


@given(st.lists(st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=3), min_size=1, max_size=20))
def test_floats_are_those_of_the_general_parser(rows):
    """To the last bit."""
    found, rest = numbers.read(json.dumps({"values": rows}).encode(), "values", "d")
    assert np.array_equal(found, np.array(rows))
    assert rest == {}


@pytest.mark.parametrize(
    "body",
    [
        '{"pixels":[[1,2],[3]]}',
        '{"pixels":[[1,2,3],[4]],"a":"x,],"}',
        '{"pixels":[1,2]}',
        '{"pixels":[[]]}',
        '{"pixels":[]}',
        '{"pixels":[[],[]]}',
        '{"pixels":[[1,2],[3,true]]}',
        '{"pixels":[[1,2],[3,null]]}',
        '{"pixels":[[1,"2"],[3,4]]}',
        '{"pixels":[[1,2],[3,-1]]}',
        '{"pixels":[[1.0,2]]}',
        '{"pixels":[[1,99999999999999999999999]]}',
        '{"pixels":[[1,2],[3,[4]]]}',
        '{"pixels":[[[1,2]],[[3]]]}',
        '{"pixels":[[[1],[2]],[[3]]]}',
        '{"pixels":[[1,2],[3,4]],"pixels":[[1,2],[3,4]]}',
        '{"pixels":[[1,2],[3,4]],"more":[[1]]}',
        '{"other":[[1,2],[3,4]]}',
        '{"pixels":[[1,2],[3,4]',
        '{"pixels":[[1 2]]}',
        '{"pixels":[[NaN]]}',
        "[[1,2],[3,4]]",
        "",
    ],
)
def test_everything_else_is_left_to_the_general_way(body):
    """Ragged, empty, of another type, not JSON: None, and no exception; and the next body is read as ever."""
    assert numbers.read(body.encode(), "pixels", "u") is None
    assert numbers.read(b'{"pixels":[[7]]}', "pixels", "u")[0].tolist() == [[7]]


def test_without_simdjson_the_general_way_reads_all(monkeypatch):
    """Where there is no package of it for the machine, nothing is read here, and lists give the same pixels."""
    rows = np.random.default_rng(2).integers(0, 256, (28, 28))
    body = json.dumps({"pixels": rows.tolist()}).encode()
    found, _ = numbers.read(body, "pixels", "u")
    monkeypatch.setattr(numbers._parsers, "parser", None)
    assert numbers.read(body, "pixels", "u") is None
    assert np.array_equal(image.from_pixels(found), image.from_pixels(json.loads(body)["pixels"]))
