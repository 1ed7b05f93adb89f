"""From bundles to one bundle: agree, sort the films, join the graphs, measure everything anew, write."""

from __future__ import annotations

import datetime
import hashlib
import platform
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rentgen import bundle as bundles
from rentgen.bundle import Bundle, Golden
from rentgen.data.listing import list_images
from rentgen.data.split import select
from rentgen.engine.predictor import Predictor
from rentgen.engine.session import Session
from rentgen.errors import RentgenError
from rentgen.evaluate.judge import Judgement
from rentgen.evaluate.measure import evaluate
from rentgen.images.phantom import golden_films
from rentgen.images.prepare import prepare
from rentgen.learn.ensemble.agree import Common, Seat, agree, parse_weights
from rentgen.learn.ensemble.certificate import pool
from rentgen.learn.ensemble.films import sort_films
from rentgen.learn.ensemble.graph import LEAST, join
from rentgen.learn.graph import GRAPH_TOLERANCE
from rentgen.learn.judging import judge_parts
from rentgen.learn.knowing import admit_bf16, know, measure_sets
from rentgen.learn.members import FittedFilms, read_part
from rentgen.learn.settings import AnswerSettings
from rentgen.learn.trust import Trust
from rentgen.records import (
    Audit,
    Card,
    Evaluation,
    Float32,
    Float64,
    History,
    Listing,
    Precision,
    Progress,
    Radiograph,
    Split,
    Task,
    UInt8,
)

FIGURES = ("accuracy", "auroc", "loss", "brier", "ece")
"""Of each member on the test part, that the card keeps."""


@dataclass(frozen=True, slots=True)
class EnsemblePlan:
    """What to make one of.

    Attributes:
        members: bundles: files, or names of those that come with the package.
        data: folder or CSV; its films choose and measure, as far as no member learned from them.
        out: the bundle to write.
        weights: `equal`, or a positive number for each member, by comma.
        calibration: `none`, `temperature`, `vector`, or `auto`.
        coverage: of the prediction sets, in (0.5, 1); 0 for none, None for the highest that a member has.
        patient_pattern: finds the patient in a file name.
        seed: of the half of the unseen patients, where that is needed.
        probed: find out, too, how the ensemble bears worse films, where it looks, and what its heat maps are worth.
        command: that is noted in the card.
    """

    members: tuple[str | Path, ...]
    data: Path
    out: Path
    weights: str = "equal"
    calibration: str = "auto"
    coverage: float | None = None
    patient_pattern: str | None = None
    seed: int = 0
    probed: bool = True
    command: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """What came of it.

    Attributes:
        bundle: as it was written.
        listing: the films of the set with their parts; training films were left out.
        audit: of these parts.
        halved: whether half of the unseen patients had to choose.
        validation: how the ensemble did on the films that chose it.
        test: how it did on the films that no member had seen.
        trust: how it bears worse films, where it looks, and what its heat maps are worth; None where nobody asked.
        members: name and weight of each member, and how it did alone on the same test films.
    """

    bundle: Bundle
    listing: Listing
    audit: Audit
    halved: bool
    validation: Judgement
    test: Judgement
    trust: Trust | None
    members: tuple[tuple[str, float, Evaluation], ...]


def make_ensemble(plan: EnsemblePlan, *, progress: Progress | None = None) -> Ensemble:
    """Join bundles to one, calibrate and judge it on films that no member learned from, and write it.

    Args:
        plan: what to make one of.
        progress: stages `audit`, `films`, `members`, `predictions`, and `stress`, `shortcuts` and `heat maps`.

    Raises:
        SettingError: members that do not fit each other, weights or settings that are not allowed.
        DataError: labels that the members do not know, or too few films that no member learned from.
        BundleError: a member is damaged or does not say what it learned from, or the bundle cannot be written.
    """
    bundles.check_place(plan.out)
    paths = [bundles.find(member) for member in plan.members]
    weights = parse_weights(plan.weights, len(paths))
    seats = [Seat(path.name, bundles.read(path), weight) for path, weight in zip(paths, weights, strict=True)]
    common = agree(seats)
    settings = answer_settings(seats, plan.calibration, plan.coverage)
    voices = [seat.voice(common.classes) for seat in seats]
    model = join(voices, common.task)
    alone = [Predictor(seat.bundle, precision=Precision.F32) for seat in seats]
    golden = _golden(model, seats, alone, common)
    draft = Bundle(_card(plan, seats, common, settings, golden), model, seats[0].bundle.split, golden)
    listing = list_images(plan.data, patient_pattern=plan.patient_pattern)
    films = sort_films(listing, seats, draft.card, settings, seed=plan.seed, progress=progress)
    certificate = pool(seats, films, secrets.token_hex(16))
    draft = replace(draft, split=certificate)
    with tempfile.TemporaryDirectory(dir=plan.out.parent, prefix=".films-") as scratch:
        validation, test = (
            read_part(films.listing, part, films.examined.hashes, common.preprocessing, Path(scratch), progress)
            for part in (Split.VALIDATION, Split.TEST)
        )
        draft = replace(draft, card=know(Predictor(draft, precision=Precision.F32), validation, settings))
        draft = replace(draft, card=replace(draft.card, tolerances=admit_bf16(draft, validation)))
        draft = replace(draft, card=measure_sets(Predictor(draft, precision=Precision.F32), test))
        measured = []
        for number, (seat, predictor) in enumerate(zip(seats, alone, strict=True), start=1):
            measured.append((seat.name, seat.weight, _measure(predictor, test, common)))
            if progress is not None:
                progress("members", number, len(seats), seat.name)
    judged = judge_parts(
        replace(draft, card=_with_audit(draft.card, films.audit, [found for *_, found in measured])),
        select(films.listing, Split.VALIDATION),
        select(films.listing, Split.TEST),
        probed=plan.probed,
        progress=progress,
    )
    if judged.test is None:
        raise RentgenError("Expected films to measure on, but there were none.")
    final = replace(draft, card=judged.card)
    final = replace(final, bundle_id=bundles.write(plan.out, final))
    return Ensemble(
        final, films.listing, films.audit, films.halved, judged.validation, judged.test, judged.trust, tuple(measured)
    )


