"""Fine-tuning: the whole network trained on from its pretrained weights and the head of the cached features.

One loop, read top to bottom. Stages are timm's (`group_matcher`): they join from the top down, each with a lower rate
than the one above (Howard and Ruder 2018); AdamW (Loshchilov and Hutter 2019), one cycle with a warm-up (Smith 2018),
an exponential average of the weights that is what is judged and kept (Polyak and Juditsky 1992). Everything random is
drawn from the step's number, and a checkpoint holds all the rest, so that a run killed at any moment goes on as if it
had not been.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import json
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from rentgen.engine.session import best_precision
from rentgen.errors import DataError
from rentgen.learn.backbones import Backbone, hash_weights
from rentgen.learn.choice import calibrated_loss
from rentgen.learn.export import TorchClassifier
from rentgen.learn.head import Head
from rentgen.learn.objective import objective_of
from rentgen.learn.settings import FineTuneSettings, ShiftSettings
from rentgen.learn.shift import mix_batch, shift_batch, smooth_batch
from rentgen.records import Epoch, History, Int64, Precision, Progress, UInt8

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 60.0
"""What a kill can cost."""
CHECKPOINTED = ("model", "average", "optimizer", "scaler")
SCORING_BATCH = 64
FINDER_STEPS = 100
LOWEST_RATE, HIGHEST_RATE = 1e-7, 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Films:
    """Prepared films of one part.

    Attributes:
        images: (films, height, width), in memory or memory-mapped.
        labels: (films,) class numbers, or (films, findings).
    """

    images: UInt8
    labels: Int64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class FineTuning:
    """What the loop needs to know, besides the settings.

    Attributes:
        backbone: with its pretrained weights; it is not changed.
        head: trained on its features.
        parts: `train`, `validation`, `stress` (which choose) and, where there is one, `test` (recorded only).
        settings: of the recipe.
        shift: what augmentation changes.
        smooth_px: the low-pass that follows augmentation; the other parts' films have had it.
        dropout: of the hidden units.
        identity: of the films, for the checkpoint.
        checkpoint: the file that is written, and gone on from.
    """

    backbone: Backbone
    head: Head
    parts: Mapping[str, Films]
    settings: FineTuneSettings
    shift: ShiftSettings
    smooth_px: float
    dropout: float
    identity: str
    checkpoint: Path


def finetune(
    task: FineTuning, *, over: Callable[[], bool] | None = None, progress: Progress | None = None
) -> tuple[Backbone, Head, History]:
    """Return the backbone and head of the best epoch, and how training went.

    The best epoch has the lowest mean of plain and stressed validation loss, by `stress_weight`, after a calibration
    (`calibrated_loss`). Figures are plain cross-entropy of the averaged weights, so that recipes compare; the training
    part's are of the epoch's own augmented batches and of the weights under training.

    Args:
        task: what to train, and on what.
        over: asked after each epoch; True ends the training with the best so far.
        progress: stage `finetune`, steps done, steps in all, and a note.

    Raises:
        DataError: a part is empty, or the loss is no number any more.
    """
    settings, train = task.settings, task.parts["train"]
    for name, part in task.parts.items():
        if len(part) == 0:
            raise DataError(f"Expected films in the {name} part, but it is empty.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_memory()
    classes = len(task.head.class_bias)
    model = _classifier(task).to(device).to(memory_format=torch.channels_last)
    stages = find_stages(model.backbone.network)
    optimizer = _optimizer(model, stages, settings)
    average = copy.deepcopy(model).requires_grad_(False)
    objective = objective_of(
        torch.from_numpy(train.labels), classes, weigh=settings.class_weights, smoothing=settings.label_smoothing
    )
    scaler, arithmetic = _arithmetic(settings.precision, device)

    per_epoch = max(1, len(train) // settings.batch_size)
    steps = per_epoch * settings.epochs
    state = _State(parts={name: [] for name in task.parts})
    identity = _identify(task)
    working = _Working(model, average, optimizer, scaler)
    _resume(task.checkpoint, identity, state, working)
    saved = time.monotonic()
    started, first = time.monotonic(), state.step

    while state.step < steps and not state.stopped:
        epoch, position = divmod(state.step, per_epoch)
        # In order of what decides: the films of the step, the rates of the step, the stages that are open in it.
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(train))
        chosen = np.sort(order[position * settings.batch_size : (position + 1) * settings.batch_size])
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + state.step)
        _set_rates(optimizer, settings, state.step, steps)
        _open_stages(model, stages, settings, state.step / per_epoch)

        labels = torch.from_numpy(train.labels[chosen]).to(device)
        films = shift_batch(torch.from_numpy(train.images[chosen]).to(device), task.shift, generator)  # (B, H, W)
        films, targets = mix_batch(films, objective.prepare(labels), task.shift, generator)
        films = smooth_batch(films, task.smooth_px)
        with arithmetic():
            features, _ = model.backbone.embed(films)  # (B, C)
        hidden = model.hidden(features).relu()  # (B, hidden)
        keep = torch.rand(hidden.shape, generator=generator).to(device).ge(task.dropout) / (1 - task.dropout)
        logits = model.classifier(hidden * keep)  # (B, classes)
        loss = objective.loss(logits, *targets)
        if not math.isfinite(loss.item()):
            raise DataError(
                f"The loss of step {state.step + 1} is {loss.item()}: the rate {settings.learning_rate:g} is too high "
                "for these films. Lower finetune.learning_rate; `--find-lr` draws where it may lie."
            )
        torch.autograd.backward(scaler.scale(loss))
        if settings.clip_norm > 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([item for item in model.parameters() if item.grad is not None], settings.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        _follow(average, model, settings.ema, state.step)
        state.step += 1
        state.seen.append((logits.detach().float().cpu(), labels.cpu()))

        if progress is not None:
            rate = (state.step - first) / max(time.monotonic() - started, 1e-9)
            progress("finetune", state.step, steps, _note(state, loss.item(), rate, steps))
        if state.step % per_epoch == 0:
            told, truth = zip(*state.seen, strict=True)
            state.parts["train"].append(objective.figures(torch.cat(told), torch.cat(truth)))
            state.seen.clear()
            for name, part in task.parts.items():
                if name != "train":
                    answers = answer(average, part, arithmetic)
                    state.parts[name].append(objective.figures(answers, torch.from_numpy(part.labels)))
                    state.choice[name] = calibrated_loss(answers.numpy(), part.labels)
            _judge_epoch(state, average, settings)
            state.stopped |= over is not None and over()
        if time.monotonic() - saved > CHECKPOINT_SECONDS or state.step % per_epoch == 0:
            state.seconds += time.monotonic() - saved
            saved = time.monotonic()
            _save(task.checkpoint, identity, state, working)

    average.load_state_dict(state.best)
    average = average.to("cpu").to(memory_format=torch.contiguous_format)
    backbone, head = _take_apart(average, task)
    history = History(
        parts={name: tuple(epochs) for name, epochs in state.parts.items()},
        best_epoch=state.best_epoch,
        seconds=state.seconds,
    )
    return backbone, head, history


@dataclass(frozen=True, slots=True, eq=False)
class _Working:
    """The weights under training, their average, and what moves them: all that a checkpoint holds besides `_State`."""

    model: TorchClassifier
    average: TorchClassifier
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler


@dataclass(slots=True, eq=False)
class _State:
    """What changes from step to step, besides weights and moments."""

    parts: dict[str, list[Epoch]]
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    best_epoch: int = 0
    stopped: bool = False
    seconds: float = 0.0
    choice: dict[str, float] = field(default_factory=dict)
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def find_stages(network: nn.Module) -> dict[str, int]:
    """Return the stage of each parameter, by timm's grouping: 0 is the stem, the highest lies before the pooling."""
    matcher = network.group_matcher(coarse=True)  # type: ignore[operator]
    groups: dict[str, int] = group_parameters(network, matcher, reverse=True)
    order = {number: place for place, number in enumerate(sorted(set(groups.values())))}
    return {name: order[number] for name, number in groups.items()}


