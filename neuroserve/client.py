"""`Client` and `AsyncClient`: a neuroserve service as typed Python calls.

    from neuroserve.client import Client

    with Client() as client:
        print(client.predict_digit("photo.jpg").digit)

Errors are those of `neuroserve.errors`. Both clients send failed calls again where that does no harm, see `Retries`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Self, TypeVar

from neuroserve import calls, transport
from neuroserve.aio import AsyncClient, AsyncTraining
from neuroserve.answers import (
    Digit,
    Epoch,
    Forecast,
    Job,
    Model,
    ModelRef,
    Progress,
    Topic,
    Version,
    Warning,  # noqa: A004 (the contract's word)
)
from neuroserve.calls import Call, Limits, Part
from neuroserve.errors import (
    ClientError,
    FieldError,
    ServiceError,
    StrangeAnswer,
    TimedOut,
    Unreachable,
    UsageError,
)
from neuroserve.events import SILENCE_S, Event, Follower
from neuroserve.pictures import Picture
from neuroserve.progress import ProgressBar
from neuroserve.retries import Retries

__all__ = [
    "AsyncClient",
    "AsyncTraining",
    "Client",
    "ClientError",
    "Digit",
    "Epoch",
    "Event",
    "FieldError",
    "Forecast",
    "Job",
    "Model",
    "ModelRef",
    "Progress",
    "ProgressBar",
    "Retries",
    "ServiceError",
    "StrangeAnswer",
    "TimedOut",
    "Topic",
    "Training",
    "Unreachable",
    "UsageError",
    "Version",
    "Warning",
]
T = TypeVar("T")


class Client:
    """A service, for plain code and threads. Use as a context manager, or `close` it.

    `url` and `api_key` default to NEUROSERVE_URL (else http://127.0.0.1:8000) and NEUROSERVE_API_KEY. `timeout_s` is
    how long one try may take. `concurrency` requests of a batch run at once, each within the service's limits of
    `batch_items` and `batch_bytes`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        concurrency: int = 4,
        batch_items: int = 256,
        batch_bytes: int = 8 * 2**20,
    ) -> None:
        self._http = transport.sync_client(url, api_key, timeout_s, concurrency)
        self._retries = retries
        self._concurrency = concurrency
        self._limits = Limits(batch_items, batch_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ------------------------------------------------------------------ predictions

    def predict_digit(
        self, picture: Picture, *, model: str | None = None, version: int | None = None, explain: bool = False
    ) -> Digit:
        """The digit on a picture: a path, the bytes of a file, a PIL image or an array."""
        return self._send(calls.digit(picture, model, version, explain))

    def predict_text(
        self, text: str, *, model: str | None = None, version: int | None = None, explain: bool = False
    ) -> Topic:
        """The topic of a text."""
        return self._send(calls.text(text, model, version, explain))

    def forecast(
        self,
        values: Any,
        start: datetime | str,
        *,
        model: str | None = None,
        version: int | None = None,
        explain: bool = False,
        accept_implausible: bool = False,
    ) -> Forecast:
        """What follows hourly readings, [steps, 7], oldest first; `start` is the time of the first.

        None and NaN are missing readings: the service fills short gaps and says so in `warnings`. Values far outside
        the range of the training data are refused, unless `accept_implausible`.
        """
        return self._send(calls.forecast(values, start, model, version, explain, accept_implausible))

    def predict_digits(
        self, pictures: Iterable[Picture], *, model: str | None = None, version: int | None = None
    ) -> list[Digit]:
        """The digits of many pictures, in their order."""
        return self._batch(list(calls.digits(list(pictures), model, version, self._limits)))

    def predict_texts(
        self, texts: Iterable[str], *, model: str | None = None, version: int | None = None
    ) -> list[Topic]:
        """The topics of many texts, in their order."""
        return self._batch(list(calls.texts(list(texts), model, version, self._limits)))

    def forecasts(
        self,
        series: Iterable[tuple[Any, datetime | str]],
        *,
        model: str | None = None,
        version: int | None = None,
        accept_implausible: bool = False,
    ) -> list[Forecast]:
        """What follows each of many series, given as (values, start), in their order."""
        return self._batch(list(calls.forecasts(list(series), model, version, self._limits, accept_implausible)))

    # ------------------------------------------------------------------ training and models

    def train(self, task: str, *, idempotency_key: str | None = None, **order: Any) -> Training:
        """Queue a training of `digit`, `forecast` or `topic`; `order` takes what `POST /train` takes.

        `network`, `epochs`, `batch_size`, `learning_rate`, `seed`, `promote`, `priority` and `time_limit_s`.
        The same `idempotency_key` gives the same job; by default each call has a new one.
        """
        return Training(self, self._send(calls.train({"task": task, **order}, idempotency_key)))

    def training(self, job_id: str) -> Training:
        """A job that was queued before, to look at, watch or cancel."""
        return Training(self, self._send(calls.job(job_id)))

    def jobs(self, *, status: str | None = None, task: str | None = None, limit: int = 20) -> list[Job]:
        """The newest jobs, 100 at most."""
        return self._send(calls.jobs(status, task, limit))

    def models(self) -> list[Model]:
        """Every model with its versions."""
        return self._send(calls.models())

    def model(self, name: str) -> Model:
        """One model with its versions."""
        return self._send(calls.model(name))

    def promote(self, name: str, version: int) -> Model:
        """Make a version live."""
        return self._send(calls.promote(name, version))

    def rollback(self, name: str) -> Model:
        """Make the version live that was live before."""
        return self._send(calls.rollback(name))

    # ------------------------------------------------------------------ sending

    def _send(self, call: Call[T]) -> T:
        failed = 0
        while True:
            try:
                with transport.translated(self._http.base_url):
                    return transport.answer(call, self._http.request(**transport.arguments(call)))
            except ClientError as error:
                failed += 1
                wait_s = self._retries.wait_s(failed, error, repeatable=call.repeatable)
                if wait_s is None:
                    raise
            time.sleep(wait_s)

    def _batch(self, parts: list[Part[T]]) -> list[T]:
        """Every part's answers at their places; the first part that fails ends the others that wait."""
        found: dict[int, T] = {}
        pool = ThreadPoolExecutor(self._concurrency, "neuroserve-batch")
        try:
            for part, predictions in zip(parts, pool.map(self._part, parts), strict=True):
                found.update(zip(part.places, predictions, strict=True))
        finally:
            pool.shutdown(cancel_futures=True)
        return [found[place] for place in range(len(found))]

    def _part(self, part: Part[T]) -> list[T]:
        try:
            return self._send(part.call)
        except ServiceError as error:
            raise transport.located(error, part) from None

    def _events(self, job_id: str) -> Iterator[Event]:
        follower = Follower(self._retries)
        while not follower.done:
            try:
                with transport.translated(self._http.base_url):
                    yield from self._connection(job_id, follower)
            except ClientError as error:
                time.sleep(follower.lost_s(error))

    def _connection(self, job_id: str, follower: Follower) -> Iterator[Event]:
        timeout = transport.load().Timeout(SILENCE_S, connect=transport.CONNECT_S)
        path = f"{calls.job(job_id).path}/events"
        with self._http.stream("GET", path, headers=follower.headers, timeout=timeout) as response:
            if not response.is_success:
                transport.check(response.status_code, response.headers, response.read())
            if response.status_code == 204:
                follower.done = True
                return
            follower.connected()
            for data in response.iter_bytes():
                yield from follower.feed(data)
        if not follower.done:
            raise Unreachable("The stream of events ended before the job did.")


class Training:
    """A job. `job` is what was last heard of it."""

    def __init__(self, client: Client, job: Job) -> None:
        self._client = client
        self.job = job

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    def refresh(self) -> Job:
        """The job as it is now."""
        self.job = self._client._send(calls.job(self.id))
        return self.job

    def cancel(self) -> Job:
        """Stop it; Conflict when it has ended."""
        self.job = self._client._send(calls.cancel(self.id))
        return self.job

    def events(self) -> Iterator[Event]:
        """Every event from the beginning, each once, until the job has ended; lost connections are taken up again."""
        return self._client._events(self.id)

    def watch(self, *, progress: bool | ProgressBar = True) -> Job:
        """Wait for the end, with a progress bar on stderr; the job as it ended, which may be without success."""
        bar = progress if isinstance(progress, ProgressBar) else ProgressBar() if progress else None
        try:
            for event in self.events():
                if bar is not None:
                    bar.show(event)
        finally:
            if bar is not None:
                bar.close()
        return self.refresh()
