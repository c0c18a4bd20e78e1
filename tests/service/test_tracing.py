"""Traces from HTTP through queue, batch and run, read at a real OTLP receiver; and nothing of it while they are off."""

import asyncio
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.batch import Part
from service.batcher import Batcher
from service.oip.rpc.messages import INFERENCE, methods
from service.tracing import BatchSpans, missing
from tests.server import EXAMPLES, ROOT, Server, free_port, wait_until
from tests.service.fakes import FakeEngine
from tests.service.otlp import Receiver

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(scope="module")
def receiver():
    with Receiver() as listening:
        yield listening


@pytest.fixture(scope="module")
def traced(tmp_path_factory, receiver):
    """A service of one process that holds batches for company, so that requests share them."""
    server = Server(tmp_path_factory.mktemp("traced"), workers=1, max_wait_ms=300, grpc_port=free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINT, receiver.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        server.__enter__()
    try:
        yield server
    finally:
        server.__exit__()


def spans_of(receiver, *traces, complete=4):
    """The spans of some traces by name, once so many have come for the first of them."""

    def found():
        spans = [span for span in receiver.spans() if span.trace in traces]
        return spans if sum(span.trace == traces[0] for span in spans) >= complete else None

    return wait_until(found, 10)


def parent_of(trace):
    return {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/predict/digit", SEVEN, "image/png"),
        ("/predict/sequence", (EXAMPLES / "headline.json").read_bytes(), "application/json"),
    ],
)
def test_one_trace_leads_from_the_client_through_queue_batch_and_run(traced, receiver, path, body, kind):
    """Below the client's own span FastAPI's, below that wait and batch, below the batch its run, in their order."""
    trace = secrets.token_hex(16)
    headers = {"Content-Type": kind, "X-Request-ID": "mine", **parent_of(trace)}
    answer = traced.client.post(path, content=body, headers=headers)
    spans = {span.name: span for span in spans_of(receiver, trace)}
    assert set(spans) == {f"POST {path}", "queue", "batch", "run"}
    server, queue, batch, run = (spans[name] for name in (f"POST {path}", "queue", "batch", "run"))
    assert [server.parent, queue.parent, batch.parent, run.parent] == [
        "00f067aa0ba902b7", server.id, server.id, batch.id
    ]  # fmt: skip
    assert batch.links == [server.id]
    assert server.start <= queue.start <= queue.end == batch.start <= run.start <= run.end <= batch.end
    assert queue.end - queue.start > 0.25e9
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["http.route"] == path
    assert server.attributes["neuroserve.request_id"] == "mine"
    assert batch.attributes["neuroserve.version"] == int(answer.headers["x-model-version"])
    assert batch.attributes["neuroserve.provider"] == "CPUExecutionProvider"
    assert (batch.attributes["neuroserve.rows"], batch.attributes["neuroserve.reason"]) == (1, "max_wait")
    assert {span.service for span in spans.values()} == {"neuroserve"}


def test_a_shared_batch_links_to_its_requests_and_they_to_it(traced, receiver):
    """The batch lies in the trace of the oldest; the waits of the others link to it."""
    traces = [secrets.token_hex(16) for _ in range(4)]

    def ask(trace):
        with httpx.Client(base_url=traced.url) as client:
            return client.post("/predict/digit", content=SEVEN, headers={**PNG, **parent_of(trace)}).headers

    with ThreadPoolExecutor(4) as pool:
        rows = [headers["x-batch-rows"] for headers in pool.map(ask, traces)]
    assert rows == ["4"] * 4

    def complete():
        spans = [span for span in receiver.spans() if span.trace in traces]
        return spans if len(spans) == 10 else None

    spans = wait_until(complete, 10)
    servers = {span.id: span.trace for span in spans if span.name == "POST /predict/digit"}
    [batch] = [span for span in spans if span.name == "batch"]
    [run] = [span for span in spans if span.name == "run"]
    waits = [span for span in spans if span.name == "queue"]
    assert sorted(batch.links) == sorted(servers)
    assert batch.attributes["neuroserve.requests"] == 4
    assert (batch.trace, run.parent) == (servers[batch.parent], batch.id)
    assert sorted(servers[wait.parent] for wait in waits) == sorted(traces)
    assert {tuple(wait.links) for wait in waits if wait.trace != batch.trace} == {(batch.id,)}
    assert batch.start >= max(wait.start for wait in waits)