def answer_settings(seats: Sequence[Seat], calibration: str, coverage: float | None) -> AnswerSettings:
    """Return what the ensemble shall know of its answers: what its members promise, asked for anew.

    Worse films count in the calibration as much as with the member where they count most. Classes are weighed as
    equally frequent only where all members do so. Of the domains, the one that keeps least is kept.

    Args:
        seats: the members.
        calibration: as of `AnswerSettings`.
        coverage: as of `EnsemblePlan`.

    Raises:
        SettingError: a value is not allowed.
    """
    cards = [seat.bundle.card for seat in seats]
    told: list[dict[str, Any]] = [dict(card.recipe.get("answer", {})) for card in cards]
    covered = [card.conformal.coverage for card in cards if card.conformal is not None]
    covered += [item.coverage for card in cards for item in card.finding_sets[:1]]
    return AnswerSettings(
        calibration=calibration,
        stressed=max(float(answer.get("stressed", 0.0)) for answer in told),
        balanced=all(bool(answer.get("balanced", False)) for answer in told),
        coverage=max(covered, default=0.0) if coverage is None else coverage,
        kept=min((card.domain.kept for card in cards if card.domain is not None), default=0.0),
    )


def mean_answers(logits: Sequence[Float64], weights: Sequence[float], task: Task) -> Float64:
    """Return the logits (n, classes) of the weighted mean of probabilities (n, classes): what the graph must answer.

    Args:
        logits: calibrated, of each member, in one order of the classes.
        weights: of the members, summing to 1.
        task: softmax or sigmoid.
    """
    if task is Task.MULTICLASS:
        logs = [values - _log_sum(values) for values in logits]
        return np.maximum(_log_mean(logs, weights), np.log(LEAST))
    there = _log_mean([-np.logaddexp(0, -values) for values in logits], weights)
    absent = _log_mean([-np.logaddexp(0, values) for values in logits], weights)
    least = np.log(LEAST)
    result: Float64 = np.maximum(there, least) - np.maximum(absent, least)
    return result


def _log_sum(values: Float64) -> Float64:
    result: Float64 = np.logaddexp.reduce(values, axis=1, keepdims=True)
    return result


def _log_mean(logs: Sequence[Float64], weights: Sequence[float]) -> Float64:
    result: Float64 = np.logaddexp.reduce(
        np.stack([values + np.log(weight) for values, weight in zip(logs, weights, strict=True)]), axis=0
    )
    return result


def _calibrated(predictor: Predictor, logits: Float32) -> Float64:
    calibration = predictor.card.calibration
    values = logits.astype(np.float64)
    if calibration is None:
        return values
    scaled: Float64 = values * np.array(calibration.scale) + np.array(calibration.bias)
    return scaled


