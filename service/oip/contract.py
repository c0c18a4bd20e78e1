"""What one version's graph takes and gives, and the check of a request against it: rows that the batcher can take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.manifest import Manifest, SeriesSpec, TensorSpec, TextSpec
from service.batch import Part
from service.engine import Array, Tensors
from service.inputs.readings import Ranges, judge
from service.inputs.series import LARGEST
from service.oip import values
from service.oip.errors import invalid
from service.oip.request import Asked, Tensor, Wanted
from service.warnings import Code

_WEEK_HOURS = 168
MostRows = Callable[[int], int]


class Output(NamedTuple):
    """One output to send: its place among the graph's, and how it is wanted."""

    at: int
    wanted: Wanted


class Query(NamedTuple):
    """A request that has passed every check; `codes` are the warnings of each row, or empty where no row has one."""

    asked: Asked
    outputs: list[Output]
    parts: list[Part]
    codes: Sequence[Sequence[Code]] = ()


class Contract:
    """The tensors of one version, with their limits.

    `vocabulary` is the number of tokens a text model knows; `most_items` rows come with one request at most.
    `is_unknown` tells whether a text, by its ids without padding, is mostly of unknown words; `ranges` are those of a
    series model's columns in training.
    """

    def __init__(
        self,
        manifest: Manifest,
        vocabulary: int | None,
        most_items: int,
        is_unknown: Callable[[Array], bool] | None = None,
        ranges: Ranges | None = None,
    ) -> None:
        self.manifest = manifest
        self._inputs = {spec.name: spec for spec in manifest.inputs}
        self._outputs = {spec.name: index for index, spec in enumerate(manifest.outputs)}
        self._vocabulary = vocabulary
        self._most_items = most_items
        self._most_length = _most_length(manifest)
        self._is_unknown = is_unknown
        self._ranges = ranges

    def check(self, asked: Asked, body: bytes, at: int, most_rows: MostRows) -> Query:
        """The rows of a request whose JSON ends at `at` of the body; a part has at most `most_rows(length)` of them.

        Raises InvalidInput.
        """
        outputs = self._wanted(asked)
        self._check_names([tensor.name for tensor in asked.inputs])
        tensors: Tensors = {}
        for given in asked.inputs:
            tensor = self._in_shape(given)
            if tensor.size is None:
                tensors[tensor.name] = values.from_lists(tensor)
            else:
                tensors[tensor.name] = values.from_bytes(tensor, body, at)
                at += tensor.size
        if at != len(body):
            raise invalid(f"The body has {len(body) - at} bytes more than its JSON and its tensors take.")
        parts = self._parts(tensors, most_rows)
        return Query(asked, outputs, parts, self._codes(tensors))

    def check_raw(self, body: bytes, most_rows: MostRows) -> Query:
        """The one row of a request that is nothing but its tensor's bytes; its outputs go back as bytes too."""
        specs = self.manifest.inputs
        free = [size for size in specs[0].shape[1:] if isinstance(size, str)]
        if len(specs) != 1 or len(free) > 1:
            raise invalid(
                f"{self.manifest.name} takes more than one tensor can say; send JSON with the tensors' bytes."
            )
        (spec,) = specs
        fixed = math.prod(size for size in spec.shape[1:] if isinstance(size, int))
        step = fixed * np.dtype(spec.dtype).itemsize
        count = len(body) // step if free else 1
        if count * step != len(body) or not count:
            raise invalid(f"One row of input {spec.name!r} takes {'a multiple of ' * bool(free)}{step} bytes, "
                          f"the body has {len(body)}.")  # fmt: skip
        shape = (1, *(size if isinstance(size, int) else count for size in spec.shape[1:]))
        tensor = Tensor(spec.name, values.NAMES[spec.dtype], shape, len(body), None)
        return self.check(Asked(None, (tensor,), None, binary=True, timeout_s=None), body, 0, most_rows)

    # ------------------------------------------------------------------ names and shapes

    def _wanted(self, asked: Asked) -> list[Output]:
        if asked.outputs is None:
            return [Output(index, Wanted(name, asked.binary, 0)) for name, index in self._outputs.items()]
        for wanted in asked.outputs:
            if wanted.name not in self._outputs:
                raise invalid(f"{self.manifest.name} has no output {wanted.name!r}; it gives {_list(self._outputs)}.")
            if wanted.classes and len(self.manifest.outputs[self._outputs[wanted.name]].shape) != 2:
                raise invalid(f"output {wanted.name!r} has no classes to choose from.")
        return [Output(self._outputs[wanted.name], wanted) for wanted in asked.outputs]

    def _check_names(self, names: list[str]) -> None:
        for name in names:
            if name not in self._inputs:
                raise invalid(f"{self.manifest.name} has no input {name!r}; it takes {_list(self._inputs)}.")
        missing = [name for name in self._inputs if name not in names]
        if missing or len(names) != len(self._inputs):
            problem = f"{_list(missing)} is missing" if missing else "one is given twice"
            raise invalid(f"{self.manifest.name} takes the inputs {_list(self._inputs)}, each once; {problem}.")

    def _in_shape(self, tensor: Tensor) -> Tensor:
        """The tensor, if its datatype and shape are the graph's; one number a row may come as [rows, 1] as well."""
        spec, shape = self._inputs[tensor.name], tensor.shape
        if len(spec.shape) == 1 and len(shape) == 2 and shape[1] == 1:
            shape = shape[:1]
        datatype = values.NAMES[spec.dtype]
        if tensor.datatype != datatype:
            raise invalid(f"input {tensor.name!r} takes {datatype}, not {tensor.datatype[:16]}.")
        fits = len(shape) == len(spec.shape) and all(
            isinstance(size, str) or size == given for size, given in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join(str(size) for size in spec.shape)
            raise invalid(f"input {tensor.name!r} takes the shape [{wanted}], got {list(shape)}.")
        if not 1 <= shape[0] <= self._most_items:
            raise invalid(f"A request has 1 to {self._most_items} rows, input {tensor.name!r} has {shape[0]}.")
        if _has_length(spec) and not 1 <= shape[1] <= self._most_length:
            raise invalid(f"A row of {tensor.name!r} has 1 to {self._most_length} steps, here are {shape[1]}.")
        return tensor if shape is tensor.shape else tensor._replace(shape=shape, data=_unnested(tensor.data))

    # ------------------------------------------------------------------ rows

    def _parts(self, tensors: Tensors, most_rows: MostRows) -> list[Part]:
        rows = {array.shape[0] for array in tensors.values()}
        lengths = {tensors[name].shape[1] for name, spec in self._inputs.items() if _has_length(spec)}
        if len(rows) > 1 or len(lengths) > 1:
            raise invalid("All inputs of a request must have the same number of rows, and the same length.")
        (count,), length = rows, max(lengths, default=0)
        self._check_values(tensors, length)
        most = most_rows(length)
        if count <= most:
            return [Part(tensors, count, length)]
        return [
            Part({name: array[at : at + most] for name, array in tensors.items()}, min(most, count - at), length)
            for at in range(0, count, most)
        ]

    def _check_values(self, tensors: Tensors, length: int) -> None:
        text, series = self.manifest.text, self.manifest.series
        for name, spec in self._inputs.items():
            if spec.dtype == "float32" and not (np.abs(tensors[name]) <= LARGEST).all():
                raise invalid(f"input {name!r} may hold finite numbers up to {LARGEST:g} only.")
            if text is not None and spec.dtype == "int64" and _has_length(spec):
                self._check_tokens(name, tensors[name], text)
            if series is not None and spec.dtype == "int64":
                _check_series(name, tensors[name], series, length)

    def _codes(self, tensors: Tensors) -> list[list[Code]]:
        """The warnings of each row by its content; an empty list where no row has one."""
        text, series = self.manifest.text, self.manifest.series
        code: Code
        if text is not None and self._is_unknown is not None:
            code, rows = "unknown_words", tensors[self.manifest.inputs[0].name]
            lengths = (rows != text.pad_id).sum(1).tolist()
            found = [self._is_unknown(row[:length]) for row, length in zip(rows, lengths, strict=True)]
        elif series is not None:
            code, rows, lengths = "implausible_values", tensors["values"], tensors["lengths"].tolist()
            read = (row[max(0, length - series.look_back) : length] for row, length in zip(rows, lengths, strict=True))
            found = [judge(row.astype(np.float64), self._ranges) is not None for row in read]
        else:
            return []
        return [[code] if each else [] for each in found] if any(found) else []

    def _check_tokens(self, name: str, ids: Array, text: TextSpec) -> None:
        """Every id is one of the tokenizer's; padding is at the end of a row, and nowhere else."""
        if self._vocabulary is not None:
            _check_range(name, ids, 0, self._vocabulary - 1, "an id of the model's tokenizer")
        padding = ids == text.pad_id
        if padding.any():
            if padding[:, 0].any():
                raise invalid(f"A row of {name!r} begins with padding ({text.pad_id}); padding goes to its end.")
            if (padding[:, :-1] & ~padding[:, 1:]).any():
                raise invalid(f"A row of {name!r} has padding ({text.pad_id}) before its end.")


def _check_series(name: str, array: Array, series: SeriesSpec, length: int) -> None:
    if name == "lengths":
        if length < series.min_length:
            raise invalid(f"The model needs {series.min_length} steps or more, the rows have {length}.")
        _check_range(name, array, series.min_length, length, "the number of steps in the row")
    if name == "hour_of_week":
        _check_range(name, array, 0, _WEEK_HOURS - 1, "the hour of the row's first step, 0 = Monday 00:00")


def _check_range(name: str, array: Array, low: int, high: int, meaning: str) -> None:
    smallest, largest = int(array.min()), int(array.max())
    if smallest < low or largest > high:
        wrong = smallest if smallest < low else largest
        raise invalid(f"input {name!r} holds {wrong}; {meaning} is from {low} to {high}.")


def _unnested(data: Any) -> Any:
    """The numbers of rows that may come as lists of one."""
    if not isinstance(data, list):
        return data
    return [each[0] if isinstance(each, list) and len(each) == 1 else each for each in data]


def _most_length(manifest: Manifest) -> int:
    if manifest.text is not None:
        return manifest.text.max_length
    if manifest.series is not None:
        return manifest.series.look_back
    return max(manifest.buckets.lengths, default=1)


def _has_length(spec: TensorSpec) -> bool:
    return len(spec.shape) > 1 and isinstance(spec.shape[1], str)


def _list(names: object) -> str:
    return ", ".join(repr(name) for name in names)  # type: ignore[attr-defined]
