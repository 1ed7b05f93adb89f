from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Trained
from made import png
from PIL import Image
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, recall_score, roc_auc_score

from rentgen.data.listing import list_images
from rentgen.data.split import select
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError
from rentgen.evaluate.judge import judge, select_part
from rentgen.images.read import read
from rentgen.records import ImageRecord, Listing, PatientSource, Split, Status


@pytest.fixture(scope="module")
def predictor(trained: Trained) -> Predictor:
    return Predictor(trained.training.bundle)


@pytest.fixture(scope="module")
def parts(trained: Trained) -> dict[Split, Listing]:
    return {part: select(trained.training.listing, part) for part in Split}


def taken(listing: Listing, step: int) -> Listing:
    """Return every so manieth film of a listing."""
    return replace(listing, records=listing.records[::step])


def with_source(listing: Listing, source: PatientSource, *, prefix: str = "") -> Listing:
    records = tuple(replace(record, patient=prefix + record.patient) for record in listing.records)
    return replace(listing, records=records, patient_source=source)


def as_strangers(listing: Listing, folder: Path) -> Listing:
    """Return the listing with each film changed in one pixel, so that no hash is known."""
    records: list[ImageRecord] = []
    for record in listing.records:
        path = folder / record.path.name
        with Image.open(record.path) as image:
            pixels = np.array(image)
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(path)
        records.append(replace(record, path=path))
    return replace(listing, records=tuple(records))


@pytest.mark.parametrize("part", [Split.TRAIN, Split.VALIDATION])
def test_films_that_made_the_model_are_leaky(part: Split, predictor: Predictor, parts: dict[Split, Listing]) -> None:
    listing = taken(parts[part], 5)
    leak = judge(predictor, listing, resamples=0, gallery=0).evaluation.leak
    assert leak is not None
    assert (leak.leaky, leak.images) == (True, len(listing))


def test_films_saved_again_are_known(predictor: Predictor, parts: dict[Split, Listing], tmp_path: Path) -> None:
    listing = taken(parts[Split.TRAIN], 5)
    again = []
    for record in listing.records:
        with Image.open(record.path) as image:
            image.save(tmp_path / record.path.name, compress_level=1)
        again.append(replace(record, path=tmp_path / record.path.name))
    leak = judge(predictor, replace(listing, records=tuple(again)), resamples=0, gallery=0).evaluation.leak
    assert leak is not None
    assert (leak.leaky, leak.images) == (True, len(listing))


def test_the_test_part_is_not_leaky(predictor: Predictor, parts: dict[Split, Listing]) -> None:
    found = judge(predictor, parts[Split.TEST], resamples=0, gallery=0).evaluation
    assert found.leak is not None
    assert (found.leak.leaky, found.leak.images, found.leak.patients) == (False, 0, 0)
    assert found.to_dict()["leaky"] is False


@pytest.mark.parametrize("source", PatientSource)
def test_other_films_of_the_same_patients(
    source: PatientSource, trained: Trained, parts: dict[Split, Listing], tmp_path: Path
) -> None:
    """A column or a header proves that it is the same person; a file's name does not."""
    certificate = trained.training.bundle.split
    proven = source in (PatientSource.CSV, PatientSource.DICOM)
    if proven:
        certificate = replace(certificate, patient_source=source)
    predictor = Predictor(replace(trained.training.bundle, split=certificate))
    strangers = with_source(as_strangers(taken(parts[Split.TRAIN], 8), tmp_path), source)
    leak = judge(predictor, strangers, resamples=0, gallery=0).evaluation.leak
    assert leak is not None
    assert leak.images == 0
    assert leak.leaky is proven
    patients = {record.patient for record in strangers.records}
    assert leak.patients == (0 if source is PatientSource.NONE else len(patients))
    others = with_source(strangers, source, prefix="other")
    away = judge(predictor, others, resamples=0, gallery=0).evaluation.leak
    assert away is not None
    assert (away.leaky, away.patients) == (False, 0)


def test_the_weaker_source_decides(predictor: Predictor, parts: dict[Split, Listing], tmp_path: Path) -> None:
    """The bundle knows its patients by the names of files only, so that a table proves nothing against it."""
    strangers = with_source(as_strangers(taken(parts[Split.TRAIN], 8), tmp_path), PatientSource.CSV)
    leak = judge(predictor, strangers, resamples=0, gallery=0).evaluation.leak
    assert leak is not None
    assert (leak.leaky, leak.patient_source) == (False, PatientSource.NAME)
    assert leak.patients > 0


def test_the_figures_are_scikit_learns(trained: Trained, parts: dict[Split, Listing]) -> None:
    found = judge(Predictor(trained.training.bundle), parts[Split.TEST], resamples=20, gallery=0)
    classes = trained.training.bundle.card.classes
    truth = np.array([classes.index(str(record.label)) for record in found.records])
    scores = np.array([list(prediction.probabilities.values()) for prediction in found.predictions])
    told = scores.argmax(axis=1)
    expected = {
        "accuracy": accuracy_score(truth, told),
        "recall": recall_score(truth, told, average="macro", zero_division=0),
        "f1": f1_score(truth, told, average="macro", zero_division=0),
        "auroc": roc_auc_score(truth, scores, multi_class="ovr", average="macro"),
        "loss": log_loss(truth, scores),
        "brier": brier_score_loss(truth, scores, scale_by_half=False, labels=[0, 1, 2]),
    }
    metrics = found.evaluation.metrics
    for name, value in expected.items():
        assert metrics[name].value == pytest.approx(value), name
        assert metrics[name].low <= metrics[name].value <= metrics[name].high
    assert found.evaluation.n == len(truth)
    assert sum(map(sum, found.evaluation.confusion)) == len(truth)
    assert found.evaluation.resamples == 20
    assert [item.path for item in found.predictions] == [str(record.path) for record in found.records]


