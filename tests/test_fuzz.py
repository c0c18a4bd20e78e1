"""More than a hundred thousand spoilt inputs, over every decoder: only our own errors, soon and in little memory.

Each decoder has its number of inputs, drawn by a seed; one that does harm is kept in the test's folder. Here is what
comes as bytes; JSON, text and times are in `test_fuzz_json.py`, and infer requests have a hundred thousand more.
"""

import functools
import re
import zlib

import numpy as np
import pytest

from service.errors import ServiceError, attempt
from service.inputs import forms, image
from service.inputs.fields import asked_in_query
from service.jobview import moment, place_from
from service.keys import KeyFormatError, new_key, parse_keys
from service.oip import compression
from service.oip.door import framing, version_of
from service.oip.request import split
from service.security import Guard
from service.settings import Settings
from service.wire import id_of
from tests.fuzzing import INPUTS, base64_of, opened, pictures, spoil, with_right_sums
from tests.server import EXAMPLES

pytestmark = pytest.mark.slow

SEVEN = (EXAMPLES / "seven.png").read_bytes()


@pytest.fixture
def book(tmp_path):
    """The account of a decoder, and the draws of its inputs."""
    return functools.partial(opened, tmp_path)


def test_they_are_a_hundred_thousand():
    """Each test below runs as many as it says here."""
    assert sum(INPUTS.values()) >= 100_000


def test_pictures(book):
    """Every format, mode and extra, with right and wrong checksums: 28x28 pixels, or a refusal."""
    account, draw = book("pictures")
    good = pictures()
    everything = [data for each in good.values() for data in each]
    while account.count < INPUTS["pictures"]:
        kind = list(good)[account.count % len(good)]
        data = spoil(draw, draw.choice(good[kind]), everything if draw.random() < 0.3 else good[kind])
        data = with_right_sums(data) if kind == "PNG" and draw.random() < 0.5 else data
        found = account.run(image.from_bytes, data)
        if isinstance(found, np.ndarray):
            assert (found.shape, found.dtype) == ((28, 28), np.uint8)
            (plain,) = image.in_mnist_form([data])
            assert plain is None or np.array_equal(plain, found)
    account.close(inputs=INPUTS["pictures"], peak_mb=600)


def test_base64_and_data_urls(book):
    """Spoilt before it is encoded, or after."""
    account, draw = book("base64")
    good = [data for each in pictures().values() for data in each if len(data) < 2_000]
    while account.count < INPUTS["base64"]:
        data = draw.choice(good)
        text = base64_of(draw, spoil(draw, data, good) if draw.random() < 0.5 else data)
        if draw.random() < 0.6:
            text = spoil(draw, text.encode(), [b"===="], (b"=", b"\n", b" ", b"-", b"\xc3\xa9")).decode(
                "utf-8", "replace"
            )
        account.run(image.from_base64, text)
    account.close(inputs=INPUTS["base64"], peak_mb=600)


def test_multipart_bodies(book, monkeypatch):
    """Also: what is split in the short way is what the parser makes of it."""
    account, draw = book("multipart")
    head = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    parts = [
        b"--bound\r\n" + head + SEVEN[:60] + b"\r\n",
        b'--bound\r\ncontent-disposition: form-data; name="x"\r\n\r\ny\r\n',
    ]
    good = [
        parts[0] + b"--bound--\r\n",
        parts[0] * 3 + b"--bound--",
        parts[0] + parts[1] + b"--bound--\r\n",
        parts[0] * 2,
    ]
    pieces = (
        b"\r\n",
        b"--bound",
        b"--",
        b"\r\n\r\n",
        b'name="file"',
        b";",
        b'"',
        b"\0",
        b"\xff",
        b"Content-Type: a/b\r\n",
    )
    kinds = [b"multipart/form-data; boundary=bound", b'multipart/form-data; boundary="bound"']
    short = forms._plain_files
    while account.count < INPUTS["multipart"]:
        body, kind = spoil(draw, draw.choice(good), good, pieces), draw.choice(kinds)
        kind = spoil(draw, kind, kinds, pieces) if draw.random() < 0.1 else kind
        found = account.run(lambda given: forms.files(*given, "file"), (body, kind))
        if isinstance(found, list) and short(body, b"bound", "file") is not None:
            with monkeypatch.context() as general:
                general.setattr(forms, "_plain_files", lambda *_: None)
                assert attempt(forms.files, body, kind, "file") == found
    account.close(inputs=INPUTS["multipart"])


