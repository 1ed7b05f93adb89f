"""The whole road: list, split, audit, features, head, graph, bundle, judgement."""

from __future__ import annotations

import datetime
import platform
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
import PIL
import pydicom

from rentgen import bundle as bundles
from rentgen.bundle import Bundle
from rentgen.data.split import certify, select
from rentgen.engine.predictor import Predictor
from rentgen.errors import MissingExtraError
from rentgen.evaluate.judge import Judgement
from rentgen.evaluate.metrics import positive_class
from rentgen.learn.backbones import describe_networks
from rentgen.learn.find_rate import RateSearch, find_rate
from rentgen.learn.frozen import Start, open_starts
from rentgen.learn.graph import build_graph
from rentgen.learn.judging import judge_parts
from rentgen.learn.knowing import admit_bf16, know, measure_sets
from rentgen.learn.members import Member, plan_member, read_part, train_members
from rentgen.learn.parts import Shared, share_out
from rentgen.learn.recipe import Recipe
from rentgen.learn.trust import Trust
from rentgen.parallel.pool import HERE, Pool
from rentgen.records import (
    Audit,
    Card,
    History,
    Listing,
    Precision,
    Progress,
    Split,
    Task,
)

try:
    import onnx
    import timm
    import torch
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "training") from error

INTENDED_USE = (
    "Research on radiographs like those it was trained on (see the data). Not a medical device; not for diagnosis on "
    "its own. Films of another kind (other body part, projection, age group, scanner) are outside what it was taught."
)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to train.

    Attributes:
        data: folder or CSV.
        out: the bundle to write.
        recipe: every setting.
        cache: where features are kept.
        test: films that only measure, in place of a part of `data`.
        weights: of the backbone: a file, `random`, or None for the pretrained ones.
        patient_pattern: finds the patient in a file name.
        licences: of the data, in words.
        command: that is noted in the card.
        findings: of a table of several findings, those to learn; all of them by default.
        probed: find out, too, how the model bears worse films, where it looks, and what its heat maps are worth.
        pool: who reads films, computes features, fine-tunes and predicts.
    """

    data: Path
    out: Path
    recipe: Recipe
    cache: Path
    test: Path | None = None
    weights: str | Path | None = None
    patient_pattern: str | None = None
    licences: tuple[str, ...] = ()
    command: str = ""
    findings: tuple[str, ...] = ()
    probed: bool = True
    pool: Pool = HERE


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What came of it.

    Attributes:
        bundle: as it was written.
        listing: the films with their parts.
        audit: of the films.
        validation: how the bundle did on the part that chose it.
        test: how it did on the part that only measures; None where there is none.
        trust: how it bears worse films, where it looks, and what its heat maps are worth; None where nobody asked.
    """

    bundle: Bundle
    listing: Listing
    audit: Audit
    validation: Judgement
    test: Judgement | None
    trust: Trust | None


def train(
    plan: TrainingPlan,
    *,
    shared: Shared | None = None,
    fitted: tuple[Sequence[Member], History] | None = None,
    progress: Progress | None = None,
) -> Training:
    """Train, export, judge and write a bundle.

    Args:
        plan: what to train.
        shared: the plan's films, where they were read and shared out before.
        fitted: what was trained by the plan's recipe on those films before, and how that went.
        progress: called at stages `backbone`, `audit`, `features`, `head`, `films`, `finetune`, `domain`,
            `predictions`, `stress`, `shortcuts` and `heat maps`, as far as the recipe has them.

    Raises:
        DataError: the films cannot teach: one class, an empty part, a patient on both sides.
        WeightsError: the backbone's weights cannot be had or do not fit.
        BundleError: the bundle cannot be written, or there are more films than its certificate may name.
    """
    starts, shared = _begin(plan, progress, shared)
    recipe = starts[0].recipe
    listing, found, hashes = shared.listing, shared.audit, shared.examined.hashes
    salt = secrets.token_hex(16)
    certificate = certify(listing, hashes, found, salt, pixels=shared.examined.pixel_hashes)
    bundles.check_certificate(certificate)
    if fitted is None:
        members, histories = [], []
        for start in starts:
            head, told = start.train_head(shared, plan.cache, progress, plan.pool)
            members.append(Member(start.backbone, head))
            histories.append(told)
        history = histories[0]
    with tempfile.TemporaryDirectory(dir=plan.cache, prefix="films-") as scratch:
        parts = {
            part: read_part(listing, part, hashes, recipe.preprocessing, Path(scratch), progress, plan.pool)
            for part in Split
            if part is not Split.TRAIN or recipe.finetune.epochs or recipe.answer.kept
        }
        if fitted is not None:
            members, history = list(fitted[0]), fitted[1]
        elif recipe.finetune.epochs:
            members, history = train_members(recipe, members, parts, plan.cache, progress, plan.pool)
        model, golden = build_graph(recipe, [start.backbone for start in starts], members, parts, plan.cache, progress)
        draft = Bundle(_card(plan, starts, listing, found, history), model, certificate, golden)
        draft = replace(
            draft, card=know(Predictor(draft, precision=Precision.F32), parts[Split.VALIDATION], recipe.answer)
        )
        draft = replace(draft, card=replace(draft.card, tolerances=admit_bf16(draft, parts[Split.VALIDATION])))
        draft = replace(draft, card=measure_sets(Predictor(draft, precision=Precision.F32), parts[Split.TEST]))
    return _judge_and_write(draft, plan, shared, progress)


