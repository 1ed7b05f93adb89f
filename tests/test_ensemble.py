"""Several bundles as one, from files to answers: by hand from the members' own predictions, on films with patients."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ensembles import calibrated, divided, probabilities, run, write_member
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score

from rentgen import bundle as bundles
from rentgen.bundle import Bundle
from rentgen.data.listing import list_images
from rentgen.data.split import find_leak, select
from rentgen.engine.predictor import Predictor
from rentgen.errors import LeakError
from rentgen.evaluate.judge import judge
from rentgen.export.plain import write_onnx
from rentgen.export.program import write_torch
from rentgen.images.phantom import write_table
from rentgen.learn.calibrate import calibrate
from rentgen.learn.ensemble.make import Ensemble, EnsemblePlan, make_ensemble
from rentgen.records import (
    Card,
    EngineName,
    Float64,
    Listing,
    PatientSource,
    Precision,
    Scope,
    Split,
    SplitCertificate,
    Task,
    truth_of,
)

WEIGHTS = (0.75, 0.25)


@dataclass(frozen=True)
class Made:
    """An ensemble and what it was made of."""

    folder: Path
    listing: Listing
    members: tuple[Bundle, Bundle]
    result: Ensemble

    @property
    def out(self) -> Path:
        return self.folder / "both.rentgen"

    def part(self, part: Split) -> Listing:
        return select(self.result.listing, part)


@pytest.fixture(scope="module")
def made(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return two members of one split, with calibrations of their own and classes in another order, as one."""
    folder = tmp_path_factory.mktemp("ensemble")
    listing = divided(list_images(films))
    turned = (listing.classes[2], listing.classes[0], listing.classes[1])

    def scoped(card: Card) -> Card:
        return calibrated(1.5, 0.8, 1.0, bias=(0.1, 0.0, -0.2))(
            replace(card, scope=Scope(modalities=("CR", "DX")), licences=("one",), known_failures=("x",))
        )

    first = write_member(folder / "a.rentgen", listing, 0, change=scoped)
    second = write_member(
        folder / "b.rentgen",
        listing,
        1,
        classes=turned,
        change=lambda card: replace(
            calibrated(0.5, 0.5, 0.5)(card),
            scope=Scope(modalities=("dx", "CT"), max_age_years=18.0),
            licences=("one", "two"),
            intended_use="Films.",
        ),
    )
    result = make_ensemble(
        EnsemblePlan(
            (folder / "a.rentgen", folder / "b.rentgen"),
            films,
            folder / "both.rentgen",
            weights="3,1",
            calibration="none",
            probed=False,
            command="x",
        )
    )
    return Made(folder, listing, (first, second), result)


def mean(told: list[Float64], weights: tuple[float, ...] = (0.5, 0.5)) -> Float64:
    """Return the weighted mean of the members' probabilities."""
    return np.tensordot(np.array(weights), np.stack(told), axes=1)


def test_answers_are_the_mean_of_what_the_members_predict(made: Made) -> None:
    test = made.part(Split.TEST)
    classes = made.listing.classes
    expected = mean([probabilities(member, test, classes) for member in made.members], WEIGHTS)
    together = bundles.read(made.out)
    assert together.card.classes == classes
    np.testing.assert_allclose(probabilities(together, test, classes), expected, atol=1e-5)
    truth = truth_of(test.records, classes, Task.MULTICLASS)
    assert together.card.test is not None
    assert together.card.test["accuracy"]["value"] == pytest.approx(accuracy_score(truth, expected.argmax(axis=1)))
    area = roc_auc_score(truth, expected, multi_class="ovr")
    assert together.card.test["auroc"]["value"] == pytest.approx(area, abs=1e-6)


def test_the_parts_are_those_that_the_members_share(made: Made) -> None:
    for part in Split:
        expected = {record.path for record in select(made.listing, part).records}
        assert {record.path for record in made.part(part).records} == expected
    assert not made.result.halved
    certificate = made.result.bundle.split
    for part in Split:
        assert set(certificate.images[part]) == set(made.members[0].split.images[part])
    assert [member.salt for member in certificate.members] == [member.split.salt for member in made.members]
    assert bundles.read(made.out).split == certificate


