"""The study's recipe the usual way and ours, side by side on this machine, in one run.

The usual way runs the frozen backbone on every batch of every epoch, in torch. One epoch of a part of the films is
measured and multiplied; its films lie in memory, decoded and prepared, which is more than it would get in life. Our way
is measured whole: export of the graph, compilation, reading, preparing, features, cache, and every epoch of the head.

    python bench/training.py                           ResNet50 (random weights cost the same), EfficientNet-Lite0
    python bench/training.py --data DIR                films of your own instead of drawn ones
    python bench/training.py --films 600 --epochs 40   a quick look
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rentgen.data.audit import examine
from rentgen.data.listing import list_images
from rentgen.data.split import select, split
from rentgen.engine.session import best_precision
from rentgen.images.phantom import write_set
from rentgen.images.prepare import prepare
from rentgen.images.read import read
from rentgen.learn import backbones
from rentgen.learn.backbones import Backbone
from rentgen.learn.extractors import cached_graph, openvino_extractor
from rentgen.learn.features import Film, extract, view_key
from rentgen.learn.head import Features, initial_weights, train_head
from rentgen.learn.settings import AugmentSettings, HeadSettings
from rentgen.parallel.local import cores
from rentgen.records import History, Listing, Precision, Preprocessing, Split, UInt8

PREPROCESSING = Preprocessing()
NO_VIEWS = AugmentSettings(views=0)


@dataclass(frozen=True)
class Ours:
    """What our way took, in seconds, and what it gave."""

    features: float
    head: float
    history: History

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.features + self.head


class UsualWay:
    """The loop of a tutorial: backbone and head in one network, the backbone frozen."""

    def __init__(self, backbone: Backbone, settings: HeadSettings, classes: int, *, bf16: bool = False) -> None:
        self.backbone = backbone
        self.settings = settings
        self.bf16 = bf16
        self.generator = torch.Generator().manual_seed(settings.seed)
        flat = initial_weights(backbone.features, settings.hidden, classes, self.generator)
        self.hidden = nn.Linear(backbone.features, settings.hidden)
        self.last = nn.Linear(settings.hidden, classes)
        nn.utils.vector_to_parameters(flat, [*self.hidden.parameters(), *self.last.parameters()])
        self.adam = torch.optim.Adam([*self.hidden.parameters(), *self.last.parameters()], lr=settings.learning_rate)

    def logits(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """Run backbone and head; dropout by the given mask."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            pooled = self.backbone(images).float().mean((2, 3))
        hidden = self.hidden(pooled).relu()
        result: Tensor = self.last(hidden if mask is None else hidden * mask)
        return result

    def epoch(self, train: UInt8, labels: Tensor, validation: UInt8, validation_labels: Tensor) -> float:
        """Train on every film once, then return the validation loss."""
        count, settings = len(labels), self.settings
        order = torch.randperm(count, generator=self.generator)
        torch.randint(1, (count,), generator=self.generator)  # our way draws the view of each film here
        keep = torch.rand(count, settings.hidden, generator=self.generator).ge_(settings.dropout)
        keep /= 1 - settings.dropout
        for start in range(0, count, settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            mask = keep[start : start + settings.batch_size]
            self.adam.zero_grad()
            logits = self.logits(torch.from_numpy(train[chosen.numpy()]), mask)
            nn.functional.cross_entropy(logits, labels[chosen]).backward()  # type: ignore[no-untyped-call]
            self.adam.step()
        with torch.no_grad():
            batches = [
                self.logits(torch.from_numpy(validation[start : start + settings.batch_size]), None)
                for start in range(0, len(validation), settings.batch_size)
            ]
            return float(nn.functional.cross_entropy(torch.cat(batches), validation_labels))


def time_ours(listing: Listing, backbone: Backbone, settings: HeadSettings, cache: Path) -> Ours:
    """Train our way from nothing, in an empty cache."""
    numbers = {label: number for number, label in enumerate(listing.classes)}
    start = time.perf_counter()
    size = (PREPROCESSING.height, PREPROCESSING.width)
    graph = cached_graph(backbone, size, cache)
    extractor = openvino_extractor(graph, backbone, Precision.AUTO)
    hashes = examine(listing).hashes
    films = [Film(record.path, hashes[record.path]) for record in listing.records]
    store = extract(films, extractor, PREPROCESSING, NO_VIEWS, cache=cache)
    middle = time.perf_counter()
    parts = {}
    for part in (Split.TRAIN, Split.VALIDATION):
        records = select(listing, part).records
        keys = [view_key(hashes[record.path], 0, NO_VIEWS, 0) for record in records]
        labels = np.array([numbers[str(record.label)] for record in records], np.int64)
        parts[part] = Features((store.gather(keys, cache),), labels)
    _, history = train_head(parts[Split.TRAIN], parts[Split.VALIDATION], settings, classes=len(listing.classes))
    return Ours(middle - start, time.perf_counter() - middle, history)


def arrays(listing: Listing, part: Split, most: int) -> tuple[UInt8, Tensor]:
    """Return prepared films and their labels, evenly drawn from one part."""
    numbers = {label: number for number, label in enumerate(listing.classes)}
    records = select(listing, part).records
    records = records[:: max(1, len(records) // most)][:most]
    films = np.stack([prepare(read(record.path), PREPROCESSING).pixels for record in records])
    return films, torch.tensor([numbers[str(record.label)] for record in records])


def compare(name: str, listing: Listing, epochs: int, usual_films: int) -> None:
    """Print how long each way takes for one backbone."""
    weights = "random" if name == "resnet50" else None
    settings = HeadSettings(epochs=epochs, patience=epochs)
    trained = len(select(listing, Split.TRAIN))
    total = trained + len(select(listing, Split.VALIDATION))
    with tempfile.TemporaryDirectory() as cache:
        ours = time_ours(listing, backbones.load(name, weights=weights), settings, Path(cache))
    speed = total / ours.features
    print(f"\n{name}: {trained} films to train, {total - trained} to validate, {epochs} epochs", flush=True)
    split_up = f"features {ours.features:.0f} s, {speed:.0f} films/s; head {ours.head:.0f} s"
    print(f"  {'ours':<26} {ours.seconds:10.0f} s   {split_up}")
    train, labels = arrays(listing, Split.TRAIN, round(usual_films * trained / total))
    validation, validation_labels = arrays(listing, Split.VALIDATION, usual_films - len(train))
    measured = len(train) + len(validation)
    ways = [("torch eager f32", False, False), ("torch f32 channels last", True, False)]
    if best_precision() is Precision.BF16:
        ways.append(("torch bf16 channels last", True, True))
    for way, channels_last, bf16 in ways:
        backbone = backbones.load(name, weights=weights)
        if channels_last:
            backbone = backbone.to(memory_format=torch.channels_last)
        usual = UsualWay(backbone, settings, len(listing.classes), bf16=bf16)
        usual.logits(torch.from_numpy(train[:32]), None)
        start = time.perf_counter()
        usual.epoch(train, labels, validation, validation_labels)
        epoch = time.perf_counter() - start
        seconds = epoch / measured * total * epochs
        how = f"{measured / epoch:.1f} films/s in one epoch of {measured} films, multiplied"
        print(f"  {way:<26} {seconds:10.0f} s   ratio {seconds / ours.seconds:5.0f}   {how}", flush=True)


def check_history(listing: Listing) -> None:
    """Print how far the two ways' histories stand apart for the same seed: a few epochs of a few films."""
    settings = HeadSettings(epochs=3, patience=3)
    small = Listing(
        listing.root, listing.records[:: max(1, len(listing) // 160)], listing.classes, listing.patient_source
    )
    backbone = backbones.load("tf_efficientnet_lite0")
    with tempfile.TemporaryDirectory() as cache:
        ours = time_ours(small, backbone, settings, Path(cache))
    usual = UsualWay(backbone, settings, len(small.classes))
    train, labels = arrays(small, Split.TRAIN, len(small))
    validation, validation_labels = arrays(small, Split.VALIDATION, len(small))
    losses = [usual.epoch(train, labels, validation, validation_labels) for _ in range(settings.epochs)]
    mine = [epoch.loss for epoch in ours.history.parts["validation"]]
    apart = max(abs(one - other) for one, other in zip(losses, mine, strict=True))
    print(f"\nSame seed, same films, {settings.epochs} epochs: validation losses differ by at most {apart:.1e}")
    print(f"  ours  {' '.join(f'{loss:.5f}' for loss in mine)}\n  usual {' '.join(f'{loss:.5f}' for loss in losses)}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="films of your own; drawn ones by default")
    parser.add_argument("--films", type=int, default=5216, help="how many to draw")
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--usual-films", type=int, default=320, help="measured of the usual way's epoch")
    parser.add_argument("--backbone", action="append", help="default: resnet50 and tf_efficientnet_lite0")
    options = parser.parse_args()
    torch.set_num_threads(cores())
    print(f"{platform.processor() or platform.machine()}, {cores()} cores, engine in {best_precision()}, "
          f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    with tempfile.TemporaryDirectory() as drawn:
        data = options.data
        if data is None:
            data = Path(drawn)
            write_set(data, films=options.films // 3, rng=np.random.default_rng(0))
        listing = split(list_images(data), test=0.0, rng=np.random.default_rng(0))
        check_history(listing)
        for name in options.backbone or ["resnet50", "tf_efficientnet_lite0"]:
            compare(name, listing, options.epochs, options.usual_films)


if __name__ == "__main__":
    main()
