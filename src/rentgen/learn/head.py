"""The head on frozen features: dense, ReLU, dropout, dense; trained by Adam in a plain loop.

The gradient of so small a network is written out, all four parameters live in one flat tensor, and each step is a
handful of calls into preallocated memory: at this size the overhead of a framework costs more than its arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.adam import adam

from rentgen.errors import DataError
from rentgen.learn.objective import objective_of
from rentgen.learn.settings import HeadSettings
from rentgen.records import Epoch, Float32, History, Int64

FeatureMatrix = npt.NDArray[np.float16] | npt.NDArray[np.float32]

SCORING_BATCH = 4096
PRELOAD_BYTES = 4 << 30
"""Up to this size the features are held in memory as float32; beyond it each batch is read from the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Features of one part.

    Attributes:
        views: each (films, features); view 0 is the film itself. In memory or memory-mapped.
        labels: (films,) class numbers, or (films, findings).
    """

    views: tuple[FeatureMatrix, ...]
    labels: Int64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Trained weights.

    Attributes:
        hidden_weight: (hidden, features).
        hidden_bias: (hidden,).
        class_weight: (classes, hidden).
        class_bias: (classes,).
    """

    hidden_weight: Float32
    hidden_bias: Float32
    class_weight: Float32
    class_bias: Float32

    def logits(self, features: Float32) -> Float32:
        """Return (films, classes) for (films, features)."""
        hidden = np.maximum(features @ self.hidden_weight.T + self.hidden_bias, 0)
        logits: Float32 = hidden @ self.class_weight.T + self.class_bias
        return logits


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread, and to numbers that a processor computes at full speed.

    Two threads would be a third faster on an idle machine, many times slower on a busy one (each small product waits
    for the thread that was put aside), and not the same to the last bit for every batch.

    Adam's moments of a hidden unit that no longer answers sink below the smallest normal number, where each operation
    takes a hundred times as long: after some thousands of steps that tripled the time of a step. As zero they change
    no weight: a step of theirs is some 1e-30.
    """
    before = torch.get_num_threads()
    flushed = not bool(torch.tensor(1e-39) * 1 > 0)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(before)


@_one_thread()
def train_head(
    train: Features,
    validation: Features,
    settings: HeadSettings,
    *,
    classes: int,
    test: Features | None = None,
    progress: Callable[[int, Mapping[str, Epoch]], None] | None = None,
) -> tuple[Head, History]:
    """Return the head with the lowest validation loss, and how training went.

    The loss that is minimised is `learn.objective`'s, class weights and label smoothing included. The history has plain
    cross-entropy, so that settings compare; training figures are those of the epoch's own batches, with
    dropout and augmented views on, as Keras reports them. The test part is recorded after each epoch and looked at by
    nothing.

    Args:
        train: fits the weights; each epoch takes one view of each film at random.
        validation: stops the training and chooses the epoch.
        settings: of the recipe.
        classes: how many.
        test: recorded only.
        progress: called after each epoch with its number (from 0) and figures.

    Raises:
        DataError: a part is empty.
    """
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if part is not None and len(part) == 0:
            raise DataError(f"Expected films in the {name} part, but it is empty.")
    generator = torch.Generator().manual_seed(settings.seed)
    loop = _Loop(train, settings, classes, generator)
    scored = {"validation": validation} | ({} if test is None else {"test": test})
    resident = {name: _stacked(part.views[:1]) for name, part in scored.items()}
    parts: dict[str, list[Epoch]] = {name: [] for name in ("train", *scored)}
    best_loss, best_epoch, best = float("inf"), 0, loop.weights.clone()
    start = time.perf_counter()
    for epoch in range(settings.epochs):
        parts["train"].append(loop.run_epoch())
        for name, part in scored.items():
            parts[name].append(_score(loop, resident[name], part))
        loss = parts["validation"][-1].loss
        if loss < best_loss:
            best_loss, best_epoch = loss, epoch
            best.copy_(loop.weights)
        if progress is not None:
            progress(epoch, {name: epochs[-1] for name, epochs in parts.items()})
        if epoch - best_epoch >= settings.patience:
            break
    history = History(
        parts={name: tuple(epochs) for name, epochs in parts.items()},
        best_epoch=best_epoch,
        seconds=time.perf_counter() - start,
    )
    return Head(*(tensor.numpy() for tensor in loop.split(best))), history


def initial_weights(features: int, hidden: int, classes: int, generator: torch.Generator) -> Tensor:
    """Return flat weights: Glorot uniform (Glorot and Bengio 2010), as Keras starts a dense layer, and zero biases."""
    flat = torch.zeros(hidden * features + hidden + classes * hidden + classes)
    limits = (
        (0, hidden * features, features + hidden),
        (hidden * features + hidden, classes * hidden, hidden + classes),
    )
    for start, count, fans in limits:
        limit = (6.0 / fans) ** 0.5
        flat[start : start + count].uniform_(-limit, limit, generator=generator)
    return flat


class _Loop:
    """The state of one training: weights, moments and scratch memory."""

    def __init__(self, train: Features, settings: HeadSettings, classes: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.classes = classes
        self.generator = generator
        self.views = train.views
        self.stacked = _stacked(train.views)
        self.labels = torch.from_numpy(train.labels)
        self.features = train.views[0].shape[1]
        self.weights = initial_weights(self.features, settings.hidden, classes, generator)
        self.gradient = torch.zeros_like(self.weights)
        self.parameters = self.split(self.weights)
        self.gradients = self.split(self.gradient)
        self.moments = (torch.zeros_like(self.weights), torch.zeros_like(self.weights))
        self.steps = torch.zeros(())
        self.objective = objective_of(
            self.labels, classes, weigh=settings.class_weights, smoothing=settings.label_smoothing
        )
        self.targets = self.objective.prepare(self.labels)
        self.batch = torch.empty(settings.batch_size, self.features)

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four parameters as views of the flat tensor."""
        hidden, features, classes = self.settings.hidden, self.features, self.classes
        w1, b1, w2, b2 = torch.split(flat, [hidden * features, hidden, classes * hidden, classes])
        return w1.view(hidden, features), b1, w2.view(classes, hidden), b2

    @torch.inference_mode()
    def run_epoch(self) -> Epoch:
        """Train on every film once, in a new order, and return the figures of these batches."""
        settings, count = self.settings, len(self.labels)
        order = torch.randperm(count, generator=self.generator)
        view = torch.randint(len(self.views), (count,), generator=self.generator)
        targets = tuple(values[order] for values in self.targets)
        logits = torch.empty(count, self.classes)
        for start in range(0, count, settings.batch_size):
            stop = min(start + settings.batch_size, count)
            batch = self._gather(order[start:stop], view[start:stop])
            rows = tuple(values[start:stop] for values in targets)
            # Batch by batch, the same numbers as for all films at once, which would take a kilobyte a film.
            keep = torch.rand(stop - start, settings.hidden, generator=self.generator).ge_(settings.dropout)
            keep /= 1 - settings.dropout
            self._step(batch, rows, keep, logits[start:stop])
        return self.objective.figures(logits, self.labels[order])

    def _gather(self, films: Tensor, view: Tensor) -> Tensor:
        batch = self.batch[: len(films)]
        if self.stacked is not None:
            return torch.index_select(self.stacked, 0, view * len(self.labels) + films, out=batch)
        for number, source in enumerate(self.views):
            chosen = (view == number).nonzero().squeeze(1)
            batch[chosen] = torch.from_numpy(source[films[chosen].numpy()].astype(np.float32))
        return batch

    def _step(self, batch: Tensor, targets: tuple[Tensor, ...], keep: Tensor, logits: Tensor) -> None:
        w1, b1, w2, b2 = self.parameters
        hidden = torch.addmm(b1, batch, w1.t()).relu_()  # (B, hidden)
        dropped = hidden * keep  # (B, hidden)
        torch.addmm(b2, dropped, w2.t(), out=logits)  # (B, classes)
        wrong = self.objective.slope(logits, *targets)  # (B, classes)
        gw1, gb1, gw2, gb2 = self.gradients
        torch.mm(wrong.t(), dropped, out=gw2)
        torch.sum(wrong, 0, out=gb2)
        back = torch.mm(wrong, w2).mul_(keep).mul_(hidden > 0)  # (B, hidden)
        torch.mm(back.t(), batch, out=gw1)
        torch.sum(back, 0, out=gb1)
        # Kingma and Ba 2015; the functional form, because the optimizer object costs as much again as the arithmetic.
        adam(
            [self.weights], [self.gradient], [self.moments[0]], [self.moments[1]], [], [self.steps],
            fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=self.settings.learning_rate, weight_decay=0.0,
            eps=1e-8, maximize=False,
        )  # fmt: skip


def _score(loop: _Loop, resident: Tensor | None, part: Features) -> Epoch:
    w1, b1, w2, b2 = loop.parameters
    logits = []
    with torch.inference_mode():
        for start in range(0, len(part), SCORING_BATCH):
            rows = slice(start, start + SCORING_BATCH)
            batch = torch.from_numpy(part.views[0][rows].astype(np.float32)) if resident is None else resident[rows]
            logits.append(torch.addmm(b2, torch.addmm(b1, batch, w1.t()).relu_(), w2.t()))
        return loop.objective.figures(torch.cat(logits), torch.from_numpy(part.labels))


def _stacked(views: Sequence[FeatureMatrix]) -> Tensor | None:
    """Return all views below each other, in memory as float32, when they are small enough."""
    if sum(view.size for view in views) * 4 > PRELOAD_BYTES:
        return None
    return torch.from_numpy(np.concatenate(views, dtype=np.float32))
