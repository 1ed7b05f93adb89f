"""A frozen network and its head: from films to cached features to trained weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rentgen.data.split import select
from rentgen.errors import SettingError
from rentgen.learn import backbones
from rentgen.learn.backbones import Backbone
from rentgen.learn.extractors import Extractor, cached_graph, openvino_extractor, torch_extractor
from rentgen.learn.features import FeatureStore, Film, extract, view_key
from rentgen.learn.head import Features, Head, train_head
from rentgen.learn.parts import Shared
from rentgen.learn.recipe import Recipe
from rentgen.parallel.pool import HERE, Pool
from rentgen.records import Epoch, History, Listing, Precision, Progress, Split, truth_of


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """The pretrained network, and the recipe with its name in it."""

    recipe: Recipe
    backbone: Backbone

    def extractor(self, cache: Path) -> Extractor:
        """Return who computes its features."""
        engine = self.recipe.backbone.engine
        if engine == "auto":
            engine = "torch" if torch.cuda.is_available() else "openvino"
        if engine == "torch":
            return torch_extractor(self.backbone)
        size = (self.recipe.preprocessing.height, self.recipe.preprocessing.width)
        graph = cached_graph(self.backbone, size, cache)
        return openvino_extractor(graph, self.backbone, Precision(self.recipe.backbone.precision))

    def train_head(
        self, shared: Shared, cache: Path, progress: Progress | None = None, pool: Pool = HERE
    ) -> tuple[Head, History]:
        """Return the head on cached features, and how its training went."""
        extractor = self.extractor(cache)
        return _train_head(shared.listing, shared.examined.hashes, extractor, self.recipe, cache, progress, pool)


def open_starts(recipe: Recipe, weights: str | Path | None = None) -> tuple[Start, ...]:
    """Return what training starts from: a network, or several that will answer together.

    Args:
        recipe: with the size of the films.
        weights: as of `backbones.load`; a file is one network's.

    Raises:
        SettingError: a file for several networks, or maps of different sizes.
        WeightsError: as of `backbones.load`.
    """
    settings = recipe.backbone
    if settings.also and weights not in (None, "random"):
        raise SettingError(f"Expected no file of weights with backbone.also, but got {weights} for several networks.")
    starts: list[Start] = []
    for name in (settings.name, *settings.also):
        network = backbones.load(
            name,
            weights=weights,
            size=(recipe.preprocessing.height, recipe.preprocessing.width),
            normalise=settings.normalise,
            pooling=settings.pooling,
        )
        starts.append(Start(recipe.change("backbone", name=network.name, also=()), network))
    if len({start.backbone.grid for start in starts}) > 1:
        told = ", ".join(
            f"{start.backbone.name}'s {start.backbone.grid[0]} x {start.backbone.grid[1]}" for start in starts
        )
        raise SettingError(
            f"Expected networks whose maps have the same size to answer together, but they are {told}. Combine their "
            "bundles with `rentgen ensemble`, or leave some out."
        )
    first = starts[0]
    return (replace(first, recipe=first.recipe.change("backbone", also=settings.also)), *starts[1:])


def _train_head(
    listing: Listing,
    hashes: Mapping[Path, str],
    extractor: Extractor,
    recipe: Recipe,
    cache: Path,
    progress: Progress | None,
    pool: Pool,
) -> tuple[Head, History]:
    films = [
        Film(record.path, hashes[record.path], recipe.augment.views if record.split is Split.TRAIN else 0)
        for record in listing.records
    ]
    store = extract(
        films,
        extractor,
        recipe.preprocessing,
        recipe.augment,
        cache=cache,
        seed=recipe.head.seed,
        progress=progress,
        pool=pool,
    )

    def report(epoch: int, figures: Mapping[str, Epoch]) -> None:
        if progress is not None:
            now = figures["validation"]
            progress("head", epoch + 1, recipe.head.epochs, f"loss {now.loss:.3f}, accuracy {now.accuracy:.3f}")

    with tempfile.TemporaryDirectory(dir=cache, prefix="gathered-") as scratch:
        parts = {part: _features(store, listing, hashes, part, recipe, Path(scratch)) for part in Split}
        test = parts[Split.TEST]
        head, history = train_head(
            parts[Split.TRAIN],
            parts[Split.VALIDATION],
            recipe.head,
            classes=len(listing.classes),
            test=test if len(test) else None,
            progress=report,
        )
    if progress is not None:
        epochs = len(history.parts["train"])
        progress("head", epochs, epochs, f"kept epoch {history.best_epoch + 1}, the lowest validation loss")
    return head, history


def _features(
    store: FeatureStore, listing: Listing, hashes: Mapping[Path, str], part: Split, recipe: Recipe, scratch: Path
) -> Features:
    records = select(listing, part).records
    views = recipe.augment.views if part is Split.TRAIN else 0
    return Features(
        views=tuple(
            store.gather(
                [view_key(hashes[item.path], view, recipe.augment, recipe.head.seed) for item in records], scratch
            )
            for view in range(views + 1)
        ),
        labels=truth_of(records, listing.classes, listing.task),
    )
