"""The training loop: seeds, schedule, averaged weights, best on validation, early stop, a checkpoint each epoch.

It knows no task and prints nothing. Every epoch starts from seeds of its own, so that a run that was cut off and goes
on from its last checkpoint ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.jobs import EpochRow, Progress
from training import checkpoint, runtime
from training.tasks.base import Optimisation, Split, Splits, Task

Weights = dict[str, Tensor]


class FitDivergedError(Exception):
    """The loss is no longer a number."""


class Watcher(Protocol):
    """Who is told how it goes."""

    def step(self, progress: Progress) -> None:
        """A step is done; called often, must be quick."""

    def epoch(self, row: EpochRow, stopped_early: bool) -> None:
        """An epoch is done and its checkpoint is on disk; after a resume told again for the epochs before it."""


@dataclass(frozen=True)
class FitSettings:
    """What a job may set."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class FitResult:
    """The network with its best weights, in inference mode on the CPU, and how the run went."""

    module: nn.Module
    history: list[EpochRow]
    best_epoch: int
    stopped_early: bool
    seconds: float
    halved_after: int | None
    """The epoch after which the run went on with half its batch size, `None` if it did not."""
    cpu_seconds: float
    """CPU time of the epochs, all threads: unlike `seconds` the same beside other work."""


@dataclass
class _State:
    step: int = 0
    history: list[EpochRow] = field(default_factory=list)
    best: Weights = field(default_factory=dict)
    best_epoch: int = 0
    best_key: tuple[float, float] = (-math.inf, -math.inf)
    stopped: bool = False
    cpu_s: float = 0.0
    batch_size: int = 0
    halved_after: int | None = None