def _classifier(task: FineTuning) -> TorchClassifier:
    model = TorchClassifier(copy.deepcopy(task.backbone), task.head)
    return model.requires_grad_(True)


def _optimizer(model: TorchClassifier, stages: Mapping[str, int], settings: FineTuneSettings) -> torch.optim.AdamW:
    """Return AdamW with one group for each stage and kind; biases and norms are not decayed."""
    top = max(stages.values()) + 1
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        stage = stages.get(name.removeprefix("backbone.network."), top)
        groups.setdefault((stage, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if decayed else 0.0,
                # The head learns as the highest stage does; each below at a part of the rate above it.
                "share": settings.stage_decay ** max(0, top - 1 - stage),
                "lr": 0.0,
            }
            for (stage, decayed), parameters in groups.items()
        ]
    )


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Return the rate of a step as a share of its peak: linear up, a half cosine down (Smith 2018)."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _set_rates(optimizer: torch.optim.Optimizer, settings: FineTuneSettings, step: int, steps: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * group["share"] * one_cycle(step, steps, settings.warmup)


def open_from(stage: int, top: int, settings: FineTuneSettings) -> float:
    """Return the epoch, with its fraction, from which a stage trains; infinity where it never does.

    Args:
        stage: 0 is the stem.
        top: the number of the highest stage.
        settings: of the recipe.
    """
    if stage < settings.frozen_stages:
        return math.inf
    return settings.unfreeze_epochs * (top - stage) / max(1, top - settings.frozen_stages)


