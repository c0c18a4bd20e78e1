"""The whole loop on real data: the real service process, real pictures, texts, readings and a real training job."""

import csv
import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from io import BytesIO

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from models.store import Store
from service.settings import ZOO
from tests.server import Server, shipped, wait_until
from training.datasets import ag_news
from training.registry import get_task

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}


def png(pixels):
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def digits(data_dir):
    """MNIST's test split: pixels [10000, 28, 28] and labels."""
    pixels = gzip.decompress((data_dir / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((data_dir / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def offline(name, feed):
    """What the shipped graph gives for the training reader's own tensors."""
    store = Store(ZOO)
    folder = store.folder(name, store.live(name))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def test_a_thousand_test_pictures_are_read_as_png(service, digits):
    """At least 99 % of 1,000 MNIST test images are right over HTTP, by 16 clients at once."""
    pixels, labels = digits
    chosen = np.random.default_rng(0).choice(len(labels), 1000, replace=False)

    def right(index):
        answer = service.client.post("/predict/digit", content=png(pixels[index]), headers=PNG)
        assert answer.status_code == 200
        return answer.json()["digit"] == labels[index]

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(right, chosen)) >= 990


def test_pictures_in_a_batch_equal_pictures_alone_and_the_offline_graph(service, digits):
    """The same 64 pictures as a batch, one by one, and through ONNX Runtime alone give the same probabilities."""
    pixels, _ = digits
    expected = offline("digit-cnn", {"pixels": pixels[:64]})[0]
    batch = service.client.post("/predict/digit/batch", json={"pixels": pixels[:64].tolist()}).json()["predictions"]
    np.testing.assert_allclose([row["probabilities"] for row in batch], expected, atol=1e-5)
    alone = [service.client.post("/predict/digit", content=png(p), headers=PNG).json() for p in pixels[:64]]
    np.testing.assert_allclose([row["probabilities"] for row in alone], expected, atol=1e-5)


def test_texts_equal_the_offline_evaluation(service, data_dir):
    """200 AG News test rows, alone and in batches of mixed length, give the offline probabilities."""
    splits = get_task("topic").load(data_dir, 0)
    expected = offline("topic-transformer", {"token_ids": splits.test.inputs["token_ids"][:200].numpy()})[0]
    texts = [article.text for article in ag_news.read(data_dir).test[:200]]
    batch = service.client.post("/predict/sequence/batch", json={"inputs": [{"text": text} for text in texts]})
    got = [list(row["probabilities"].values()) for row in batch.json()["predictions"]]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    for index in range(0, 200, 20):
        one = service.client.post("/predict/sequence", json={"text": texts[index]}).json()
        np.testing.assert_allclose(list(one["probabilities"].values()), expected[index], atol=1e-5)


def test_windows_equal_the_offline_evaluation(service, data_dir):
    """50 ETTh1 test windows, read from the CSV as a user would, give the offline forecasts and the right times."""
    test = get_task("forecast").load(data_dir, 0).test
    chosen = np.linspace(0, 2800, 50).astype(int)
    expected = offline("forecast-lstm", {name: rows[chosen].numpy() for name, rows in test.inputs.items()})
    with (data_dir / "ett" / "ETTh1.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    first = 16 * 30 * 24 - 336
    for place, window in enumerate(chosen):
        part = rows[first + window : first + window + 336]
        body = {"values": [[float(cell) for cell in row[1:]] for row in part], "start": part[0][0].replace(" ", "T")}
        got = service.client.post("/predict/sequence", json=body).json()
        for name, outputs in zip(("mean", "lower", "upper"), expected, strict=True):
            np.testing.assert_allclose(got[name], outputs[place], atol=1e-4)
        end = datetime.fromisoformat(part[-1][0])
        assert got["times"][0] == (end + timedelta(hours=1)).isoformat()


class Traffic:
    """Predictions without a pause from several clients while something else happens."""

    def __init__(self, url, picture, clients=4):
        self.versions = []
        self.failures = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, picture)) for _ in range(clients)]

    def _run(self, url, picture):
        mine = []
        with httpx.Client(base_url=url, timeout=30) as client:
            while not self._stop.is_set():
                answer = client.post("/predict/digit", content=picture, headers=PNG)
                if answer.status_code != 200:
                    self.failures.append(answer.text)
                    continue
                mine.append(answer.json()["model"]["version"])
                time.sleep(0.01)
        self.versions.append(mine)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.alone
def test_a_job_trains_publishes_and_goes_live_under_traffic_and_outlives_a_restart(tmp_path, data_dir, digits):
    """One POST ends in a new live version within 90 s, no prediction fails, and a restart keeps it."""
    picture = png(digits[0][0])
    with Server(tmp_path, trainer="embedded") as server, Traffic(server.url, picture) as traffic:
        started = time.monotonic()
        order = {"task": "digit", "network": "cnn", "epochs": 1, "promote": "always"}
        posted = server.client.post("/train", json=order, headers={"Idempotency-Key": "end-to-end"})
        assert posted.status_code == 202
        job_url = posted.headers["location"]
        seen = set()

        def ended():
            job = server.client.get(job_url).json()
            seen.add((job["status"], (job["progress"] or {}).get("step")))
            return job if job["finished_at"] else None

        job = wait_until(ended, 180, 0.2)
        took = time.monotonic() - started
        assert job["status"] == "succeeded", job
        new = shipped("digit-cnn") + 1
        assert job["result"]["model"] == {"name": "digit-cnn", "version": new, "live": True}
        assert len({step for status, step in seen if status == "running"}) > 3, "no live progress was seen"
        assert took < 90

        def all_follow():
            return all(
                httpx.get(f"{server.url}/models/digit-cnn").json()["serving"] == new for _ in range(8)
            )  # new connections, so that each worker is asked

        wait_until(all_follow, 5)
    assert not traffic.failures
    for mine in traffic.versions:
        assert mine == sorted(mine)
    with Server(tmp_path) as server:
        answer = server.client.post("/predict/digit", content=picture, headers=PNG)
        assert answer.json()["model"]["version"] == new
        assert server.client.get(job_url).json()["status"] == "succeeded"
        assert server.client.post("/models/digit-cnn/rollback").json()["live"] == new - 1


def test_wrong_jobs_are_refused_over_http(service):
    """Unknown task, unknown network, numbers out of range, unknown jobs: the contract's status, nothing queued."""
    for order, code in (
        ({"task": "sonnets"}, "unknown_task"),
        ({"task": "digit", "network": "gan"}, "unknown_network"),
        ({"task": "digit", "epochs": 0}, "out_of_range"),
        ({"task": "digit", "epochs": 10**9}, "out_of_range"),
        ({"task": "digit", "epochs": True}, "invalid_input"),
        ({"task": "digit", "layers": 3}, "invalid_input"),
        ({}, "invalid_input"),
    ):
        answer = service.client.post("/train", json=order)
        assert answer.status_code == 422
        assert answer.json()["code"] == code, answer.text
    for method, path in (("GET", "/train/nothing"), ("DELETE", "/train/nothing"), ("GET", "/train/nothing/events")):
        answer = service.client.request(method, path)
        assert answer.status_code == 404
        assert answer.json()["code"] == "job_not_found"
    assert service.client.get("/train").json()["jobs"] == []
