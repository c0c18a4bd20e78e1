"""The asynchronous client: the same methods, awaited; see `neuroserve.client`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from typing import Any, Self, TypeVar

from neuroserve import calls, transport
from neuroserve.answers import Digit, Forecast, Job, Model, Topic
from neuroserve.calls import Call, Limits, Part
from neuroserve.errors import ClientError, ServiceError, Unreachable
from neuroserve.events import SILENCE_S, Event, Follower
from neuroserve.pictures import Picture
from neuroserve.progress import ProgressBar
from neuroserve.retries import Retries

T = TypeVar("T")


class AsyncClient:
    """A service, for asyncio. Use as an asynchronous context manager, or `close` it.

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
        self._http = transport.async_client(url, api_key, timeout_s, concurrency)
        self._retries = retries
        self._concurrency = concurrency
        self._limits = Limits(batch_items, batch_bytes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # ------------------------------------------------------------------ predictions

    async def predict_digit(
        self, picture: Picture, *, model: str | None = None, version: int | None = None, explain: bool = False
    ) -> Digit:
        """The digit on a picture: a path, the bytes of a file, a PIL image or an array."""
        return await self._send(await asyncio.to_thread(calls.digit, picture, model, version, explain))

    async def predict_text(
        self, text: str, *, model: str | None = None, version: int | None = None, explain: bool = False
    ) -> Topic:
        """The topic of a text."""
        return await self._send(calls.text(text, model, version, explain))

    async def forecast(
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
        return await self._send(calls.forecast(values, start, model, version, explain, accept_implausible))

    async def predict_digits(
        self, pictures: Iterable[Picture], *, model: str | None = None, version: int | None = None
    ) -> list[Digit]:
        """The digits of many pictures, in their order."""
        return await self._batch(lambda: list(calls.digits(list(pictures), model, version, self._limits)))

    async def predict_texts(
        self, texts: Iterable[str], *, model: str | None = None, version: int | None = None
    ) -> list[Topic]:
        """The topics of many texts, in their order."""
        return await self._batch(lambda: list(calls.texts(list(texts), model, version, self._limits)))

    async def forecasts(
        self,
        series: Iterable[tuple[Any, datetime | str]],
        *,
        model: str | None = None,
        version: int | None = None,
        accept_implausible: bool = False,
    ) -> list[Forecast]:
        """What follows each of many series, given as (values, start), in their order."""
        return await self._batch(
            lambda: list(calls.forecasts(list(series), model, version, self._limits, accept_implausible))
        )

    # ------------------------------------------------------------------ training and models

    async def train(self, task: str, *, idempotency_key: str | None = None, **order: Any) -> AsyncTraining:
        """Queue a training of `digit`, `forecast` or `topic`; `order` takes what `POST /train` takes.

        `network`, `epochs`, `batch_size`, `learning_rate`, `seed`, `promote`, `priority` and `time_limit_s`.
        The same `idempotency_key` gives the same job; by default each call has a new one.
        """
        return AsyncTraining(self, await self._send(calls.train({"task": task, **order}, idempotency_key)))

    async def training(self, job_id: str) -> AsyncTraining:
        """A job that was queued before, to look at, watch or cancel."""
        return AsyncTraining(self, await self._send(calls.job(job_id)))

    async def jobs(self, *, status: str | None = None, task: str | None = None, limit: int = 20) -> list[Job]:
        """The newest jobs, 100 at most."""
        return await self._send(calls.jobs(status, task, limit))

    async def models(self) -> list[Model]:
        """Every model with its versions."""
        return await self._send(calls.models())

    async def model(self, name: str) -> Model:
        """One model with its versions."""
        return await self._send(calls.model(name))

    async def promote(self, name: str, version: int) -> Model:
        """Make a version live."""
        return await self._send(calls.promote(name, version))

    async def rollback(self, name: str) -> Model:
        """Make the version live that was live before."""
        return await self._send(calls.rollback(name))

    # ------------------------------------------------------------------ sending

    async def _send(self, call: Call[T]) -> T:
        failed = 0
        while True:
            try:
                with transport.translated(self._http.base_url):
                    return transport.answer(call, await self._http.request(**transport.arguments(call)))
            except ClientError as error:
                failed += 1
                wait_s = self._retries.wait_s(failed, error, repeatable=call.repeatable)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)

    async def _batch(self, make: Callable[[], list[Part[T]]]) -> list[T]:
        """Every part's answers at their places; the first part that fails ends the others."""
        parts = await asyncio.to_thread(make)
        found: dict[int, T] = {}
        places = asyncio.Semaphore(self._concurrency)

        async def one(part: Part[T]) -> None:
            async with places:
                found.update(zip(part.places, await self._part(part), strict=True))

        tasks = [asyncio.create_task(one(part)) for part in parts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [found[place] for place in range(len(found))]

    async def _part(self, part: Part[T]) -> list[T]:
        try:
            return await self._send(part.call)
        except ServiceError as error:
            raise transport.located(error, part) from None

    async def _events(self, job_id: str) -> AsyncIterator[Event]:
        follower = Follower(self._retries)
        while not follower.done:
            try:
                with transport.translated(self._http.base_url):
                    async for event in self._connection(job_id, follower):
                        yield event
            except ClientError as error:
                await asyncio.sleep(follower.lost_s(error))

    async def _connection(self, job_id: str, follower: Follower) -> AsyncIterator[Event]:
        timeout = transport.load().Timeout(SILENCE_S, connect=transport.CONNECT_S)
        path = f"{calls.job(job_id).path}/events"
        async with self._http.stream("GET", path, headers=follower.headers, timeout=timeout) as response:
            if not response.is_success:
                transport.check(response.status_code, response.headers, await response.aread())
            if response.status_code == 204:
                follower.done = True
                return
            follower.connected()
            async for data in response.aiter_bytes():
                for event in follower.feed(data):
                    yield event
        if not follower.done:
            raise Unreachable("The stream of events ended before the job did.")


class AsyncTraining:
    """A job. `job` is what was last heard of it."""

    def __init__(self, client: AsyncClient, job: Job) -> None:
        self._client = client
        self.job = job

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    async def refresh(self) -> Job:
        """The job as it is now."""
        self.job = await self._client._send(calls.job(self.id))
        return self.job

    async def cancel(self) -> Job:
        """Stop it; Conflict when it has ended."""
        self.job = await self._client._send(calls.cancel(self.id))
        return self.job

    def events(self) -> AsyncIterator[Event]:
        """Every event from the beginning, each once, until the job has ended; lost connections are taken up again."""
        return self._client._events(self.id)

    async def watch(self, *, progress: bool | ProgressBar = True) -> Job:
        """Wait for the end, with a progress bar on stderr; the job as it ended, which may be without success."""
        bar = progress if isinstance(progress, ProgressBar) else ProgressBar() if progress else None
        try:
            async for event in self.events():
                if bar is not None:
                    bar.show(event)
        finally:
            if bar is not None:
                bar.close()
        return await self.refresh()
