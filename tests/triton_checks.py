"""What Triton's own Python client does with a running service: `python -m tests.triton_checks HOST:PORT`.

Runs with whichever version of `tritonclient` is found first, and prints one JSON object: each check's name with null,
or with what went wrong.
"""

import asyncio

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from tests.server import shipped
from tests.service.oip import golden, manifest
from tests.triton_report import report

DIGIT, MODELS = "digit-cnn", ("digit-cnn", "topic-transformer", "forecast-lstm")
DTYPES = [np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64,
          np.bool_, np.object_]  # fmt: skip


def inputs_of(model, module=triton, **kwargs):
    """The golden sample as the client's inputs."""
    found = []
    for name, array in golden(model)[0].items():
        one = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        one.set_data_from_numpy(array, **kwargs)
        found.append(one)
    return found


def outputs_of(model, module=triton, **kwargs):
    return [module.InferRequestedOutput(name, **kwargs) for name in golden(model)[1]]


def compare(model, result):
    for name, expected in golden(model)[1].items():
        np.testing.assert_allclose(result.as_numpy(name), expected, atol=manifest(model).golden.atol)


def refused(call, *args, status, words="", **kwargs):
    """The call is refused, with an error that the client could read."""
    error = attempt(call, *args, **kwargs)
    assert isinstance(error, InferenceServerException), "it was not refused"
    assert "while decoding" not in error.message(), error.message()
    assert error.status() == status, error
    assert words in error.message(), error


def attempt(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except InferenceServerException as error:
        return error


def check_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    for model in MODELS:
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, str(shipped(model)))
    assert not client.is_model_ready("none")
    assert not client.is_model_ready(DIGIT, "999")


def check_metadata(client):
    assert client.get_server_metadata()["name"] == "neuroserve"
    for model in MODELS:
        told, configured = client.get_model_metadata(model), client.get_model_config(model)
        assert [each["name"] for each in told["inputs"]] == [each["name"] for each in configured["input"]]
        assert configured["max_batch_size"] > 0
    assert {each["name"] for each in client.get_model_repository_index()} >= set(MODELS)
    refused(client.get_model_metadata, "none", status="404")
    refused(client.get_model_config, DIGIT, "999", status="404")


def check_defaults(client):
    for model in MODELS:
        result = client.infer(model, inputs_of(model))
        compare(model, result)
        assert result.get_response()["model_version"] == str(shipped(model))


def check_both_binary_flags(client):
    for model in MODELS:
        for binary_in in (True, False):
            for binary_out in (True, False):
                outputs = outputs_of(model, binary_data=binary_out)
                compare(model, client.infer(model, inputs_of(model, binary_data=binary_in), outputs=outputs))


def check_version_id_and_parameters(client):
    more = {"model_version": str(shipped(DIGIT)), "request_id": "mine", "priority": 1, "timeout": 5_000_000}
    result = client.infer(DIGIT, inputs_of(DIGIT), sequence_id=7, parameters={"a": "b", "c": 1, "d": True}, **more)
    assert result.get_response()["id"] == "mine"
    compare(DIGIT, result)
    refused(client.infer, DIGIT, inputs_of(DIGIT), model_version="999", status="404")
    refused(client.infer, "none", inputs_of(DIGIT), status="404")


def check_every_datatype(client):
    """The model takes UINT8; each other type is refused by name, from bytes and from JSON."""
    for dtype in DTYPES:
        array = np.zeros((1, 28, 28), np.uint8).astype(dtype)
        if dtype is np.object_:
            array = np.full((1, 28, 28), b"7", np.object_)
        for binary in (True, False):
            if dtype is np.float16 and not binary:
                continue  # the client has no such form
            one = triton.InferInput("pixels", [1, 28, 28], np_to_triton_dtype(np.dtype(dtype)))
            one.set_data_from_numpy(array, binary_data=binary)
            refused(client.infer, DIGIT, [one], status="400", words="takes UINT8")
    half = triton.InferInput("pixels", [1, 28, 28], "BF16")
    half.set_data_from_numpy(np.zeros((1, 28, 28), triton_to_np_dtype("BF16")))
    refused(client.infer, DIGIT, [half], status="400", words="takes UINT8")


