"""Multipart bodies: the quick way gives what the parser gives, for good bodies and broken ones."""

import logging
import random

import pytest

from service.errors import ServiceError
from service.inputs import forms

KIND = b"multipart/form-data; boundary=edge"
FILE = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n'
BARE = b'content-disposition: form-data; name="file"\r\n'
TYPE = b"Content-Type: image/png\r\n"
GOOD = [b"--edge\r\n", FILE, TYPE, b"\r\n", b"one", b"\r\n--edge\r\n", BARE, b"\r\n", b"two", b"\r\n--edge--\r\n"]
OTHER = b'Content-Disposition: form-data; name="other"\r\n\r\n'
STRAY = [*GOOD, b"--edge--", b"\r\n--edge", b"--edgeX", b"--", b"\r\n", b" ", b"\x00\xff", OTHER]


def told(body):
    """The files of a body, or what is wrong with it."""
    try:
        return forms.files(body, KIND, "file")
    except ServiceError as error:
        return error.code, error.detail


def test_two_files_are_read_in_order():
    """By the quick way: it is the form that clients make."""
    assert forms._plain_files(b"".join(GOOD), b"edge", "file") == [b"one", b"two"]
    assert told(b"".join(GOOD)) == [b"one", b"two"]


def test_damaged_bodies_are_told_as_by_the_parser(monkeypatch):
    """Pieces lost, doubled or out of place, 5,000 times: never another answer than the parser's."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    chance, quick = random.Random(1), 0
    for _ in range(5000):
        pieces = list(GOOD)
        for _ in range(chance.randint(0, 4)):
            at = chance.randrange(len(pieces))
            pieces[at : at + chance.randint(0, 1)] = [chance.choice(STRAY)] * chance.randint(0, 1)
        body = b"".join(pieces)
        quick += forms._plain_files(body, b"edge", "file") is not None
        found = told(body)
        with monkeypatch.context() as patch:
            patch.setattr(forms, "_plain_files", lambda *_: None)
            assert found == told(body), body
    assert quick > 500


@pytest.mark.parametrize("count", [1024, 1025])
def test_a_form_has_at_most_1024_parts(count):
    """More are a 422 that says so, before anything is decoded."""
    part = b"--edge\r\n" + FILE + b"\r\nx\r\n"
    found = told(part * count + b"--edge--\r\n")
    assert found == ([b"x"] * count if count == 1024 else ("too_many_items", "The form has more than 1024 parts."))
