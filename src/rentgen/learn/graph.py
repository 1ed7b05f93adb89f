"""The graph that is shipped: network and heads in one, checked against torch, with its golden vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rentgen.bundle import Golden
from rentgen.engine.session import Session
from rentgen.errors import MissingExtraError, RentgenError
from rentgen.images.phantom import golden_films
from rentgen.images.prepare import prepare
from rentgen.learn.backbones import Backbone
from rentgen.learn.domain import fit_domain
from rentgen.learn.export import TorchClassifier, explain, export_members, halve, join_heads
from rentgen.learn.extractors import cached_graph
from rentgen.learn.members import FittedFilms, Member
from rentgen.learn.recipe import Recipe
from rentgen.records import Float32, Precision, Progress, Radiograph, Split, UInt8

try:
    import torch
    from torch import nn
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "training") from error

GRAPH_TOLERANCE = 1e-4
"""How far the exported graph may stand from torch, relative to the largest output (or 1)."""
MAP_TOLERANCE = 2e-2
"""The same for activation maps: a hidden unit next to zero may count in the one and not in the other."""
HALVED_TOLERANCE = 5e-2
"""The same, after its weights were stored in half precision: each may move by one part in 2,048."""


def build_graph(
    recipe: Recipe,
    backbones: Sequence[Backbone],
    members: Sequence[Member],
    parts: Mapping[Split, FittedFilms],
    cache: Path,
    progress: Progress | None,
) -> tuple[bytes, Golden]:
    """Return the graph to be shipped and its golden vectors in f32, after checking the graph against torch.

    Args:
        recipe: every setting.
        backbones: as they were pretrained.
        members: what was trained of them.
        parts: prepared films, where the recipe asks how near a film lies to those of the training.
        cache: where the graph of the pretrained network may lie from the extraction of its features.
        progress: stage `domain`.

    Raises:
        RentgenError: they disagree.
    """
    domain, backbone = None, backbones[0]
    if recipe.answer.kept:
        domain = fit_domain(
            backbone, parts[Split.TRAIN], parts[Split.VALIDATION], recipe.preprocessing.smooth_px, progress=progress
        )
    size = (recipe.preprocessing.height, recipe.preprocessing.width)
    if domain is None and [member.backbone for member in members] == [backbone]:
        features = cached_graph(backbone, size, cache)
    else:
        features = export_members([member.backbone for member in members], size, domain)
    model = join_heads(features, [member.head for member in members])
    films = golden_films()
    prepared = np.stack([prepare(Radiograph(film, "", "png", 8), recipe.preprocessing).pixels for film in films])
    expected = _expect(members, domain, prepared)
    _compare(backbone.name, "torch", Session(model, precision=Precision.F32).run(prepared), expected, GRAPH_TOLERANCE)
    if recipe.backbone.stored == "f16":
        model = halve(model)
    answers = Session(model, precision=Precision.F32).run(prepared)
    _compare(backbone.name, "its f32 form", answers, expected, HALVED_TOLERANCE)
    golden = Golden(
        films, prepared, answers["logits"], answers["embedding"], answers["activation_maps"], answers.get("distance")
    )
    return model, golden


def _expect(members: Sequence[Member], domain: nn.Module | None, prepared: UInt8) -> dict[str, Float32]:
    """Return what torch answers; maps by autograd."""
    place = next(members[0].backbone.buffers()).device
    images = torch.from_numpy(prepared).to(place)
    found = explain([TorchClassifier(member.backbone, member.head).to(place) for member in members], images)
    if domain is not None:
        with torch.inference_mode():
            found["distance"] = domain.to(place)(images)
    return {name: tensor.cpu().numpy() for name, tensor in found.items()}


def _compare(
    name: str, other: str, answers: Mapping[str, Float32], expected: Mapping[str, Float32], tolerance: float
) -> None:
    for output, values in expected.items():
        known = ~np.isnan(values)
        scale = max(1.0, float(np.abs(values[known]).max(initial=0)))
        difference = float(np.abs(answers[output] - values)[known].max(initial=0)) / scale
        allowed = max(tolerance, MAP_TOLERANCE) if output == "activation_maps" else tolerance
        if not difference <= allowed:
            raise RentgenError(
                f"The exported graph of {name} differs from {other} in {output} by {difference:.2g}; allowed is "
                f"{allowed:g}."
            )