def rate_factor(schedule: str, done: float) -> float:
    """The share of the top learning rate after the share `done` (0..1) of all steps.

    `onecycle`: up from 1/25 over the first quarter, then down to 1/10,000, both as half cosines (Smith and Topin,
    "Super-Convergence", 2019). `cosine`: a straight warm-up over 5 %, then down to 0. `constant`: 1.
    """
    done = min(max(done, 0.0), 1.0)
    if schedule == "constant":
        return 1.0
    if schedule == "onecycle":
        return _half_cosine(1 / 25, 1.0, done / 0.25) if done < 0.25 else _half_cosine(1.0, 1e-4, (done - 0.25) / 0.75)
    if schedule == "cosine":
        return max(done / 0.05, 1e-3) if done < 0.05 else _half_cosine(1.0, 0.0, (done - 0.05) / 0.95)
    raise ValueError(f"{schedule!r} is not a schedule; there are onecycle, cosine and constant")


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An update rule of averaged weights: exponential, with a shorter memory in the first steps.

    The warm-up (1 + n) / (10 + n) is that of TensorFlow's ExponentialMovingAverage.
    """

    def update(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        seen = int(count)
        return torch.lerp(averaged, current, 1 - min(decay, (1 + seen) / (10 + seen)))

    return update


class _Fit:
    """One run; `judged` is what validation sees: the averaged network, or the network itself without averaging."""

    def __init__(self, task: Task, network: str, splits: Splits, settings: FitSettings, watcher: Watcher) -> None:
        self.task, self.splits, self.settings, self.watcher = task, splits, settings, watcher
        self.options: Optimisation = task.optimisation(network)
        self.device = runtime.prepare(settings.seed)
        self.module = task.build(network, splits).to(self.device)
        self.optimiser = _optimiser(self.module, settings.learning_rate, self.options)
        decay = self.options.average_decay
        self.average = AveragedModel(self.module, avg_fn=moving_average(decay), use_buffers=True) if decay else None
        self.judged: nn.Module = self.module if self.average is None else self.average.module
        self.validation = _moved(splits.validation, self.device)
        self.steps = math.ceil(len(splits.train) / settings.batch_size)
        self.state = _State(batch_size=settings.batch_size)
        self.identity = {
            "network": network,
            **asdict(settings),
            **asdict(self.options),
            "rows": len(splits.train),
            "device": self.device.type,
        }

    def run(self, path: Path, resume: bool) -> FitResult:
        if resume and (saved := checkpoint.load(path, self.identity)) is not None:
            self._restore(saved)
            for row in self.state.history:
                self.watcher.epoch(row, self.state.stopped and row is self.state.history[-1])
        self.started, self.steps_here = time.monotonic(), 0
        while len(self.state.history) < self.settings.epochs and not self.state.stopped:
            row = self._epoch(len(self.state.history) + 1)
            checkpoint.save(path, self.identity, self._snapshot())
            self.watcher.epoch(row, self.state.stopped)
        self.judged.load_state_dict(self.state.best)
        seconds = sum(row.seconds for row in self.state.history)
        return FitResult(
            module=self.judged.cpu().eval(),
            history=self.state.history,
            best_epoch=self.state.best_epoch,
            stopped_early=self.state.stopped,
            seconds=seconds,
            halved_after=self.state.halved_after,
            cpu_seconds=self.state.cpu_s,
        )

    def _epoch(self, epoch: int) -> EpochRow:
        begun, begun_cpu = time.monotonic(), time.process_time()
        train_loss = self._train(epoch)
        self._finite(train_loss, f"epoch {epoch}")
        val_loss, metric = self._validate()
        self._finite(val_loss + metric, f"epoch {epoch}")
        row = EpochRow(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=val_loss,
            val_metric=metric,
            seconds=round(time.monotonic() - begun, 3),
        )
        self._judge(row)
        self.state.cpu_s += time.process_time() - begun_cpu
        return row

    def _train(self, epoch: int) -> float:
        seed = self.settings.seed * 1_000_003 + epoch
        runtime.seed_all(seed)
        generator = torch.Generator().manual_seed(seed)
        self.module.train()
        total, count = torch.zeros((), device=self.device), 0
        for inputs, targets in self.task.batches(self.splits.train, self.settings.batch_size, generator):
            loss = self._step({name: rows.to(self.device) for name, rows in inputs.items()}, targets.to(self.device))
            total += loss * len(targets)
            count += len(targets)
            self._tell(epoch, loss)
        return total.item() / max(count, 1)

    def _step(self, inputs: Weights, targets: Tensor) -> Tensor:
        done = self.state.step / (self.steps * self.settings.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * rate_factor(self.options.schedule, done)
        loss = self.task.loss(self.module, inputs, targets)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.options.clip_norm:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.options.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        self.state.step += 1
        return loss.detach()

    def _tell(self, epoch: int, loss: Tensor) -> None:
        self.steps_here += 1
        step = self.state.step - (epoch - 1) * self.steps
        # reading a loss waits for a GPU, so a run that has gone astray is looked for now and then
        if self.state.step % 20 == 0:
            self._finite(loss.item(), f"epoch {epoch}, step {step}")
        left = self.steps * self.settings.epochs - self.state.step
        pace = (time.monotonic() - self.started) / self.steps_here
        eta = round(pace * left, 1) if self.steps_here >= 10 else None
        self.watcher.step(
            Progress(epoch=epoch, epochs=self.settings.epochs, step=min(step, self.steps), steps=self.steps, eta_s=eta)
        )

    def _finite(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise FitDivergedError(
                f"the training diverged in {where}: the loss is no longer a finite number; "
                f"try a learning rate below {self.settings.learning_rate:g}"
            )

    def _validate(self) -> tuple[float, float]:
        """Loss and metric of the validation split."""
        self.judged.eval()
        with torch.no_grad():
            raw = self.task.predict(self.judged, self.validation).cpu()
            figures = self.task.metrics(raw, self.splits.validation)
            loss = figures.get("loss")
            if loss is None:
                loss = self._mean_loss()
        return loss, figures[self.task.recipe.metric]

    def _mean_loss(self) -> float:
        total = 0.0
        for inputs, targets in self.task.batches(self.validation, 256, None):
            total += self.task.loss(self.judged, inputs, targets).item() * len(targets)
        return total / len(self.validation)

    def _judge(self, row: EpochRow) -> None:
        """Keep the best weights (a tie goes to the lower loss), and stop when they have been the best for long.

        With a tolerance the latest of the epochs within it of the best one counts as the best.
        """
        sign = 1.0 if self.task.recipe.metric_higher_is_better else -1.0
        state, key = self.state, (sign * row.val_metric, -row.val_loss)
        state.history.append(row)
        tolerance = self.options.tolerance
        if key > state.best_key or (tolerance and key[0] >= state.best_key[0] - tolerance):
            state.best_key, state.best_epoch = max(key, state.best_key), row.epoch
            state.best = {name: value.detach().cpu().clone() for name, value in self.judged.state_dict().items()}
        state.stopped = row.epoch - state.best_epoch >= self.options.patience and row.epoch < self.settings.epochs

    def _snapshot(self) -> dict[str, Any]:
        return {
            **vars(self.state),
            "history": [row.model_dump() for row in self.state.history],
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        self.module.load_state_dict(saved.pop("module"))
        self.optimiser.load_state_dict(saved.pop("optimiser"))
        if (average := saved.pop("average")) is not None and self.average is not None:
            self.average.load_state_dict(average)
        self.state = _State(**saved | {"history": [EpochRow(**row) for row in saved["history"]]})
        if self.state.batch_size not in {0, self.settings.batch_size}:  # 0: a checkpoint that did not tell it yet
            self.state.halved_after = len(self.state.history)
            self.state.step = self.state.halved_after * self.steps
        self.state.batch_size = self.settings.batch_size


def fit(
    task: Task,
    network: str,
    splits: Splits,
    settings: FitSettings,
    watcher: Watcher,
    checkpoint_file: Path,
    resume: bool = False,
) -> FitResult:
    """Train a network of the task; with `resume` from the last epoch in `checkpoint_file`, if there is one.

    Raises FitDivergedError, and checkpoint.CheckpointMismatchError when the file is another run's.
    """
    return _Fit(task, network, splits, settings, watcher).run(checkpoint_file, resume)


def _optimiser(module: nn.Module, learning_rate: float, options: Optimisation) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, not biases and norms."""
    named = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [one for one in named if one.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [one for one in named if one.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, options.second_decay),
    )


def _moved(split: Split, device: torch.device) -> Split:
    return Split({name: rows.to(device) for name, rows in split.inputs.items()}, split.targets.to(device))
