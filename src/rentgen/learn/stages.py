"""The stages of a network in fine-tuning: which is which, when it opens, and how fast it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from timm.models import group_parameters
from torch import nn

from rentgen.learn.export import TorchClassifier
from rentgen.learn.settings import FineTuneSettings


def find_stages(network: nn.Module) -> dict[str, int]:
    """Return the stage of each parameter, by timm's grouping: 0 is the stem, the highest lies before the pooling."""
    matcher = network.group_matcher(coarse=True)  # type: ignore[operator]
    groups: dict[str, int] = group_parameters(network, matcher, reverse=True)
    order = {number: place for place, number in enumerate(sorted(set(groups.values())))}
    return {name: order[number] for name, number in groups.items()}


def make_optimizer(model: TorchClassifier, stages: Mapping[str, int], settings: FineTuneSettings) -> torch.optim.AdamW:
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


def set_rates(optimizer: torch.optim.Optimizer, settings: FineTuneSettings, step: int, steps: int) -> None:
    """Give each group its rate of a step, by `one_cycle` and its stage."""
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


def open_stages(model: TorchClassifier, stages: Mapping[str, int], settings: FineTuneSettings, epoch: float) -> None:
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