def test_batches_of_the_open_inference_protocol_are_traced_too(traced, receiver):
    """The same queue, another door."""
    trace = secrets.token_hex(16)
    tensor = {"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}
    answer = traced.client.post("/v2/models/digit-cnn/infer", json={"inputs": [tensor]}, headers=parent_of(trace))
    assert answer.status_code == 200
    assert {span.name for span in spans_of(receiver, trace)} == {
        "POST /v2/models/{name}/infer", "queue", "batch", "run"
    }  # fmt: skip


def rpc(method, request, trace):
    """Call a method of the service that `traced` is, inside a trace."""
    asked, answered = methods(INFERENCE)[method]
    options = {"request_serializer": asked.SerializeToString, "response_deserializer": answered.FromString}
    streams = method == "ModelStreamInfer"

    def call(server):
        with grpc.insecure_channel(f"127.0.0.1:{server._settings['grpc_port']}") as channel:
            make = channel.stream_stream if streams else channel.unary_unary
            sent = iter([asked(**each) for each in request]) if streams else asked(**request)
            answer = make(f"/{INFERENCE}/{method}", **options)(
                sent, metadata=list(parent_of(trace).items()), timeout=20
            )
            return list(answer) if streams else answer

    return call


BLANK = {
    "model_name": "digit-cnn",
    "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 28, 28]}],
    "raw_input_contents": [bytes(784)],
}


def test_a_call_over_grpc_is_traced_like_a_request(traced, receiver):
    """Its span lies below the client's own, wait and batch below it; an unknown model is no fault of ours."""
    trace = secrets.token_hex(16)
    rpc("ModelInfer", BLANK, trace)(traced)
    spans = {span.name: span for span in spans_of(receiver, trace)}
    call = spans[f"{INFERENCE}/ModelInfer"]
    assert call.parent == "00f067aa0ba902b7"
    assert (call.attributes["rpc.system"], call.attributes["rpc.method"]) == ("grpc", "ModelInfer")
    assert spans["queue"].parent == spans["batch"].parent == call.id
    trace = secrets.token_hex(16)
    with pytest.raises(grpc.RpcError):
        rpc("ModelInfer", {**BLANK, "model_name": "none"}, trace)(traced)
    [call] = spans_of(receiver, trace, complete=1)
    assert (call.attributes["error.type"], call.failed) == ("model_not_found", False)


def test_the_requests_of_a_stream_lie_in_its_trace(traced, receiver):
    """Two messages share a batch: one batch span, below the stream's as both waits are."""
    trace = secrets.token_hex(16)
    assert len(rpc("ModelStreamInfer", [BLANK, BLANK], trace)(traced)) == 2
    spans = spans_of(receiver, trace, complete=5)
    [stream] = [span for span in spans if span.name == f"{INFERENCE}/ModelStreamInfer"]
    assert [span.parent for span in spans if span.name == "queue"] == [stream.id] * 2
    assert [span.attributes["neuroserve.requests"] for span in spans if span.name == "batch"] == [2]


def test_probes_and_scrapes_make_no_traces(traced, receiver):
    """They would be most of them."""
    trace = secrets.token_hex(16)
    for path in ("/health/live", "/metrics", "/health/ready", "/models"):
        assert traced.client.get(path, headers=parent_of(trace)).status_code == 200
    spans_of(receiver, trace, complete=1)
    time.sleep(0.3)
    assert {
        span.attributes["url.path"]
        for span in receiver.spans()
        if span.trace == trace and span.attributes.get("url.path")
    } == {"/models"}


def test_a_trace_that_its_client_does_not_record_is_not_recorded_here(traced, receiver):
    """The parent's decision holds for the whole trace."""
    trace = secrets.token_hex(16)
    traced.client.post(
        "/predict/digit", content=SEVEN, headers={**PNG, "traceparent": f"00-{trace}-00f067aa0ba902b7-00"}
    )
    later = secrets.token_hex(16)
    traced.client.post("/predict/digit", content=SEVEN, headers={**PNG, **parent_of(later)})
    spans_of(receiver, later)
    assert trace not in {span.trace for span in receiver.spans()}


def test_what_was_traced_last_is_sent_before_the_end(tmp_path, receiver, monkeypatch):
    """A stop does not lose the spans that the exporter has not sent yet."""
    monkeypatch.setenv(ENDPOINT, receiver.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "digits")
    trace = secrets.token_hex(16)
    with Server(tmp_path, workers=1) as server:
        server.client.post("/predict/digit", content=SEVEN, headers={**PNG, **parent_of(trace)})
    spans = spans_of(receiver, trace)
    assert {span.service for span in spans} == {"digits"}


def test_a_failed_batch_is_an_error_in_its_trace_without_its_reason():
    """The kind of the error, not its text, which may hold what was sent."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def run():
        engine = FakeEngine()
        engine.fault = ValueError("what was sent")
        batcher = Batcher("m", max_queue_rows=8, max_batch_rows=8, spans=BatchSpans(provider))
        with provider.get_tracer("t").start_as_current_span("request"):
            [answer] = batcher.submit(engine, [Part({"x": np.ones((1, 1))})], timeout_s=5)
        with pytest.raises(Exception, match="failed on this input"):
            await answer
        await batcher.close()

    asyncio.run(run())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"request", "queue", "batch", "run"}
    assert not spans["run"].status.is_ok
    assert spans["batch"].attributes["error.type"] == "ValueError"
    assert "what was sent" not in "".join(span.to_json() for span in spans.values())


def test_without_an_endpoint_nothing_is_loaded():
    """The SDK costs start-up time and memory, and requests keep their short way."""
    code = (
        "import sys; from service.app import create_app; from service.settings import Settings\n"
        "app = create_app(Settings())\n"
        "assert app.direct[b'/predict/digit'] and app.state.metrics.spans is None\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry.sdk')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, None),
        ({ENDPOINT: "http://127.0.0.1:4318"}, None),
        ({ENDPOINT: "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf only"),
        ({ENDPOINT: "http://127.0.0.1:4317", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_a_wish_that_cannot_be_met_is_told(monkeypatch, variables, says):
    """Nobody should look for traces that will never come."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = missing()
    assert said is None if says is None else says in said


def test_without_the_exporter_the_service_refuses_to_start(tmp_path):
    """With a sentence that says what to install."""
    code = (
        "import sys; sys.modules['opentelemetry.exporter'] = None\n"
        "from service.cli import main; sys.exit(main(['serve']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": "/usr/bin", ENDPOINT: "http://127.0.0.1:4318", "NEUROSERVE_STATE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'neuroserve[otel]'" in done.stderr
