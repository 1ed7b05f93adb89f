from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pydicom
import pytest
from made import film8, png
from PIL import Image

from rentgen import bundle as bundles
from rentgen.data.listing import list_images
from rentgen.data.split import find_leak, select
from rentgen.engine.predictor import Predictor
from rentgen.errors import BundleError, DataError, LeakError, WeightsError
from rentgen.images.phantom import Finding, write_set
from rentgen.learn.recipe import Recipe, load
from rentgen.learn.training import Training, TrainingPlan, train
from rentgen.records import PatientSource, Split

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def small(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders of small copies of drawn films, 16 of each of three classes, two per patient."""
    folder = tmp_path_factory.mktemp("small")
    for source in sorted(films.iterdir()):
        (folder / source.name).mkdir()
        for path in sorted(source.glob("*.png"))[:16]:
            Image.open(path).reduce(4).save(folder / source.name / path.name)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    plan = load("paper").change("backbone", name="test_resnet", precision="f32")
    return plan.change("preprocessing", height=64, width=64).change("augment", views=1).change("head", epochs=3)


@pytest.fixture(scope="module")
def base(small: Path, recipe: Recipe, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return run(small, tmp_path_factory.mktemp("base"), recipe, cache)


def run(data: Path, folder: Path, recipe: Recipe, cache: Path, **changes: Any) -> Training:  # noqa: ANN401
    plan = TrainingPlan(data=data, out=folder / "model.rentgen", recipe=recipe, cache=cache, weights="random")
    return train(replace(plan, **changes))


def parts_of(training: Training) -> dict[Split | None, set[str]]:
    return {part: {record.path.name for record in training.listing.records if record.split is part} for part in Split}


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_same_recipe_gives_the_same_model(
    base: Training, small: Path, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    # The graph is kept, because exporting it takes longest; features and head are computed anew.
    shutil.copytree(cache / "graphs", tmp_path / "cache" / "graphs")
    cold = run(small, tmp_path, recipe, tmp_path / "cache")
    warm = run(small, tmp_path, recipe, tmp_path / "cache")
    for again in (cold, warm):
        assert parts_of(again) == parts_of(base)
        assert again.bundle.model == base.bundle.model
        np.testing.assert_array_equal(again.bundle.golden.logits, base.bundle.golden.logits)
        assert again.bundle.card.history.parts == base.bundle.card.history.parts
        assert again.bundle.card.test == base.bundle.card.test
        assert again.bundle.card.operating_points == base.bundle.card.operating_points


def test_the_bundle_on_disk_is_the_one_returned(base: Training, small: Path, recipe: Recipe, cache: Path) -> None:
    assert base.test is not None
    assert len(base.bundle.bundle_id) == 64
    assert base.bundle.card.test == base.test.evaluation.to_dict()
    assert base.bundle.card.validation == base.validation.evaluation.to_dict()


def test_no_patient_stands_in_two_parts_and_every_part_has_every_class(base: Training) -> None:
    assert base.audit.shared_patients == 0
    assert base.listing.patient_source is PatientSource.NAME
    owners = [{record.patient for record in select(base.listing, part).records} for part in Split]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 24
    assert {tuple(counts) for counts in base.bundle.card.counts.values()} == {("consolidation", "effusion", "normal")}


def test_the_card_tells_how_it_was_made(base: Training, small: Path, recipe: Recipe) -> None:
    card = base.bundle.card
    assert card.name == "model"
    assert Recipe.from_dict(card.recipe) == recipe
    assert card.backbone["name"] == "test_resnet"
    assert len(card.backbone["weights_sha256"]) == 64
    assert card.licences == ("Starting weights (random): none",)
    assert sum(count for classes in card.counts.values() for count in classes.values()) == 48
    assert card.audit == base.audit.summary()
    assert base.bundle.split.audit == card.audit
    assert card.audit["n"] == 48
    assert {"python", "rentgen", "numpy", "torch", "timm", "onnx", "openvino", "pillow", "pydicom"} == set(
        card.software
    )
    assert {point.name for point in card.operating_points} == {"youden", "sensitivity_0.95", "specificity_0.95"}
    assert set(card.history.parts) == {"train", "validation", "test"}
    assert len(card.history.parts["train"]) == 3
    assert "Not a medical device" in card.intended_use
    assert card.created.endswith("+00:00")
    json.dumps(card.to_dict(), allow_nan=False)


def test_what_the_caller_says_is_noted(small: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    calls: Counter[str] = Counter()

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        assert 0 <= done <= total
        calls[stage] += 1

    plan = TrainingPlan(
        small, tmp_path / "named.rentgen", recipe, cache, weights="random", licences=("CC0",), command="rentgen train x"
    )
    found = train(plan, progress=progress)
    assert set(calls) >= {"audit", "features", "head", "predictions"}
    assert found.bundle.card.licences == ("CC0", "Starting weights (random): none")
    assert found.bundle.card.command == "rentgen train x"
    assert bundles.read(plan.out).card.name == "named"


SETTINGS: list[tuple[str, str, object]] = [
    ("data", "validation", 0.3),
    ("data", "test", 0.3),
    ("data", "seed", 1),
    ("preprocessing", "height", 96),
    ("preprocessing", "width", 96),
    ("preprocessing", "resize", "pad"),
    ("preprocessing", "crop_borders", True),
    ("preprocessing", "smooth_px", 5.0),
    ("backbone", "name", "test_efficientnet"),
    ("backbone", "engine", "torch"),
    ("backbone", "precision", "bf16"),
    ("backbone", "normalise", "film"),
    ("backbone", "stored", "f16"),
]


@pytest.mark.parametrize(("table", "name", "value"), SETTINGS, ids=lambda value: str(value))
def test_row_6_each_setting_changes_the_result(
    table: str, name: str, value: object, base: Training, small: Path, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    if name == "precision" and not HAS_BF16:
        pytest.skip("this processor has no bf16, and asking for it is refused (test_engine_session)")
    changed = run(small, tmp_path, recipe.change(table, **{name: value}), cache)
    assert changed.bundle.card.recipe[table][name] == value
    if table == "data":
        assert parts_of(changed) != parts_of(base)
        if name != "seed":
            part = Split(name)
            assert len(parts_of(changed)[part]) > len(parts_of(base)[part])
    elif table == "preprocessing":
        assert not np.array_equal(changed.bundle.golden.prepared, base.bundle.golden.prepared)
        assert changed.bundle.card.preprocessing != base.bundle.card.preprocessing
    elif name == "normalise":
        assert np.abs(changed.bundle.golden.embedding - base.bundle.golden.embedding).max() > 1e-3
    elif name == "stored":
        assert len(changed.bundle.model) < 0.8 * len(base.bundle.model)
        np.testing.assert_allclose(changed.bundle.golden.logits, base.bundle.golden.logits, atol=0.02)
    elif name == "name":
        assert changed.bundle.card.backbone["weights_sha256"] != base.bundle.card.backbone["weights_sha256"]
    else:
        # The arithmetic differs in the last digits, which the cache keeps apart by name.
        spaces = [json.loads(path.read_text()) for path in cache.glob("features/*/space.json")]
        assert {space["precision"] for space in spaces} >= {"f32", "torch-f32" if name == "engine" else "bf16"}
        np.testing.assert_allclose(changed.bundle.golden.logits, base.bundle.golden.logits, atol=0.02)
        assert changed.bundle.model != base.bundle.model


def test_every_setting_of_three_tables_is_tried() -> None:
    tables = Recipe().to_dict()
    named = {(table, name) for table, name, _ in SETTINGS}
    # The class token is for transformers: tests/test_learn_networks.py trains one by it. Several networks:
    # tests/test_learn_together.py.
    named |= {("backbone", "pooling"), ("backbone", "also")}
    assert named == {(table, name) for table in ("data", "preprocessing", "backbone") for name in tables[table]}


def test_no_test_part_when_none_is_asked_for(small: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    found = run(small, tmp_path, recipe.change("data", test=0.0), cache)
    assert found.test is None
    assert found.bundle.card.test is None
    assert set(found.bundle.card.counts) == {"train", "validation"}
    assert found.validation.evaluation.leak is not None
    assert found.validation.evaluation.leak.images == len(found.validation.records)


def test_given_parts_are_kept(small: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    expected: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for source in sorted(small.iterdir()):
        for number, path in enumerate(sorted(source.glob("*.png"))):
            part = "test" if number < 4 else "val" if number < 8 else "train"
            target = tmp_path / "films" / part / source.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            expected[part].add(path.name)
    found = parts_of(run(tmp_path / "films", tmp_path, recipe, cache))
    assert [found[part] for part in Split] == [expected["train"], expected["val"], expected["test"]]


@pytest.fixture
def halves(small: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return two folders that share no film and number their patients each from one."""
    for source in sorted(small.iterdir()):
        for number, path in enumerate(sorted(source.glob("*.png"))):
            half = tmp_path / ("own" if number < 12 else "other") / source.name
            half.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, half / f"person{number % 12 // 2}_{source.name}_{number}.png")
    return tmp_path / "own", tmp_path / "other"