def _open_stages(model: TorchClassifier, stages: Mapping[str, int], settings: FineTuneSettings, epoch: float) -> None:
    """Let the stages train whose time has come; a closed one keeps weights and batch-norm statistics as they are."""
    network = model.backbone.network
    top = max(stages.values())
    opened = {stage for stage in set(stages.values()) if open_from(stage, top, settings) <= epoch}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(stages[name] in opened)
    for module_name, module in network.named_modules():
        own = {stages[f"{module_name}.{name}".lstrip(".")] for name, _ in module.named_parameters(recurse=False)}
        module.training = bool(own) and own <= opened
        if isinstance(module, nn.modules.batchnorm._NormBase) and settings.batch_norm == "frozen":
            module.training = False


def _follow(average: nn.Module, model: nn.Module, keep: float, step: int) -> None:
    """Move the averaged weights, batch-norm statistics included, towards those under training."""
    # While few steps have been made, the average is a plain one: it should not remember where it started.
    share = max(1 - keep, 1 / (step + 1)) if keep > 0 else 1.0
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, share)
            else:
                old.copy_(new)


def _arithmetic(precision: str, device: torch.device) -> tuple[torch.amp.GradScaler, Callable[[], Any]]:
    """Return the loss scaler and the context of the forward pass."""
    if device.type == "cuda":
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        mixed = precision != "f32"
    else:
        half = torch.bfloat16
        mixed = precision == "bf16" or (precision == "auto" and best_precision() is Precision.BF16)
    scaler = torch.amp.GradScaler(device.type, enabled=mixed and half is torch.float16)
    if not mixed:
        return scaler, nullcontext
    return scaler, lambda: torch.autocast(device.type, dtype=half)


