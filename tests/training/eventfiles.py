"""Event files as TensorBoard itself reads them."""

import warnings


def figures(folder):
    """Steps and values by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    read = EventAccumulator(str(folder))
    read.Reload()
    return {name: [(one.step, round(one.value, 4)) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}