def test_each_member_is_measured_on_the_same_films(made: Made) -> None:
    test = made.part(Split.TEST)
    truth = truth_of(test.records, made.listing.classes, Task.MULTICLASS)
    described = made.result.bundle.card.backbone["members"]
    for number, (name, weight, found) in enumerate(made.result.members):
        told = probabilities(made.members[number], test, made.listing.classes)
        assert found.metrics["accuracy"].value == pytest.approx(accuracy_score(truth, told.argmax(axis=1)))
        assert (name, weight) == (("a.rentgen", "b.rentgen")[number], WEIGHTS[number])
        assert described[number]["bundle_id"] == made.members[number].bundle_id
        assert described[number]["test"]["accuracy"]["value"] == found.metrics["accuracy"].value
        assert described[number]["weight"] == weight


def test_the_card_says_what_it_is_made_of(made: Made) -> None:
    card = bundles.read(made.out).card
    assert card.name == "both"
    assert card.backbone["name"] == "ensemble of linear0, linear1"
    assert card.licences == ("one", "two")
    assert card.known_failures == ("x",)
    assert card.scope == Scope(modalities=("DX",), max_age_years=18.0)
    assert card.intended_use == "Films."
    assert card.history.parts == {}
    assert card.recipe["ensemble"]["weights"] == list(WEIGHTS)
    assert card.calibration is None
    assert card.operating_points
    assert card.counts["test"] == made.result.audit.counts["test"]


def test_its_own_films_are_known_again(made: Made, films: Path) -> None:
    predictor = Predictor.load(made.out, precision=Precision.F32)
    listing = list_images(films)
    leak = judge(predictor, listing, resamples=0, gallery=0).evaluation.leak
    assert leak is not None
    assert leak.leaky
    assert leak.images == len(made.part(Split.TRAIN)) + len(made.part(Split.VALIDATION))
    leak = judge(predictor, made.part(Split.TEST), resamples=0, gallery=0).evaluation.leak
    assert leak is not None
    assert not leak.leaky
    assert leak.patients == 0


