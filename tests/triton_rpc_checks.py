"""What Triton's own Python client does over gRPC with a running service: `python -m tests.triton_rpc_checks HOST:PORT`.

Runs with whichever version of `tritonclient` is found first, and prints one JSON object: each check's name with null,
or with what went wrong.
"""

import asyncio
import queue
from functools import partial

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.server import shipped
from tests.triton_checks import DIGIT, DTYPES, MODELS, compare, golden, inputs_of, manifest, outputs_of, refused
from tests.triton_report import report

INVALID, NOT_FOUND = "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND"
inputs_of = partial(inputs_of, module=triton)
outputs_of = partial(outputs_of, module=triton)


def check_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    for model in MODELS:
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, str(shipped(model)))
    assert not client.is_model_ready("none")
    assert not client.is_model_ready(DIGIT, "999")


def check_metadata(client):
    assert client.get_server_metadata().name == "neuroserve"
    for model in MODELS:
        told, configured = client.get_model_metadata(model), client.get_model_config(model).config
        assert [each.name for each in told.inputs] == [each.name for each in configured.input]
        assert [list(each.shape)[1:] or [1] for each in told.inputs] == [list(each.dims) for each in configured.input]
        assert configured.max_batch_size > 0
        assert configured.HasField("dynamic_batching")
    assert {each.name for each in client.get_model_repository_index().models} >= set(MODELS)
    assert client.get_model_metadata(DIGIT, as_json=True)["platform"] == "onnxruntime_onnx"
    refused(client.get_model_metadata, "none", status=NOT_FOUND)
    refused(client.get_model_config, DIGIT, "999", status=NOT_FOUND)


def check_defaults(client):
    for model in MODELS:
        result = client.infer(model, inputs_of(model))
        compare(model, result)
        assert result.get_response().model_version == str(shipped(model))
        compare(model, client.infer(model, inputs_of(model), outputs=outputs_of(model)))


def check_version_id_and_parameters(client):
    more = {"model_version": str(shipped(DIGIT)), "request_id": "mine", "priority": 1, "timeout": 5_000_000}
    more |= {"client_timeout": 20, "headers": {"x-request-id": "theirs"}}
    result = client.infer(DIGIT, inputs_of(DIGIT), sequence_id=7, parameters={"a": "b", "c": 1, "d": True}, **more)
    assert result.get_response().id == "mine"
    compare(DIGIT, result)
    refused(client.infer, DIGIT, inputs_of(DIGIT), model_version="999", status=NOT_FOUND)
    refused(client.infer, "none", inputs_of(DIGIT), status=NOT_FOUND, words="no model")


def check_every_datatype(client):
    """The model takes UINT8; each other type is refused by name."""
    for dtype in DTYPES:
        array = np.zeros((1, 28, 28), np.uint8).astype(dtype)
        if dtype is np.object_:
            array = np.full((1, 28, 28), b"7", np.object_)
        one = triton.InferInput("pixels", [1, 28, 28], np_to_triton_dtype(np.dtype(dtype)))
        one.set_data_from_numpy(array)
        refused(client.infer, DIGIT, [one], status=INVALID, words="takes UINT8")


def check_wrong_requests(client):
    pixels = triton.InferInput("pixels", [1, 28, 27], "UINT8")
    pixels.set_data_from_numpy(np.zeros((1, 28, 27), np.uint8))
    refused(client.infer, DIGIT, [pixels], status=INVALID, words="[batch, 28, 28]")
    refused(client.infer, DIGIT, inputs_of("topic-transformer"), status=INVALID, words="no input")
    refused(client.infer, DIGIT, inputs_of(DIGIT), outputs=outputs_of("forecast-lstm"), status=INVALID, words="output")
    tokens = triton.InferInput("token_ids", [1, 4], "INT64")
    tokens.set_data_from_numpy(np.full((1, 4), 2**40))
    refused(client.infer, "topic-transformer", [tokens], status=INVALID, words="token_ids")


def check_compression(client):
    many = np.repeat(golden(DIGIT)[0]["pixels"], 20, axis=0)
    one = triton.InferInput("pixels", list(many.shape), "UINT8")
    one.set_data_from_numpy(many)
    for packed in ("gzip", "deflate"):
        result = client.infer(DIGIT, [one], compression_algorithm=packed)
        expected = np.repeat(golden(DIGIT)[1]["probabilities"], 20, axis=0)
        np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-3)


