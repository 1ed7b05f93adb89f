"""Fine-tuning: the whole network trained on from its pretrained weights and the head of the cached features.

One loop, read top to bottom. Stages are timm's (`group_matcher`): they join from the top down, each with a lower rate
than the one above (Howard and Ruder 2018); AdamW (Loshchilov and Hutter 2019), one cycle with a warm-up (Smith 2018),
an exponential average of the weights that is what is judged and kept (Polyak and Juditsky 1992). Everything random is
drawn from the step's number and the film's place in it, and a checkpoint holds all the rest, so that a run killed at
any moment goes on as if it had not been, and several processes do what one would (`crew`).
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rentgen.engine.session import best_precision
from rentgen.errors import DataError, PeerError
from rentgen.learn.backbones import Backbone, hash_weights
from rentgen.learn.checkpoint import State, Working, resume, save
from rentgen.learn.choice import calibrated_loss
from rentgen.learn.crew import Crew
from rentgen.learn.export import TorchClassifier
from rentgen.learn.head import Head
from rentgen.learn.objective import objective_of
from rentgen.learn.settings import FineTuneSettings, ShiftSettings
from rentgen.learn.shift import draw_mix, film_sources, shift_batch, smooth_batch
from rentgen.learn.stages import find_stages, make_optimizer, open_stages, set_rates
from rentgen.parallel.pool import HERE, Pool, Seat
from rentgen.records import History, Int64, Precision, Progress, UInt8

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 60.0
"""What a kill can cost."""
SCORING_BATCH = 64


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

    def only(self, rows: Int64) -> Films:
        """Return some of the films."""
        return Films(self.images[rows], self.labels[rows])


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
    task: FineTuning,
    *,
    pool: Pool = HERE,
    over: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> tuple[Backbone, Head, History]:
    """Return the backbone and head of the best epoch, and how training went.

    The best epoch has the lowest mean of plain and stressed validation loss, by `stress_weight`, after a calibration
    (`calibrated_loss`). Figures are plain cross-entropy of the averaged weights, so that recipes compare; the training
    part's are of the epoch's own augmented batches and of the weights under training.

    Args:
        task: what to train, and on what.
        pool: who trains; the result is the same but for rounding.
        over: asked after each epoch; True ends the training with the best so far.
        progress: stage `finetune`, steps done, steps in all, and a note.

    Raises:
        DataError: a part is empty, or the loss is no number any more.
        PeerError: of the pool.
    """
    for name, part in task.parts.items():
        if len(part) == 0:
            raise DataError(f"Expected films in the {name} part, but it is empty.")
    task.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    identity = _identify(task)
    pool.together(partial(run_finetuning, task, identity), task.checkpoint.parent, progress=progress, over=over)

    state = State(parts={})
    resume(task.checkpoint, identity, state)
    if not state.stopped and state.step < _count_steps(task)[1]:
        raise PeerError(
            f"Fine-tuning ended, but its checkpoint {task.checkpoint.name} is not whole in the cache here. Every node "
            "must see the cache under the same path."
        )
    model = make_classifier(task)
    model.load_state_dict(state.best)
    backbone, head = _take_apart(model, task)
    history = History(
        parts={name: tuple(epochs) for name, epochs in state.parts.items()},
        best_epoch=state.best_epoch,
        seconds=state.seconds,
    )
    return backbone, head, history


def run_finetuning(task: FineTuning, identity: str, seat: Seat) -> None:
    """Train, alone or as one of several; what comes of it is the checkpoint.

    Args:
        task: what to train.
        identity: of the task, for the checkpoint.
        seat: whose share of each step is this process's.

    Raises:
        DataError: the loss is no number any more.
    """
    settings, train = task.settings, task.parts["train"]
    crew = Crew(seat)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_memory()
    classes = len(task.head.class_bias)
    model = make_classifier(task).to(device).to(memory_format=torch.channels_last)
    stages = find_stages(model.backbone.network)
    optimizer = make_optimizer(model, stages, settings)
    average = copy.deepcopy(model).requires_grad_(False)
    objective = objective_of(
        torch.from_numpy(train.labels), classes, weigh=settings.class_weights, smoothing=settings.label_smoothing
    )
    scaler, arithmetic = _arithmetic(settings.precision, device)
    answering = _Answering(model, arithmetic)

    per_epoch, steps = _count_steps(task)
    state = State(parts={name: [] for name in task.parts})
    working = Working(model, average, optimizer, scaler)
    resume(task.checkpoint, identity, state, working)
    saved = time.monotonic()
    started, first = time.monotonic(), state.step

    while state.step < steps and not state.stopped:
        epoch, position = divmod(state.step, per_epoch)
        # In order of what decides: the films of the step, the rates of the step, the stages that are open in it.
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(train))
        chosen = np.sort(order[position * settings.batch_size : (position + 1) * settings.batch_size])
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + state.step)
        set_rates(optimizer, settings, state.step, steps)
        open_stages(model, stages, settings, state.step / per_epoch)

        labels = torch.from_numpy(train.labels[chosen])
        targets = objective.prepare(labels)
        own = crew.rows(len(chosen))
        mix = draw_mix(len(chosen), train.images.shape[1:], task.shift, generator)
        # A film is mixed with one that may be another process's: it is changed here, too.
        partners = own if mix is None else mix.partners.numpy()[own]
        needed = np.union1d(own, partners)
        sources = film_sources(settings.seed, state.step, needed.tolist())
        films = shift_batch(torch.from_numpy(train.images[chosen[needed]]).to(device), task.shift, sources)  # (b, H, W)
        if mix is not None:
            films = mix.films(films[np.searchsorted(needed, own)], films[np.searchsorted(needed, partners)])
            targets = mix.targets(targets)
        films = smooth_batch(films, task.smooth_px)
        keep = torch.rand((len(chosen), len(task.head.hidden_bias)), generator=generator).ge(task.dropout)
        keep = (keep / (1 - task.dropout))[own].to(device)
        mine = [target[own] for target in targets]
        with crew.statistics():
            logits = crew.join(answering)(films, keep)  # (b, classes)
        answers = crew.gather(logits.detach().float(), len(chosen))  # (B, classes)
        loss = objective.loss(answers, *targets).item()
        if not math.isfinite(loss):
            raise DataError(
                f"The loss of step {state.step + 1} is {loss}: the rate {settings.learning_rate:g} is too high "
                "for these films. Lower finetune.learning_rate; `--find-lr` draws where it may lie."
            )
        part_loss = objective.loss(logits, *(target.to(device) for target in mine))
        part_loss = part_loss * crew.scale(objective.divisor(*mine), objective.divisor(*targets))
        torch.autograd.backward(scaler.scale(part_loss))
        if settings.clip_norm > 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([item for item in model.parameters() if item.grad is not None], settings.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        _follow(average, model, settings.ema, state.step)
        state.step += 1
        state.seen.append((answers, labels))

        if seat.progress is not None:
            rate = (state.step - first) / max(time.monotonic() - started, 1e-9)
            seat.progress("finetune", state.step, steps, _note(state, loss, rate, steps))
        if state.step % per_epoch == 0:
            told, truth = zip(*state.seen, strict=True)
            state.parts["train"].append(objective.figures(torch.cat(told), torch.cat(truth)))
            state.seen.clear()
            for name, part in task.parts.items():
                if name != "train":
                    answers = crew.gather(answer(average, part.only(crew.rows(len(part))), arithmetic), len(part))
                    state.parts[name].append(objective.figures(answers, torch.from_numpy(part.labels)))
                    state.choice[name] = calibrated_loss(answers.numpy(), part.labels)
            _judge_epoch(state, average, settings)
            state.stopped |= crew.over()
        if time.monotonic() - saved > CHECKPOINT_SECONDS or state.step % per_epoch == 0:
            state.seconds += time.monotonic() - saved
            saved = time.monotonic()
            if crew.leads:
                save(task.checkpoint, identity, state, working)


def _count_steps(task: FineTuning) -> tuple[int, int]:
    """Return the steps of an epoch, and those of all."""
    per_epoch = max(1, len(task.parts["train"]) // task.settings.batch_size)
    return per_epoch, per_epoch * task.settings.epochs


class _Answering(nn.Module):
    """What a step asks of the network: logits (N, classes) of films (N, H, W), with some hidden units left out."""

    def __init__(self, model: TorchClassifier, arithmetic: Callable[[], Any]) -> None:
        super().__init__()
        self.model = model
        self.arithmetic = arithmetic

    def forward(self, films: Tensor, keep: Tensor) -> Tensor:
        """Return logits; `keep` (N, hidden) is what each hidden unit is multiplied by."""
        with self.arithmetic():
            features, _ = self.model.backbone.embed(films)  # (N, C)
        logits: Tensor = self.model.classifier(self.model.hidden(features).relu() * keep)
        return logits


def make_classifier(task: FineTuning) -> TorchClassifier:
    """Return the whole network with the weights that training starts from, all of them free to move."""
    model = TorchClassifier(copy.deepcopy(task.backbone), task.head)
    return model.requires_grad_(True)


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
    logits = [torch.empty(0, model.classifier.out_features)]
    with torch.inference_mode(), arithmetic():
        for start in range(0, len(part), SCORING_BATCH):
            images = torch.from_numpy(np.ascontiguousarray(part.images[start : start + SCORING_BATCH])).to(device)
            logits.append(model(images)[0].float().cpu())
    return torch.cat(logits)


def _judge_epoch(state: State, average: nn.Module, settings: FineTuneSettings) -> None:
    """Keep the averaged weights where they are the best so far; stop where they have not been for long."""
    share = settings.stress_weight
    loss = (1 - share) * state.choice["validation"] + share * state.choice["stress"]
    epoch = len(state.parts["train"]) - 1
    if loss < state.best_loss or not state.best:
        state.best_loss, state.best_epoch = loss, epoch
        state.best = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    state.stopped = epoch - state.best_epoch >= settings.patience


def _note(state: State, loss: float, rate: float, steps: int) -> str:
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