def answer(model: TorchClassifier, part: Films, arithmetic: Callable[[], Any] = nullcontext) -> Tensor:
    """Return the logits (films, classes) of a part, on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    logits = []
    with torch.inference_mode(), arithmetic():
        for start in range(0, len(part), SCORING_BATCH):
            images = torch.from_numpy(np.ascontiguousarray(part.images[start : start + SCORING_BATCH])).to(device)
            logits.append(model(images)[0].float().cpu())
    return torch.cat(logits)


def _judge_epoch(state: _State, average: nn.Module, settings: FineTuneSettings) -> None:
    """Keep the averaged weights where they are the best so far; stop where they have not been for long."""
    share = settings.stress_weight
    loss = (1 - share) * state.choice["validation"] + share * state.choice["stress"]
    epoch = len(state.parts["train"]) - 1
    if loss < state.best_loss or not state.best:
        state.best_loss, state.best_epoch = loss, epoch
        state.best = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    state.stopped = epoch - state.best_epoch >= settings.patience


def _note(state: _State, loss: float, rate: float, steps: int) -> str:
    left = max(0, round((steps - state.step) / max(rate, 1e-9)))
    best = f", best {state.best_loss:.3f}" if state.best else ""
    return f"loss {loss:.3f}{best}, {left // 60} min {left % 60:02d} s left"


def _take_apart(model: TorchClassifier, task: FineTuning) -> tuple[Backbone, Head]:
    """Return the network and the head, its weights as they were judged."""
    values = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    head = Head(values["hidden.weight"], values["hidden.bias"], values["classifier.weight"], values["classifier.bias"])
    backbone = task.backbone.with_network(model.backbone.network)
    return backbone, head


def keep_memory() -> None:
    """Ask the C library to keep what it frees instead of giving it back to the system after every layer.

    Activations are large, and each one that is mapped anew costs a page fault for every 4 KiB: kept, a step on a CPU
    takes little more than half the time. Only glibc knows this; others ignore it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 2**31 - 1)


def _identify(task: FineTuning) -> str:
    """Return what decides every step: a checkpoint of anything else is not gone on from."""
    values = {
        "backbone": task.backbone.fingerprint,
        "head": hash_weights({name: torch.from_numpy(value) for name, value in asdict(task.head).items()}),
        "films": task.identity,
        "settings": asdict(task.settings),
        "shift": asdict(task.shift),
        "smooth_px": task.smooth_px,
        "dropout": task.dropout,
        "torch": torch.__version__,
        "rentgen": version("rentgen"),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _save(
    path: Path,
    identity: str,
    state: _State,
    working: _Working,
) -> None:
    """Write a checkpoint, whole or not at all: plain tensors and numbers only."""
    values = {
        "identity": identity,
        "state": asdict(state)
        | {"parts": {name: [asdict(epoch) for epoch in epochs] for name, epochs in state.parts.items()}},
        **{name: getattr(working, name).state_dict() for name in CHECKPOINTED},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".draft-", delete=False) as draft:
        try:
            torch.save(values, draft)
            draft.flush()
            os.fsync(draft.fileno())
            os.replace(draft.name, path)
        except BaseException:
            os.unlink(draft.name)
            raise


def _resume(
    path: Path,
    identity: str,
    state: _State,
    working: _Working,
) -> None:
    """Go on from a checkpoint of the same task, if there is one."""
    if not path.is_file():
        return
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        if values["identity"] != identity:
            return
    except Exception:  # torch has no common class for what a damaged file makes it raise
        logger.warning("the checkpoint %s is damaged; training starts anew", path.name)
        return
    for name in CHECKPOINTED:
        getattr(working, name).load_state_dict(values[name])
    for name, value in values["state"].items():
        setattr(state, name, value)
    state.parts = {name: [Epoch(**epoch) for epoch in epochs] for name, epochs in values["state"]["parts"].items()}


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
    model = _classifier(task).to(device).to(memory_format=torch.channels_last)
    stages = find_stages(model.backbone.network)
    optimizer = _optimizer(model, stages, settings)
    _open_stages(model, stages, settings, 0.0)
    objective = objective_of(torch.from_numpy(train.labels), classes, weigh=False, smoothing=settings.label_smoothing)
    rng = np.random.default_rng(settings.seed)
    rates, losses = [], []
    smoothed = 0.0
    for step in range(steps):
        rate = LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** (step / max(1, steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        chosen = np.sort(rng.choice(len(train), min(settings.batch_size, len(train)), replace=False))
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        labels = torch.from_numpy(train.labels[chosen]).to(device)
        films = shift_batch(torch.from_numpy(train.images[chosen]).to(device), task.shift, generator)
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