def search_rate(plan: TrainingPlan, *, progress: Progress | None = None) -> RateSearch:
    """Return how the loss of fine-tuning answers to the learning rate; nothing is trained and no bundle is written.

    Args:
        plan: what would be trained.
        progress: as of `train`, and stage `find-lr`.

    Raises:
        DataError, WeightsError: as of `train`.
    """
    recipe = plan.recipe
    (start, *_), shared = _begin(plan, progress)
    with tempfile.TemporaryDirectory(dir=plan.cache, prefix="films-") as scratch:
        parts = {
            part: read_part(
                shared.listing,
                part,
                shared.examined.hashes,
                recipe.preprocessing,
                Path(scratch),
                progress,
                plan.pool,
            )
            for part in Split
        }
        head, _ = start.train_head(shared, plan.cache, progress, plan.pool)
        task = plan_member(recipe, 0, Member(start.backbone, head), parts, plan.cache)
        return find_rate(task, progress=progress)


def _begin(
    plan: TrainingPlan, progress: Progress | None, shared: Shared | None = None
) -> tuple[tuple[Start, ...], Shared]:
    """Return what training starts from, of each network, after trying first what can fail at once.

    A place that cannot be written or weights that are not there should cost no audit.
    """
    bundles.check_place(plan.out)
    starts = open_starts(plan.recipe, plan.weights)
    if progress is not None:
        for start in starts:
            progress("backbone", 1, 1, f"{start.backbone.name}, {start.backbone.weights}")
    shared = shared or share_out(
        plan.data,
        plan.recipe.data,
        test=plan.test,
        patient_pattern=plan.patient_pattern,
        findings=plan.findings,
        progress=progress,
        pool=plan.pool,
    )
    plan.cache.mkdir(parents=True, exist_ok=True)
    return starts, shared


def _card(plan: TrainingPlan, starts: Sequence[Start], listing: Listing, found: Audit, history: History) -> Card:
    recipe, networks = starts[0].recipe, [start.backbone for start in starts]
    packages = {"torch": torch, "timm": timm, "onnx": onnx, "openvino": openvino, "pillow": PIL, "pydicom": pydicom}
    return Card(
        name=plan.out.stem,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        classes=listing.classes,
        positive=positive_class(listing.classes) if listing.task is Task.MULTICLASS else None,
        preprocessing=recipe.preprocessing,
        backbone=describe_networks(networks),
        recipe=recipe.to_dict(),
        history=history,
        operating_points=(),
        validation={},
        test=None,
        counts=found.counts,
        audit=found.summary(),
        intended_use=recipe.card.intended_use or INTENDED_USE,
        licences=(
            *plan.licences,
            *recipe.card.licences,
            *(f"Starting weights ({network.weights}): {network.licence}" for network in networks),
        ),
        software={"python": platform.python_version(), "rentgen": version("rentgen"), "numpy": np.__version__}
        | {name: str(module.__version__) for name, module in packages.items()},
        command=plan.command,
        scope=recipe.card.scope(),
        known_failures=recipe.card.known_failures,
        task=listing.task,
    )


def _judge_and_write(draft: Bundle, plan: TrainingPlan, shared: Shared, progress: Progress | None) -> Training:
    """Choose operating points on validation, measure on both parts through the graph that is shipped, and write."""
    listing = shared.listing
    # Patients of a test set of its own are known by its own means.
    test_part = replace(select(listing, Split.TEST), patient_source=shared.test_source)
    judged = judge_parts(
        draft,
        select(listing, Split.VALIDATION),
        test_part,
        probed=plan.probed,
        pool=plan.pool,
        progress=progress,
    )
    final = replace(draft, card=judged.card)
    final = replace(final, bundle_id=bundles.write(plan.out, final))
    return Training(final, listing, shared.audit, judged.validation, judged.test, judged.trust)