def check_classification(client):
    outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
    texts = client.infer("topic-transformer", inputs_of("topic-transformer"), outputs=outputs)
    found = texts.as_numpy("probabilities")
    expected = golden("topic-transformer")[1]["probabilities"]
    assert found.shape == (len(expected), 2)
    for row, (best, _) in zip(expected, found, strict=True):
        _, index, label = best.decode().split(":")
        assert int(index) == row.argmax()
        assert label == manifest("topic-transformer").labels[row.argmax()]


def check_many_at_once(client):
    found = queue.Queue()
    for number in range(64):
        told = partial(lambda result, error: found.put((result, error)))
        client.async_infer(DIGIT, inputs_of(DIGIT), callback=told, request_id=str(number))
    ids = set()
    for _ in range(64):
        result, error = found.get(timeout=20)
        assert error is None, error
        ids.add(result.get_response().id)
        compare(DIGIT, result)
    assert ids == {str(number) for number in range(64)}


def check_stream(client):
    """Answers come in the order of the requests; a wrong one is told and does not end the stream."""
    found = queue.Queue()
    client.start_stream(callback=lambda result, error: found.put((result, error)))
    for number in range(20):
        model = "none" if number == 7 else MODELS[number % 3]
        client.async_stream_infer(model, inputs_of(MODELS[number % 3]), request_id=str(number))
    for number in range(20):
        result, error = found.get(timeout=20)
        if number == 7:
            assert "no model" in error.message(), error
            continue
        assert error is None, error
        assert result.get_response().id == str(number)
        compare(MODELS[number % 3], result)
    client.stop_stream()


def check_statistics(client):
    def rows():
        (told,) = client.get_inference_statistics(DIGIT).model_stats
        return told.inference_count

    before = rows()
    client.infer(DIGIT, inputs_of(DIGIT))
    assert rows() >= before + 3
    assert client.get_inference_statistics().model_stats
    (told,) = client.get_inference_statistics(DIGIT, str(shipped(DIGIT))).model_stats
    assert told.inference_stats.success.ns > 0
    assert sum(each.compute_infer.count for each in told.batch_stats) == told.execution_count


def check_what_is_not_offered(client):
    no = {"status": "StatusCode.UNIMPLEMENTED", "words": "not offered"}
    refused(client.load_model, DIGIT, **no)
    refused(client.unload_model, DIGIT, **no)
    refused(client.get_system_shared_memory_status, **no)
    refused(client.get_cuda_shared_memory_status, **no)
    refused(client.register_system_shared_memory, "mine", "/mine", 784, **no)
    refused(client.get_trace_settings, **no)
    refused(client.update_log_settings, {"log_info": True}, **no)
    pixels = triton.InferInput("pixels", [1, 28, 28], "UINT8")
    pixels.set_shared_memory("mine", 784)
    refused(client.infer, DIGIT, [pixels], **no)


def check_asyncio(address):
    async def run():
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata(DIGIT)).name == DIGIT
            for model in MODELS:
                compare(model, await client.infer(model, inputs_of(model)))
                compare(model, await client.infer(model, inputs_of(model), compression_algorithm="gzip"))
            for result in await asyncio.gather(*(client.infer(DIGIT, inputs_of(DIGIT)) for _ in range(32))):
                compare(DIGIT, result)
            unknown = await asyncio.gather(client.infer("none", inputs_of(DIGIT)), return_exceptions=True)
            assert isinstance(unknown[0], InferenceServerException)
            assert "no model" in unknown[0].message(), unknown

            async def asked():
                for number in range(9):
                    yield {"model_name": DIGIT, "inputs": inputs_of(DIGIT), "request_id": str(number)}

            ids = []
            async for result, error in client.stream_infer(asked()):
                assert error is None, error
                compare(DIGIT, result)
                ids.append(result.get_response().id)
            assert ids == [str(number) for number in range(9)]

    asyncio.run(run())


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def main() -> None:
    report(CHECKS, triton, triton.InferenceServerClient)


if __name__ == "__main__":
    main()