def test_packed_bodies(book):
    """gzip and deflate, never more than the limit unpacked."""
    account, draw = book("packed")
    plain = b"".join(b'{"pixels":[%d]}' % number for number in range(300))
    good = [compression.pack(plain, encoding) for encoding in (b"gzip", b"deflate")]
    good += [zlib.compress(b"\0" * 10**6), compression.pack(b"\0" * 10**7, b"gzip")]
    codings = [b"gzip", b"deflate", b"x-gzip", b" GZIP "]
    while account.count < INPUTS["packed"]:
        coding = draw.choice(codings)
        coding = spoil(draw, coding, codings) if draw.random() < 0.1 else coding
        body = spoil(draw, draw.choice(good), good) if draw.random() < 0.9 else draw.choice(good)
        found = account.run(lambda given: compression.unpack(*given, 2**16), (body, coding))
        assert isinstance(found, ServiceError) or len(found) <= 2**16
    account.close(inputs=INPUTS["packed"])


def test_lines_of_keys_and_bearers(book):
    """A line of a key file is a key or says why not, never with the secret; a header opens or is refused."""
    account, draw = book("keys", (KeyFormatError, ServiceError))
    secret, key = new_key("web", ["predict"])
    lines = [
        key.line.encode(),
        f"ops:admin+predict:{secret}".encode(),
        b"# a comment",
        b"a:predict:0123456789abcdef # x",
    ]
    guard = Guard(Settings(api_keys=key.line))
    bearers = [f"Bearer {secret}".encode(), f"bearer  {secret} ".encode(), b"Basic YTpi"]
    pieces = (b":", b"+", b"#", b"sha256:", b"\n", b"Bearer ", b" ", b"\xff", b"\0")
    while account.count < INPUTS["keys"]:
        if account.count % 2:
            text = spoil(draw, draw.choice(lines), lines, pieces).decode("utf-8", "replace")
            found = account.run(lambda given: parse_keys(given.splitlines(), "here"), text)
            assert not isinstance(found, KeyFormatError) or secret not in str(found)
        else:
            header = spoil(draw, draw.choice(bearers), bearers, pieces) if draw.random() < 0.9 else bearers[0]
            found = account.run(
                lambda given: guard.check("POST", "/predict/digit", [(b"authorization", given)]), header
            )
            assert isinstance(found, ServiceError) or header.split()[-1] == secret.encode()
    account.close(inputs=INPUTS["keys"])


def test_queries_cursors_ids_and_lengths(book):
    """The small texts of a request's head."""
    account, draw = book("heads")
    good = {
        "cursor": b"1764000000000-1764000000001-0b9f6a3e-6f0b-5d7c-9a51-0a5b8f3c2d11",
        "query": b"model=digit-cnn&version=3&explain=true",
        "version": b"3",
        "length": b"120",
        "id": b"5f8d1c02a94be673",
    }
    pieces = (
        b"%00",
        b"%ff",
        b"&",
        b"=",
        b"version=",
        b"0" * 30,
        b"9" * 30,
        b"9" * 5000,
        b"\xc2\xb2",
        b"\xd9\xa3",
        b"-",
        b"_",
    )

    def read(given):
        kind, data = given
        match kind:
            case "cursor":
                found = place_from(data.decode("utf-8", "replace"))
                return found, moment(found[0] + 1)
            case "query":
                return asked_in_query({"query_string": data})
            case "version":
                return version_of(data.decode("utf-8", "replace"), "digit-cnn")
            case "length":
                said = framing([(b"inference-header-content-length", data), (b"accept-encoding", data)])
                return said.json_bytes(b"x" * 200), split(b"x" * 200, said.json_length)
        named = id_of(data)
        assert re.fullmatch(rb"[A-Za-z0-9._:-]{1,128}", named)
        return named

    while account.count < INPUTS["heads"]:
        kind = list(good)[account.count % len(good)]
        account.run(read, (kind, spoil(draw, good[kind], list(good.values()), pieces)))
    account.close(inputs=INPUTS["heads"])
