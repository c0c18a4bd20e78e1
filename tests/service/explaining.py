"""The shipped models behind a real batcher, for tests that explain their answers without a server."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np

from service import engine
from service.batcher import Batcher
from service.device import Device
from service.explain.prober import Prober
from service.inputs.text import TextEncoder
from service.slot import Loaded
from tests.server import SHIPPED, shipped


def load(name):
    """The live version of a shipped model on the CPU."""
    manifest, folder = SHIPPED.verify(name, shipped(name)), SHIPPED.folder(name, shipped(name))
    encoder = TextEncoder(folder / manifest.text.tokenizer, manifest.text) if manifest.text else None
    return Loaded(engine.load(folder, manifest, Device("cpu", try_cuda=False, reason="a test")), encoder)


@asynccontextmanager
async def probing(loaded, seconds=60.0):
    """A prober of a model, until its deadline in so many seconds."""
    batcher = Batcher(loaded.manifest.name, max_queue_rows=2048, max_batch_rows=64)
    deadline = asyncio.get_running_loop().time() + seconds
    yield Prober(batcher, loaded, deadline=deadline, gone=lambda: False)
    await batcher.close()


def answers(loaded, pixels):
    """Probabilities [rows, 10] of pictures [rows, 28, 28]."""
    name = loaded.manifest.inputs[0].name
    return loaded.engine.run([{name: pixels}], len(pixels), 0)[0]


def erase(pixels, order, count):
    """The pictures without the first `count` pixels of each row's order [rows, 784]."""
    left = pixels.reshape(len(pixels), -1).copy()
    np.put_along_axis(left, order[:, :count], 0, axis=1)
    return left.reshape(pixels.shape)