def test_commands_take_it_for_any_bundle(
    made: Made, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    film = made.part(Split.TEST).records[0].path
    assert run(monkeypatch, "inspect", made.out, "--verify") == 0
    said = capsys.readouterr().out
    assert "Golden vectors replay" in said
    assert "a, linear0, weight 0.750" in said
    assert run(monkeypatch, "predict", made.out, film, "--json", tmp_path / "p.json", "--heatmaps", tmp_path) == 0
    told = json.loads((tmp_path / "p.json").read_text())
    alone = [Predictor(member, precision=Precision.F32).predict(film).probabilities for member in made.members]
    for label, value in told["probabilities"].items():
        expected = sum(weight * one[label] for weight, one in zip(WEIGHTS, alone, strict=True))
        # By default in bf16, where the processor has it.
        assert value == pytest.approx(expected, abs=0.02)
    assert list(tmp_path.glob("*.png"))
    assert run(monkeypatch, "evaluate", made.out, films, "--json", tmp_path / "all.json") == 0
    assert json.loads((tmp_path / "all.json").read_text())["leaky"]
    assert run(monkeypatch, "evaluate", made.out, films, "--part", "test", "--json", tmp_path / "test.json") == 0
    assert not json.loads((tmp_path / "test.json").read_text())["leaky"]
    assert run(monkeypatch, "compare", made.folder / "a.rentgen", made.out, films) in (0, 1)


def test_it_is_exported_to_onnx_and_to_torch(made: Made, tmp_path: Path) -> None:
    bundle = bundles.read(made.out)
    assert write_onnx(bundle, tmp_path)[0].is_file()
    assert write_torch(bundle, tmp_path)[0].is_file()


@pytest.mark.parametrize("engine", EngineName)
def test_a_film_saved_again_is_known_by_its_pixels(made: Made, tmp_path: Path, engine: EngineName) -> None:
    taught = made.part(Split.TRAIN).records[0]
    folder = tmp_path / str(taught.label)
    folder.mkdir()
    Image.open(taught.path).save(folder / "again.tif")
    shutil.copy(made.part(Split.TEST).records[0].path, folder / "new.png")
    found = judge(Predictor.load(made.out, engine=engine), list_images(tmp_path), resamples=0, gallery=0).evaluation
    assert found.leak is not None
    assert (found.leak.images, found.leak.leaky) == (1, True)


def test_a_site_cannot_calibrate_it_on_films_that_trained_a_member(made: Made, films: Path) -> None:
    with pytest.raises(LeakError, match="trained this model"):
        calibrate(bundles.read(made.out), list_images(films))
    calibrated_again, _ = calibrate(bundles.read(made.out), made.part(Split.TEST), resamples=0)
    assert calibrated_again.split.members == made.result.bundle.split.members


def test_an_ensemble_can_be_a_member(made: Made, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "three.rentgen"
    write_member(tmp_path / "c.rentgen", made.listing, 2)
    plan = EnsemblePlan((made.out, tmp_path / "c.rentgen"), films, out, calibration="none", probed=False)
    result = make_ensemble(plan)
    assert len(result.bundle.split.members) == 4
    test = select(result.listing, Split.TEST)
    alone = [probabilities(bundles.read(path), test, made.listing.classes) for path in plan.members]
    expected = mean(alone)
    np.testing.assert_allclose(probabilities(bundles.read(out), test, made.listing.classes), expected, atol=1e-5)


# Certificates


def sealed(salt: str, patients: dict[Split, tuple[str, ...]], source: PatientSource) -> SplitCertificate:
    return SplitCertificate(salt, {}, {}, patients, source, {})


def hidden(patient: str, salt: str) -> str:
    return hmac.new(bytes.fromhex(salt), patient.encode(), hashlib.sha256).hexdigest()


def test_patients_are_asked_for_under_each_members_salt() -> None:
    one, other = "11" * 16, "22" * 16
    certificate = replace(
        sealed("33" * 16, {}, PatientSource.CSV),
        members=(
            sealed(one, {Split.TRAIN: (hidden("p1", one),)}, PatientSource.CSV),
            sealed(other, {Split.VALIDATION: (hidden("p2", other),)}, PatientSource.NAME),
        ),
    )
    assert SplitCertificate.from_dict(json.loads(json.dumps(certificate.to_dict()))) == certificate
    strong = find_leak(certificate, ["f"], ["p1", "p2", "p3"], PatientSource.CSV)
    assert (strong.patients, strong.patient_source, strong.leaky) == (1, PatientSource.CSV, True)
    weak = find_leak(certificate, ["f"], ["p2"], PatientSource.CSV)
    assert (weak.patients, weak.patient_source, weak.leaky) == (1, PatientSource.NAME, False)
    nobody = find_leak(certificate, ["f"], ["p1"], PatientSource.NONE)
    assert (nobody.patients, nobody.leaky) == (0, False)
    assert "members" not in sealed(one, {}, PatientSource.CSV).to_dict()


def test_members_of_different_splits_leave_only_what_neither_saw(films: Path, tmp_path: Path) -> None:
    everything = list_images(films)
    parts = [divided(everything, seed, validation=0.1, test=0.65) for seed in (0, 1)]
    for number, listing in enumerate(parts):
        write_member(tmp_path / f"{number}.rentgen", listing, number)
    plan = EnsemblePlan(
        (tmp_path / "0.rentgen", tmp_path / "1.rentgen"), films, tmp_path / "c.rentgen", coverage=0.8, probed=False
    )
    result = make_ensemble(plan)
    met = {
        record.patient: {listing.records[place].split for listing in parts}
        for place, record in enumerate(everything.records)
    }
    by_patient = {record.patient: record.split for record in result.listing.records}
    for patient, found in met.items():
        if Split.TRAIN in found:
            assert by_patient[patient] is Split.TRAIN
        elif Split.VALIDATION in found:
            assert by_patient[patient] is Split.VALIDATION
        else:
            # Too few chose a member and trained none: half of the unseen patients choose, too.
            assert by_patient[patient] in (Split.VALIDATION, Split.TEST)
    assert result.halved
    unseen = {patient for patient, found in met.items() if found == {Split.TEST}}
    measured = {record.patient for record in select(result.listing, Split.TEST).records}
    assert measured < unseen
    assert len(measured) == pytest.approx(len(unseen) / 2, abs=2)
    assert result.bundle.card.calibration is not None
    assert result.bundle.card.conformal is not None
    leak = judge(Predictor.load(plan.out), everything, resamples=0, gallery=0).evaluation.leak
    assert leak is not None
    assert leak.images == len(everything) - len(select(result.listing, Split.TEST))


# Several findings


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of 80 small drawn films with several findings, two of each patient."""
    folder = tmp_path_factory.mktemp("several")
    path = write_table(folder, films=80, rng=np.random.default_rng(5))
    for film in (folder / "films").iterdir():
        Image.open(film).reduce(4).save(film)
    return path


def test_several_findings_are_averaged_each_on_its_own(findings: Path, tmp_path: Path) -> None:
    listing = divided(list_images(findings))
    count = len(listing.classes)
    turned = tuple(reversed(listing.classes))
    write_member(tmp_path / "a.rentgen", listing, 0, change=calibrated(*[1.3] * count))
    write_member(tmp_path / "b.rentgen", listing, 1, classes=turned, change=calibrated(*np.linspace(0.5, 1, count)))
    plan = EnsemblePlan(
        (tmp_path / "a.rentgen", tmp_path / "b.rentgen"), findings, tmp_path / "c.rentgen", calibration="none",
        probed=False,
    )  # fmt: skip
    result = make_ensemble(plan)
    test = select(result.listing, Split.TEST)
    assert {record.path for record in test.records} == {record.path for record in select(listing, Split.TEST).records}
    expected = mean([probabilities(bundles.read(path), test, listing.classes) for path in plan.members])
    together = bundles.read(plan.out)
    np.testing.assert_allclose(probabilities(together, test, listing.classes), expected, atol=1e-5)
    assert together.card.task is Task.MULTILABEL
    assert together.card.test is not None
    truth = truth_of(test.records, listing.classes, Task.MULTILABEL)
    known = truth[:, 0] >= 0
    area = roc_auc_score(truth[known, 0], expected[known, 0])
    assert together.card.test["per_class"][listing.classes[0]]["auroc"]["value"] == pytest.approx(area, abs=1e-6)
    leak = judge(Predictor.load(plan.out), list_images(findings), resamples=0, gallery=0).evaluation.leak
    assert leak is not None
    assert leak.leaky
    again = make_ensemble(replace(plan, calibration="vector", coverage=0.6, out=tmp_path / "d.rentgen"))
    assert again.bundle.card.calibration is not None
    assert again.bundle.card.finding_sets


# The command


def test_the_command_tells_and_writes(
    made: Made, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figures = tmp_path / "new.rentgen", tmp_path / "figures.json"
    members = [made.folder / "a.rentgen", made.folder / "b.rentgen"]
    options: list[str | Path] = ["--data", films, "--out", out, "--weights", "3,1", "--no-probe", "--json", figures]
    assert run(monkeypatch, "ensemble", *members, *options) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{len(made.part(Split.TRAIN))} are of patients that trained a member and were left out" in said
    assert "on films that no member has seen" in said
    assert "together" in said
    told: dict[str, Any] = json.loads(figures.read_text())
    assert [member["weight"] for member in told["members"]] == list(WEIGHTS)
    assert told["films"]["test"] == told["test"]["n"] == len(made.part(Split.TEST))
    assert (tmp_path / "new-report" / "report.html").is_file()
    assert bundles.read(out).card.calibration is not None
