"""Fine-tuned members: the same start, other seeds, and what is needed around the loop of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rentgen.data.split import select
from rentgen.images.corrupt import stress
from rentgen.images.prepare import smooth
from rentgen.learn.backbones import Backbone
from rentgen.learn.finetune import Films, FineTuning, finetune
from rentgen.learn.fitted import read_fitted
from rentgen.learn.head import Head
from rentgen.learn.recipe import Recipe
from rentgen.parallel.pool import HERE, Pool, Work, folder_of, open_nothing
from rentgen.records import History, Int64, Listing, Preprocessing, Progress, Split, UInt8, truth_of

GRAIN = 8
"""Films that a worker elsewhere takes at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A network that answers together with others.

    Attributes:
        backbone: from films to feature maps.
        head: from their means to logits.
    """

    backbone: Backbone
    head: Head


@dataclass(frozen=True, slots=True, eq=False)
class FittedFilms:
    """The films of one part at the network's input size, not smoothed.

    Attributes:
        images: (films, height, width), in memory or memory-mapped.
        labels: (films,) class numbers, or (films, findings) of `records.truth`.
        patients: (films,) whom each shows.
        identity: SHA-256 of the content hashes, in order.
    """

    images: UInt8
    labels: Int64
    patients: tuple[str, ...]
    identity: str

    def smoothed(self, smooth_px: float) -> Films:
        """Return what the network sees of them."""
        return Films(np.stack([smooth(image, smooth_px) for image in self.images]), self.labels)


def read_part(
    listing: Listing,
    part: Split,
    hashes: Mapping[Path, str],
    preprocessing: Preprocessing,
    scratch: Path,
    progress: Progress | None = None,
    pool: Pool = HERE,
) -> FittedFilms:
    """Return the films of a part at the network's input size, in a memory-mapped file.

    Args:
        listing: with parts.
        part: which.
        hashes: path to SHA-256 of the file.
        preprocessing: its size, resizing and cropping.
        scratch: a folder for the file.
        progress: stage `films`.
        pool: who reads.

    Raises:
        InputError: a file can no longer be read, or is not what was listed.
    """
    records = select(listing, part).records
    truth = truth_of(records, listing.classes, listing.task)
    shape = (len(records), preprocessing.height, preprocessing.width)
    if not records:
        return FittedFilms(np.empty(shape, np.uint8), truth, (), "")

    images = np.lib.format.open_memmap(scratch / f"{part}.npy", mode="w+", dtype=np.uint8, shape=shape)
    paths = [record.path for record in records]
    work = Work(open_nothing, partial(_load, preprocessing), grain=GRAIN, folder=folder_of(paths))
    for number, pixels in enumerate(pool.map(work, [(path, hashes[path]) for path in paths])):
        images[number] = pixels
        if progress is not None:
            progress("films", number + 1, len(records), str(part))
    return FittedFilms(
        images=images,
        labels=truth,
        patients=tuple(record.patient for record in records),
        identity=hashlib.sha256("".join(hashes[record.path] for record in records).encode()).hexdigest(),
    )


def _load(preprocessing: Preprocessing, _: bool, item: tuple[Path, str]) -> UInt8:
    return read_fitted(*item, preprocessing)


def plan_member(
    recipe: Recipe, number: int, start: Member, parts: Mapping[Split, FittedFilms], cache: Path
) -> FineTuning:
    """Return the task of one member.

    Args:
        recipe: every setting.
        number: of the member; it moves the seed.
        start: the pretrained backbone and the head of its cached features.
        parts: fitted films.
        cache: where checkpoints are kept.
    """
    smooth_px = recipe.preprocessing.smooth_px
    validation = parts[Split.VALIDATION]
    films = {
        # A plain view: to another process a memory-mapped array would travel by a copy in this one's memory.
        "train": Films(np.asarray(parts[Split.TRAIN].images), parts[Split.TRAIN].labels),
        "validation": validation.smoothed(smooth_px),
        "stress": replace(validation, images=stress(validation.images)).smoothed(smooth_px),
    }
    if len(parts[Split.TEST].labels):
        films["test"] = parts[Split.TEST].smoothed(smooth_px)
    identity = ":".join(parts[part].identity for part in Split)
    name = hashlib.sha256(f"{identity}:{start.backbone.fingerprint}".encode()).hexdigest()[:24]
    return FineTuning(
        backbone=start.backbone,
        head=start.head,
        parts=films,
        settings=replace(recipe.finetune, seed=recipe.finetune.seed + number),
        shift=recipe.shift,
        smooth_px=smooth_px,
        dropout=recipe.head.dropout,
        identity=identity,
        checkpoint=cache / "checkpoints" / f"{name}-{number}.pt",
    )


def train_members(
    recipe: Recipe,
    starts: Sequence[Member],
    parts: Mapping[Split, FittedFilms],
    cache: Path,
    progress: Progress | None = None,
    pool: Pool = HERE,
) -> tuple[list[Member], History]:
    """Return the fine-tuned members of each start, and how the training of the first went.

    Args:
        recipe: every setting.
        starts: pretrained backbones and the heads of their cached features.
        parts: fitted films.
        cache: where checkpoints are kept.
        progress: stage `finetune`.
        pool: who trains.
    """
    members, histories = [], []
    wanted = [(start, number) for start in starts for number in range(recipe.finetune.members)]
    count = len(wanted)
    for place, (start, number) in enumerate(wanted):

        def report(stage: str, done: int, total: int, note: str = "", place: int = place) -> None:
            if progress is not None:
                progress(stage, place * total + done, count * total, note + (f" of member {place + 1}" * (count > 1)))

        backbone, head, history = finetune(plan_member(recipe, number, start, parts, cache), pool=pool, progress=report)
        members.append(Member(backbone, head))
        histories.append(history)
    return members, replace(histories[0], seconds=sum(history.seconds for history in histories))