def test_another_set_measures(halves: tuple[Path, Path], recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    """Names of files are weak evidence across sources: the same number is told, and refuses nothing."""
    own, other = halves
    found = run(own, tmp_path, recipe, cache, test=other)
    parts = parts_of(found)
    assert parts[Split.TEST] == {path.name for path in other.glob("*/*.png")}
    assert parts[Split.TRAIN] | parts[Split.VALIDATION] == {path.name for path in own.glob("*/*.png")}
    assert found.test is not None
    leak = found.test.evaluation.leak
    assert leak is not None
    assert (leak.leaky, leak.images, leak.patient_source) == (False, 0, PatientSource.NAME)
    assert leak.patients > 0
    assert found.audit.shared_patients > 0
    assert "with films in more than one part" in found.audit.findings[0]


def test_a_test_set_that_cannot_measure_is_refused(
    halves: tuple[Path, Path], recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    own, other = halves
    with pytest.raises(LeakError, match="36 files of the test set are in the training set, too"):
        run(own, tmp_path, recipe, cache, test=own)
    (other / "normal").rename(other / "healthy")
    with pytest.raises(DataError, match="test set has classes that the training set has not: healthy"):
        run(own, tmp_path, recipe, cache, test=other)
    rows = [
        {"path": str(path), "label": path.parent.name, "split": "test" if number % 2 else "train"}
        for number, path in enumerate(sorted(own.glob("*/*.png")))
    ]
    (other / "healthy").rename(other / "normal")
    with pytest.raises(DataError, match="brings a test part of its own; give either that or --test"):
        run(write_csv(tmp_path / "own.csv", rows), tmp_path, recipe, cache, test=other)


def test_unreadable_films_are_left_out_and_listed(small: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "films")
    bad = tmp_path / "films" / "normal" / "person99_normal_1.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    found = run(tmp_path / "films", tmp_path, recipe, cache)
    assert list(found.audit.unreadable) == [str(bad)]
    assert bad.name not in set.union(*parts_of(found).values())
    assert found.bundle.card.audit["unreadable"] == 1
    assert any("cannot be read; the first is" in finding for finding in found.audit.findings)
    assert len(found.listing) == 48


def test_one_class_cannot_be_taught(small: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected at least two classes in .*, but got 0: no labels"):
        run(small / "normal", tmp_path, recipe, cache)
    rows = [{"path": str(path), "label": "normal"} for path in sorted((small / "normal").glob("*.png"))]
    with pytest.raises(DataError, match=r"Expected at least two classes in .*, but got 1: normal"):
        run(write_csv(tmp_path / "one.csv", rows), tmp_path, recipe, cache)


def test_a_patient_on_both_sides_of_a_table_is_refused(
    small: Path, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    rows = [
        {
            "path": str(path),
            "label": path.parent.name,
            "patient": path.name.partition("_")[0],
            "split": ("train", "test")[number % 2],
        }
        for number, path in enumerate(sorted(small.glob("*/*.png")))
    ]
    with pytest.raises(LeakError, match="Patients with films in more than one part: 24") as caught:
        run(write_csv(tmp_path / "leaky.csv", rows), tmp_path, recipe, cache)
    assert "person1" not in str(caught.value)


def test_classes_and_patients_of_a_table(small: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    names = {"normal": "Без змін", "effusion": "Випіт", "consolidation": "Випіт"}
    rows = [
        {"path": str(path), "label": names[path.parent.name], "patient": f"p{number // 4}"}
        for number, path in enumerate(sorted(small.glob("*/*.png")))
    ]
    found = run(write_csv(tmp_path / "films.csv", rows), tmp_path, recipe, cache)
    assert found.bundle.card.classes == ("Без змін", "Випіт")
    assert found.bundle.split.patient_source is PatientSource.CSV
    assert sum(map(len, found.bundle.split.patients.values())) == 12
    whole = (tmp_path / "model.rentgen").read_bytes()
    assert all(f'"p{number}"'.encode() not in whole for number in range(12))


def test_copies_of_a_film_under_two_names_do_not_part(small: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    """And the certificate still knows both patients."""
    rows = []
    for number, path in enumerate(sorted(small.glob("*/*.png"))):
        copy = tmp_path / "copies" / f"{number}.png"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
        label = path.parent.name
        rows += [
            {"path": str(path), "label": label, "patient": f"a{number // 2}"},
            {"path": str(copy), "label": label, "patient": f"b{number // 2}"},
        ]
    found = run(write_csv(tmp_path / "copies.csv", rows), tmp_path, recipe, cache)
    part_of = {record.patient: record.split for record in found.listing.records}
    assert len(part_of) == 48
    assert all(part_of[f"a{number}"] is part_of[f"b{number}"] for number in range(24))
    hashes = {part: set(members) for part, members in found.bundle.split.images.items()}
    assert not hashes[Split.TRAIN] & (hashes[Split.VALIDATION] | hashes[Split.TEST])
    taught = [patient for patient, part in part_of.items() if part is not Split.TEST]
    leak = find_leak(found.bundle.split, [], taught, PatientSource.CSV)
    assert (leak.leaky, leak.patients) == (True, len(taught))


def test_what_can_fail_at_once_fails_at_once(small: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Expected the name of a timm model, but got 'resnet5o'"):
        run(tmp_path / "nowhere", tmp_path, recipe.change("backbone", name="resnet5o"), cache)
    with pytest.raises(DataError, match=r"nowhere is not there. Expected a folder of films or a CSV"):
        run(tmp_path / "nowhere", tmp_path, recipe, cache)
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="The bundle cannot be written to"):
        run(small, tmp_path, recipe, cache, out=tmp_path / "file" / "model.rentgen")


def test_too_few_patients_are_told(tmp_path: Path, recipe: Recipe, cache: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "films" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "films" / label / f"{number}.png").write_bytes(png(film8(seed=ord(label) + number)))
    with pytest.raises(DataError, match=r"part has no film of '[ab]': the set has 2 films of it from 2 patients"):
        run(tmp_path / "films", tmp_path, recipe, cache)


def test_a_dicom_tree_with_a_table_of_labels(recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    findings = (Finding.NORMAL, Finding.EFFUSION)
    write_set(tree, films=8, rng=np.random.default_rng(3), findings=findings, dicom=True)
    rows = []
    for path in sorted(tree.glob("*/*.dcm")):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        rows.append({"sop_instance_uid": str(ds.SOPInstanceUID), "label": path.parent.name.upper()})
        # As a PACS exports it: a folder for each patient, names that say nothing.
        target = tree / "export" / str(ds.PatientID) / f"{len(rows):08d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    table = write_csv(tree / "labels.csv", rows)
    found = run(table, tmp_path, recipe, cache)
    assert found.bundle.card.classes == ("EFFUSION", "NORMAL")
    assert found.bundle.split.patient_source is PatientSource.DICOM
    assert found.audit.formats == {"dicom": 16}
    assert found.audit.shared_patients == 0
    assert len({record.patient for record in list_images(table).records}) == 8
    prediction = Predictor(found.bundle).predict(found.listing.records[0].path)
    assert set(prediction.probabilities) == {"EFFUSION", "NORMAL"}
    assert found.bundle.card.positive == "EFFUSION"