def test_the_seed_decides_the_intervals(predictor: Predictor, parts: dict[Split, Listing]) -> None:
    runs = [
        judge(predictor, parts[Split.TEST], seed=seed, resamples=30, gallery=0).evaluation.metrics["loss"]
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_files_that_cannot_be_read_are_listed_and_not_counted(
    predictor: Predictor, parts: dict[Split, Listing], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no film")
    wrong = (
        ImageRecord(bad, "normal", "p1"),
        ImageRecord(tmp_path / "absent.png", "effusion", "p2"),
    )
    listing = replace(parts[Split.TEST], records=(wrong[0], *parts[Split.TEST].records, wrong[1]))
    found = judge(predictor, listing, resamples=0)
    assert set(found.evaluation.failed) == {str(record.path) for record in wrong}
    assert "no such file" in found.evaluation.failed[str(wrong[1].path)]
    assert found.evaluation.n == len(parts[Split.TEST])
    assert found.evaluation.statuses == {"ok": len(parts[Split.TEST]), "error": 2}
    assert sum(found.evaluation.support.values()) == found.evaluation.n
    clean = judge(predictor, parts[Split.TEST], resamples=0, gallery=0).evaluation
    assert found.evaluation.metrics["loss"].value == clean.metrics["loss"].value
    only = replace(parts[Split.TEST], records=wrong)
    with pytest.raises(DataError, match=r"None of the 2 films could be read. .*bad.png: expected a DICOM, PNG"):
        judge(predictor, only)


def test_films_that_the_gate_doubts_are_counted(trained: Trained, predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "black.png").write_bytes(png(np.zeros((64, 64), np.uint8)))
    shutil.copy(next(trained.data.glob("effusion/*.png")), tmp_path / "normal" / "film.png")
    listing = list_images(tmp_path / "normal")
    listing = replace(listing, records=tuple(replace(record, label="normal") for record in listing.records))
    found = judge(predictor, listing, resamples=0, gallery=0)
    assert {item.status for item in found.predictions} == {Status.OK, Status.OUT_OF_SCOPE}
    assert found.evaluation.n == 2
    assert found.evaluation.statuses == {"ok": 1, "out_of_scope": 1}


def test_labels_that_the_bundle_does_not_know_are_refused(predictor: Predictor, parts: dict[Split, Listing]) -> None:
    records = parts[Split.TEST].records
    strange = replace(parts[Split.TEST], records=(replace(records[0], label="fracture"), *records[1:]))
    with pytest.raises(
        DataError, match="Expected the bundle's classes consolidation, effusion, normal, but the set also has fracture"
    ):
        judge(predictor, strange)
    unlabelled = replace(parts[Split.TEST], records=(replace(records[0], label=None), *records[1:]))
    with pytest.raises(DataError, match=f"a label for every film, but 1 of {len(records)} have none"):
        judge(predictor, unlabelled)
    with pytest.raises(DataError, match="None of the 0 films could be read"):
        judge(predictor, replace(parts[Split.TEST], records=()))


def test_mistakes_are_the_most_confident_and_drawn(predictor: Predictor, parts: dict[Split, Listing]) -> None:
    found = judge(predictor, taken(parts[Split.TRAIN], 4), resamples=0, gallery=3)
    assert 1 <= len(found.mistakes) <= 3
    surety = [mistake.probability for mistake in found.mistakes]
    assert surety == sorted(surety, reverse=True)
    wrong = [
        max(prediction.probabilities.values())
        for record, prediction in zip(found.records, found.predictions, strict=True)
        if prediction.label != record.label
    ]
    assert surety[0] == pytest.approx(max(wrong), abs=1e-5)
    for mistake in found.mistakes:
        assert mistake.label != mistake.predicted
        film, overlay = read(mistake.film_png), mistake.overlay_png
        assert max(film.pixels.shape) == 360
        assert overlay.startswith(b"\x89PNG")
    assert all(example.label == example.predicted for example in found.examples)


def test_progress_counts_every_film(predictor: Predictor, parts: dict[Split, Listing]) -> None:
    calls: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        calls.append((stage, done, total))

    listing = taken(parts[Split.TEST], 4)
    judge(predictor, listing, resamples=0, gallery=0, progress=progress)
    assert calls == [("predictions", done, len(listing)) for done in range(1, len(listing) + 1)]


def test_a_part_is_known_by_its_content(
    trained: Trained, predictor: Predictor, parts: dict[Split, Listing], tmp_path: Path
) -> None:
    whole = trained.training.listing
    hashes = {record.path: read(record.path).content_hash for record in whole.records}
    for part in Split:
        chosen = select_part(whole, predictor, part, hashes)
        assert {record.path for record in chosen.records} == {record.path for record in parts[part].records}
    with pytest.raises(DataError, match=r"films of the bundle's test part \(\d+ films\), but none of the \d+ given"):
        select_part(parts[Split.TRAIN], predictor, Split.TEST, hashes)
