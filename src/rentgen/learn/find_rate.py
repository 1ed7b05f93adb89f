"""The learning-rate range test (Smith 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from rentgen.learn.finetune import FineTuning, keep_memory, make_classifier
from rentgen.learn.objective import objective_of
from rentgen.learn.shift import film_sources, shift_batch, smooth_batch
from rentgen.learn.stages import find_stages, make_optimizer, open_stages
from rentgen.records import Progress

FINDER_STEPS = 100
LOWEST_RATE, HIGHEST_RATE = 1e-7, 1.0


@dataclass(frozen=True, slots=True)
class RateSearch:
    """A learning-rate range test (Smith 2017).

    Attributes:
        rates: tried, rising.
        losses: of the step at each rate, smoothed.
        suggestion: a tenth of the rate at which the loss was lowest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_rate(task: FineTuning, *, steps: int = FINDER_STEPS, progress: Progress | None = None) -> RateSearch:
    """Return how the loss answers to a rate that rises from step to step; all stages are open.

    Args:
        task: what would be trained; nothing of it is kept.
        steps: at most so many; the search ends where the loss explodes.
        progress: stage `find-lr`.
    """
    settings = replace(task.settings, unfreeze_epochs=0.0)
    train = task.parts["train"]
    classes = len(task.head.class_bias)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_memory()
    model = make_classifier(task).to(device).to(memory_format=torch.channels_last)
    stages = find_stages(model.backbone.network)
    optimizer = make_optimizer(model, stages, settings)
    open_stages(model, stages, settings, 0.0)
    objective = objective_of(torch.from_numpy(train.labels), classes, weigh=False, smoothing=settings.label_smoothing)
    rng = np.random.default_rng(settings.seed)
    rates, losses = [], []
    smoothed = 0.0
    for step in range(steps):
        rate = LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** (step / max(1, steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        chosen = np.sort(rng.choice(len(train), min(settings.batch_size, len(train)), replace=False))
        sources = film_sources(settings.seed, step, range(len(chosen)))
        labels = torch.from_numpy(train.labels[chosen]).to(device)
        films = shift_batch(torch.from_numpy(train.images[chosen]).to(device), task.shift, sources)
        loss = objective.loss(model(smooth_batch(films, task.smooth_px))[0], *objective.prepare(labels))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smoothed = 0.9 * smoothed + 0.1 * loss.item()
        rates.append(rate)
        losses.append(smoothed / (1 - 0.9 ** (step + 1)))
        if progress is not None:
            progress("find-lr", step + 1, steps, f"rate {rate:.1e}, loss {losses[-1]:.3f}")
        if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses):
            break
    finite = [number for number, loss in enumerate(losses) if math.isfinite(loss)]
    lowest = min(finite, key=lambda number: losses[number])
    return RateSearch(
        tuple(rates[number] for number in finite), tuple(losses[number] for number in finite), rates[lowest] / 10
    )