def _golden(model: bytes, seats: Sequence[Seat], alone: Sequence[Predictor], common: Common) -> Golden:
    """Return the golden vectors, after holding the graph against its members on the golden films.

    Raises:
        RentgenError: it answers otherwise than their mean.
    """
    films = golden_films()
    prepared: UInt8 = np.stack([prepare(Radiograph(film, "", "png", 8), common.preprocessing).pixels for film in films])
    answers = Session(model, precision=Precision.F32).run(prepared)
    own = [predictor.session.run(prepared) for predictor in alone]
    expected: dict[str, Float32 | Float64] = {
        "logits": mean_answers(
            [
                _calibrated(predictor, answer["logits"])[:, list(_order(seat, common))]
                for seat, predictor, answer in zip(seats, alone, own, strict=True)
            ],
            [seat.weight for seat in seats],
            common.task,
        ),
        "embedding": np.concatenate([answer["embedding"] for answer in own], axis=1),
    }
    ratios = [
        answer["distance"] / seat.bundle.card.domain.threshold
        for seat, answer in zip(seats, own, strict=True)
        if seat.bundle.card.domain is not None
    ]
    if ratios:
        expected["distance"] = np.max(ratios, axis=0)
    for name, values in expected.items():
        difference = float(np.abs(answers[name] - values).max()) / max(1.0, float(np.abs(values).max()))
        if not difference <= GRAPH_TOLERANCE:
            raise RentgenError(
                f"The joined graph differs from the mean of its members in {name} by {difference:.2g}; allowed is "
                f"{GRAPH_TOLERANCE:g}."
            )
    return Golden(
        films, prepared, answers["logits"], answers["embedding"], answers["activation_maps"], answers.get("distance")
    )


def _order(seat: Seat, common: Common) -> tuple[int, ...]:
    return seat.voice(common.classes).order


def _measure(predictor: Predictor, test: FittedFilms, common: Common) -> Evaluation:
    """Return how a member does alone, as it came, on the films that measure the ensemble."""
    card = predictor.card
    told = predictor.probabilities(predictor.run(test.images)["logits"])
    return evaluate(
        told[:, [card.classes.index(label) for label in common.classes]],
        test.labels,
        test.patients,
        common.classes,
        rng=np.random.default_rng(0),
        positive=common.positive,
        operating_points=card.operating_points,
    )


def _card(plan: EnsemblePlan, seats: Sequence[Seat], common: Common, settings: AnswerSettings, golden: Golden) -> Card:
    """Return what the ensemble says of itself before anything is measured."""
    cards = [seat.bundle.card for seat in seats]
    packages = ("numpy", "onnx", "openvino", "pillow", "pydicom")
    uses = _each(card.intended_use for card in cards)
    return Card(
        name=plan.out.stem,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        classes=common.classes,
        positive=common.positive,
        preprocessing=common.preprocessing,
        backbone={
            "name": f"ensemble of {', '.join(str(card.backbone.get('name', 'unknown')) for card in cards)}",
            "weights": "; ".join(_each(str(card.backbone.get("weights", "unknown")) for card in cards)),
            "weights_sha256": hashlib.sha256("".join(seat.bundle.bundle_id for seat in seats).encode()).hexdigest(),
            "licence": "; ".join(_each(str(card.backbone.get("licence", "unknown")) for card in cards)),
            "features": int(golden.embedding.shape[1]),
            "members": [_describe(seat) for seat in seats],
        },
        recipe={
            "ensemble": {
                "members": [seat.name for seat in seats],
                "weights": [seat.weight for seat in seats],
                "seed": plan.seed,
            },
            "answer": asdict(settings),
        },
        history=History({}, 0, 0.0),
        operating_points=(),
        validation={},
        test=None,
        counts={},
        audit={},
        intended_use=uses[0] if len(uses) == 1 else "What each of its members is meant for. " + " ".join(uses),
        licences=_each(licence for card in cards for licence in card.licences),
        software={"python": platform.python_version(), "rentgen": version("rentgen")}
        | {name: version(name) for name in packages},
        command=plan.command,
        scope=common.scope,
        known_failures=_each(failure for card in cards for failure in card.known_failures),
        task=common.task,
    )


def _describe(seat: Seat) -> dict[str, Any]:
    """Return what the card keeps of a member, in plain JSON values."""
    card = seat.bundle.card
    calibration = card.calibration
    return {
        "name": card.name,
        "bundle_id": seat.bundle.bundle_id,
        "weight": seat.weight,
        "created": card.created,
        "classes": list(card.classes),
        "backbone": dict(card.backbone),
        "calibration": None
        if calibration is None
        else {"method": calibration.method, "scale": list(calibration.scale), "bias": list(calibration.bias)},
        "domain": None if card.domain is None else card.domain.to_dict(),
        "licences": list(card.licences),
        "command": card.command,
    }


def _with_audit(card: Card, found: Audit, members: Sequence[Evaluation]) -> Card:
    """Return the card with the films' counts, and with how each member did alone on the test part."""
    described = [
        {**told, "test": {name: figures.metrics[name].to_dict() for name in FIGURES} | {"n": figures.n}}
        for told, figures in zip(card.backbone["members"], members, strict=True)
    ]
    return replace(card, counts=found.counts, audit=found.summary(), backbone={**card.backbone, "members": described})


def _each(values: Iterable[str]) -> tuple[str, ...]:
    """Return each value once, in the order of the first time; nothing for empty ones."""
    return tuple(dict.fromkeys(value for value in values if value))
