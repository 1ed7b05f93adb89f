"""What fine-tuning is in the middle of, and the file from which a run that was killed goes on."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rentgen.learn.export import TorchClassifier
from rentgen.records import Epoch

logger = logging.getLogger(__name__)

CHECKPOINTED = ("model", "average", "optimizer", "scaler")


@dataclass(frozen=True, slots=True, eq=False)
class Working:
    """The weights under training, their average, and what moves them: all that a checkpoint holds besides `State`."""

    model: TorchClassifier
    average: TorchClassifier
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler


@dataclass(slots=True, eq=False)
class State:
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


def save(path: Path, identity: str, state: State, working: Working) -> None:
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


def resume(path: Path, identity: str, state: State, working: Working | None = None) -> None:
    """Go on from a checkpoint of the same task, if there is one; without `working` only read how far it came."""
    if not path.is_file():
        return
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        if values["identity"] != identity:
            return
    except Exception:  # torch has no common class for what a damaged file makes it raise
        logger.warning("the checkpoint %s is damaged; training starts anew", path.name)
        return
    for name in CHECKPOINTED if working is not None else ():
        getattr(working, name).load_state_dict(values[name])
    for name, value in values["state"].items():
        setattr(state, name, value)
    state.parts = {name: [Epoch(**epoch) for epoch in epochs] for name, epochs in values["state"]["parts"].items()}