def check_wrong_requests(client):
    pixels = triton.InferInput("pixels", [1, 28, 27], "UINT8")
    pixels.set_data_from_numpy(np.zeros((1, 28, 27), np.uint8))
    refused(client.infer, DIGIT, [pixels], status="400", words="[batch, 28, 28]")
    refused(client.infer, DIGIT, inputs_of("topic-transformer"), status="400", words="no input")
    refused(client.infer, DIGIT, inputs_of(DIGIT), outputs=outputs_of("forecast-lstm"), status="400", words="no output")
    tokens = triton.InferInput("token_ids", [1, 4], "INT64")
    tokens.set_data_from_numpy(np.full((1, 4), 2**40))
    refused(client.infer, "topic-transformer", [tokens], status="400", words="token_ids")


def check_compression(client):
    many = np.repeat(golden(DIGIT)[0]["pixels"], 20, axis=0)
    one = triton.InferInput("pixels", list(many.shape), "UINT8")
    for packed in ("gzip", "deflate"):
        for binary in (True, False):
            one.set_data_from_numpy(many, binary_data=binary)
            outputs = outputs_of(DIGIT, binary_data=binary)
            both = {"request_compression_algorithm": packed, "response_compression_algorithm": packed}
            result = client.infer(DIGIT, [one], outputs=outputs, **both)
            expected = np.repeat(golden(DIGIT)[1]["probabilities"], 20, axis=0)
            np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-3)


def check_classification(client):
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
        texts = client.infer("topic-transformer", inputs_of("topic-transformer"), outputs=outputs)
        found = texts.as_numpy("probabilities")
        expected = golden("topic-transformer")[1]["probabilities"]
        assert found.shape == (len(expected), 2)
        for row, (best, _) in zip(expected, found, strict=True):
            _, index, label = (best.decode() if isinstance(best, bytes) else best).split(":")
            assert int(index) == row.argmax()
            assert label == manifest("topic-transformer").labels[row.argmax()]


def check_many_at_once(client):
    waiting = [client.async_infer(DIGIT, inputs_of(DIGIT), request_id=str(number)) for number in range(64)]
    for number, each in enumerate(waiting):
        result = each.get_result()
        assert result.get_response()["id"] == str(number)
        compare(DIGIT, result)


def check_statistics(client):
    def rows():
        (told,) = client.get_inference_statistics(DIGIT)["model_stats"]
        return told["inference_count"]

    before = rows()
    client.infer(DIGIT, inputs_of(DIGIT))
    assert rows() >= before + 3
    assert client.get_inference_statistics()["model_stats"]
    (told,) = client.get_inference_statistics(DIGIT, str(shipped(DIGIT)))["model_stats"]
    assert told["inference_stats"]["success"]["ns"] > 0


def check_what_is_not_offered(client):
    refused(client.load_model, DIGIT, status="501")
    refused(client.unload_model, DIGIT, status="501")
    refused(client.get_system_shared_memory_status, status="501")
    refused(client.get_cuda_shared_memory_status, status="501")
    refused(client.register_system_shared_memory, "mine", "/mine", 784, status="501")
    refused(client.get_trace_settings, status="501")
    refused(client.get_trace_settings, DIGIT, status="501")
    refused(client.update_log_settings, {"log_info": True}, status="501")


def check_asyncio(address):
    async def run():
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata(DIGIT))["name"] == DIGIT
            for model in MODELS:
                compare(model, await client.infer(model, inputs_of(model)))
                for binary in (True, False):
                    outputs = outputs_of(model, binary_data=binary)
                    asked = inputs_of(model, binary_data=binary)
                    both = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}
                    compare(model, await client.infer(model, asked, outputs=outputs, **both))
            for result in await asyncio.gather(*(client.infer(DIGIT, inputs_of(DIGIT)) for _ in range(32))):
                compare(DIGIT, result)
            unknown = await asyncio.gather(client.infer("none", inputs_of(DIGIT)), return_exceptions=True)
            assert "no model" in unknown[0].message(), unknown

    asyncio.run(run())


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def main() -> None:
    report(CHECKS, triton, lambda address: triton.InferenceServerClient(address, concurrency=8))


if __name__ == "__main__":
    main()
