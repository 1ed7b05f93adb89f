"""One test for each defect of other systems that is ours never to have; the rows are those of the list."""

from __future__ import annotations

import ast
import html
import inspect
import io
import json
import re
import shlex
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import Trained
from made import CODED_LOSSLESS, dicom, film, png
from PIL import Image
from pydicom.dataset import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rentgen import bundle as bundles
from rentgen.bundle import Bundle, Golden
from rentgen.data.audit import audit, examine
from rentgen.data.listing import list_images
from rentgen.engine.predictor import Predictor, heat_map, softmax
from rentgen.engine.session import Session
from rentgen.errors import BundleError, WeightsError
from rentgen.evaluate.judge import judge
from rentgen.evaluate.report import Report, render_html, render_json, render_markdown
from rentgen.images.overlay import heatmap_png
from rentgen.images.phantom import Finding, draw, golden_films, to_png
from rentgen.images.prepare import prepare
from rentgen.images.read import read
from rentgen.learn import backbones
from rentgen.learn.backbones import Backbone
from rentgen.learn.export import export_backbone, join_heads
from rentgen.learn.head import Features, Head, train_head
from rentgen.learn.recipe import load
from rentgen.learn.settings import HeadSettings
from rentgen.learn.training import Training, TrainingPlan, train
from rentgen.records import Geometry, Precision, Preprocessing, Radiograph, ResizeMode, Split, Status, UInt8

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "rentgen").rglob("*.py"))


@pytest.fixture(scope="module")
def better(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Return a model on ImageNet weights: one that has learnt something."""
    folder = tmp_path_factory.mktemp("better")
    recipe = load("paper").change("backbone", name="tf_efficientnet_lite0").change("augment", views=0)
    recipe = recipe.change("head", epochs=60, learning_rate=1e-3)
    return train(TrainingPlan(films, folder / "better.rentgen", recipe, folder / "cache"))


def test_row_01_scores_are_squashed_once(better: Training) -> None:
    """Black, white and noise images either score below 0.1 or are rejected; scores span (0, 1) on real data."""
    predictor = Predictor(better.bundle)
    for image in (
        np.zeros((400, 400), np.uint8),
        np.full((400, 400), 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8),
    ):
        found = predictor.predict(png(image))
        findings = [value for label, value in found.probabilities.items() if label != "normal"]
        assert found.status is Status.OUT_OF_SCOPE or max(findings) < 0.1
    assert better.test is not None
    told = better.test.predictions + better.validation.predictions
    for label in better.bundle.card.classes:
        scores = [prediction.probabilities[label] for prediction in told]
        assert min(scores) < 0.1
        assert max(scores) > 0.9
    prepared = prepare(read(better.listing.records[0].path), better.bundle.card.preprocessing).pixels
    session = Session(better.bundle.model, precision=predictor.session.precision)
    once = softmax(session.run(prepared[None])["logits"][0])
    again = predictor.predict(better.listing.records[0].path)
    assert list(again.probabilities.values()) == pytest.approx(once.tolist(), abs=1e-4)


CELL = 16
SIZE = (128, 192)
LEVEL, BRIGHT = 40, 250


class _Brightness(nn.Module):
    """A network whose feature map is the brightness of each cell, and nothing else."""

    num_features = 4

    def forward_features(self, image: Tensor) -> Tensor:
        brightness = nn.functional.avg_pool2d(image[:, :1], CELL)  # (N, 1, h, w)
        return torch.cat([brightness, torch.zeros_like(brightness).expand(-1, 3, -1, -1)], dim=1)


@pytest.fixture(scope="module")
def brightness_graph() -> bytes:
    backbone = Backbone(
        _Brightness(), name="brightness", mean=0.0, std=255.0, size=SIZE, weights="none", licence="none"
    )
    hidden = np.array([[1, 0, 0, 0]], np.float32)
    classes = np.array([[-1], [1]], np.float32)
    head = Head(hidden, np.zeros(1, np.float32), classes, np.zeros(2, np.float32))
    return join_heads(export_backbone(backbone, SIZE), [head])


def brightness_predictor(graph: bytes, preprocessing: Preprocessing, like: Bundle, path: Path) -> Predictor:
    """Write a bundle and load it, as any other."""
    native = golden_films()
    prepared = np.stack([prepare(Radiograph(item, "", "png", 8), preprocessing).pixels for item in native])
    answers = Session(graph).run(prepared)
    card = replace(
        like.card, classes=("dark", "bright"), positive="bright", preprocessing=preprocessing, operating_points=()
    )
    golden = Golden(native, prepared, answers["logits"], answers["embedding"], answers["activation_maps"])
    bundles.write(path, Bundle(card, graph, like.split, golden))
    return Predictor.load(path, precision=Precision.F32)


def film_with_a_square(height: int, width: int, at: tuple[float, float], border: int) -> tuple[UInt8, tuple[int, int]]:
    """Return a dull film with one bright square inside black borders, and the square's middle."""
    pixels = np.full((height, width), LEVEL, np.uint8)
    half = min(height, width) // 16
    row, column = int(at[0] * height), int(at[1] * width)
    pixels[row - half : row + half, column - half : column + half] = BRIGHT
    return np.pad(pixels, ((border, border // 2), (border * 2, border))), (row + border, column + 2 * border)


def cell_of(geometry: Geometry) -> tuple[float, float]:
    """Return height and width of one cell of the grid, native pixels."""
    return CELL / geometry.scale_y, CELL / geometry.scale_x


@pytest.mark.parametrize("crop_borders", [False, True])
@pytest.mark.parametrize("resize", ResizeMode)
def test_row_02_the_heat_map_returns_to_the_native_pixel(
    resize: ResizeMode, crop_borders: bool, brightness_graph: bytes, trained: Trained, tmp_path: Path
) -> None:
    """The map's peak returns to the bright square, within one grid cell, for any aspect ratio and any padding."""
    preprocessing = Preprocessing(*SIZE, resize=resize, crop_borders=crop_borders)
    predictor = brightness_predictor(brightness_graph, preprocessing, trained.training.bundle, tmp_path / "b.rentgen")
    for height, width in ((400, 600), (600, 400), (512, 512), (300, 900), (900, 300), (257, 433)):
        for at in ((0.5, 0.5), (0.2, 0.8), (0.85, 0.15)):
            for border in (0, 60):
                pixels, middle = film_with_a_square(height, width, at, border)
                path = tmp_path / "film.png"
                path.write_bytes(png(pixels))
                prediction = predictor.predict(path, maps=True)
                assert prediction.geometry is not None
                assert (prediction.geometry.crop_height == pixels.shape[0]) is not (crop_borders and border > 0)
                heat = heat_map(prediction, "bright")
                assert heat.shape == pixels.shape
                peak = np.argwhere(heat >= heat.max() * (1 - 1e-6)).mean(axis=0)
                cell = cell_of(prediction.geometry)
                off = np.abs(peak - middle) / cell
                assert off.max() <= 1, (height, width, at, border, peak, middle, cell)
                assert heat_map(prediction, "dark").max() == 0


def test_row_03_a_gate_adds_a_flag_and_never_removes_scores(trained: Trained) -> None:
    """A "normal" gate skips the main model: silent false negatives, nothing to audit."""
    predictor = Predictor(trained.training.bundle, precision=Precision.F32)
    image = np.zeros((300, 300), np.uint8)
    found = predictor.predict(png(image))
    assert found.status is Status.OUT_OF_SCOPE
    assert found.reasons
    prepared = prepare(Radiograph(image, "", "png", 8), predictor.card.preprocessing).pixels
    scores = softmax(Session(predictor.bundle.model).run(prepared[None])["logits"][0])
    assert list(found.probabilities.values()) == pytest.approx(scores.tolist(), abs=1e-6)
    assert found.to_dict()["probabilities"] == dict(found.probabilities)


def test_row_04_weights_load_strictly_and_are_hashed(tmp_path: Path) -> None:
    """Wrong weights load silently."""
    whole = backbones.load("test_resnet", weights="random").network.state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(whole, path)
    first = backbones.load("test_resnet", weights=path)
    assert first.weights_sha256 == backbones.hash_weights(load_file(path))
    name = next(key for key, value in whole.items() if value.is_floating_point())
    save_file(whole | {name: whole[name] + 1e-3}, path)
    assert backbones.load("test_resnet", weights=path).weights_sha256 != first.weights_sha256
    for spoiled, told in (
        ({key: value for key, value in whole.items() if key != name}, "1 missing"),
        (whole | {"extra.weight": torch.zeros(2)}, "1 unexpected"),
        (whole | {name: torch.zeros(3)}, "1 of another shape"),
    ):
        save_file(spoiled, path)
        with pytest.raises(WeightsError, match=told):
            backbones.load("test_resnet", weights=path)


def test_row_05_what_touched_training_or_selection_is_stamped(trained: Trained) -> None:
    """Evaluation refuses, or stamps LEAKY, a set that touched training or selection."""
    bundle, listing = trained.training.bundle, trained.training.listing
    for part in Split:
        records = tuple(record for record in listing.records if record.split is part)[:6]
        found = judge(Predictor(bundle), replace(listing, records=records), resamples=0, gallery=0).evaluation
        made_it = part is not Split.TEST
        report = Report(bundle.card, found, "Report", "films", "rentgen evaluate", "2025-01-01T00:00:00+00:00")
        assert found.to_dict()["leaky"] is made_it
        assert json.loads(render_json(report))["leaky"] is made_it
        assert ("LEAKY" in render_markdown(report)) is made_it
        if part is not Split.VALIDATION:  # a page takes a second
            assert ("LEAKY" in render_html(report)) is made_it
    assert all(epoch.loss >= 0 for epoch in bundle.card.history.parts["test"])
    losses = [epoch.loss for epoch in bundle.card.history.parts["validation"]]
    assert bundle.card.history.best_epoch == int(np.argmin(losses))


def test_row_06_settings_do_something_and_labels_have_probabilities(trained: Trained) -> None:
    """Class weights configured, never used; label returned without probability."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * 190 + [1] * 10, np.int64)
    rows = (rng.standard_normal((200, 8)) + 0.7 * labels[:, None]).astype(np.float32)
    part = Features((rows,), labels)
    settings = HeadSettings(hidden=8, epochs=30, learning_rate=0.01)
    recalls = []
    for class_weights in (False, True):
        head, _ = train_head(part, part, replace(settings, class_weights=class_weights), classes=2)
        recalls.append(float((head.logits(rows[labels == 1]).argmax(axis=1) == 1).mean()))
    assert recalls[1] > recalls[0] + 0.2

    answer = Predictor(trained.training.bundle).predict(trained.training.listing.records[0].path).to_dict()
    assert set(answer["probabilities"]) == set(trained.training.bundle.card.classes)
    assert answer["label"] in answer["probabilities"]


def test_row_07_parts_have_no_patient_in_common_and_copies_are_found(trained: Trained, tmp_path: Path) -> None:
    """Splits are by patient, stratified, audited for exact and near duplicates."""
    owners: dict[str, set[Split | None]] = {}
    for record in trained.training.listing.records:
        owners.setdefault(record.patient, set()).add(record.split)
    assert all(len(parts) == 1 for parts in owners.values())
    assert {tuple(counts) for counts in trained.training.bundle.card.counts.values()} == {
        ("consolidation", "effusion", "normal")
    }
    for source in sorted(trained.data.iterdir())[:2]:
        (tmp_path / source.name).mkdir()
        for path in sorted(source.glob("*_1.png"))[:4]:
            shutil.copy(path, tmp_path / source.name / path.name)
    original = next((tmp_path / "effusion").glob("*.png"))
    shutil.copy(original, tmp_path / "effusion" / "person900_effusion_1.png")
    with Image.open(original) as image:
        image.resize((400, 400)).save(tmp_path / "consolidation" / "person901_consolidation_1.jpg", quality=80)
    listing = list_images(tmp_path)
    found = audit(listing, examine(listing))
    assert sorted(pair.exact for pair in found.pairs) in ([False, True], [False, False, True])
    assert not any(pair.same_patient for pair in found.pairs)


def test_row_08_preprocessing_travels_inside_and_is_replayed(trained: Trained) -> None:
    """The caller must pass mean and std; defaults differ from training: silent skew."""
    for call in (Predictor.predict, Predictor.predict_many, Predictor.load):
        assert not {"mean", "std", "size", "normalize"} & set(inspect.signature(call).parameters)
    bundle = bundles.read(trained.bundle)
    assert bundle.card.preprocessing == trained.recipe.preprocessing
    Predictor(bundle)
    card = replace(bundle.card, preprocessing=replace(bundle.card.preprocessing, crop_borders=True))
    with pytest.raises(BundleError, match="golden films are prepared otherwise here"):
        Predictor(replace(bundle, card=card))
    shifted = replace(bundle.golden, embedding=bundle.golden.embedding + 1)
    with pytest.raises(BundleError, match="golden vectors do not replay: embedding"):
        Predictor(replace(bundle, golden=shifted))


def test_row_10_a_heat_map_is_a_small_picture(trained: Trained) -> None:
    """Heat maps returned as nested lists of floats at full resolution: 100 MB responses."""
    phantom = draw(Finding.EFFUSION, np.random.default_rng(0), height=1000, width=1000)
    prediction = Predictor(trained.training.bundle).predict(to_png(phantom), maps=True)
    heat = heat_map(prediction)
    assert heat.shape == (1000, 1000)
    picture = heatmap_png(heat)
    assert len(picture) < 100_000
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (1000, 1000))
    assert len(json.dumps(prediction.to_dict())) < 1000
    assert prediction.activation_maps is not None
    assert prediction.activation_maps.size < 1000


def test_row_11_calibration_is_measured_with_intervals(trained: Trained) -> None:
    """Expected calibration error, Brier score and a reliability curve with confidence intervals in every report."""
    assert trained.training.test is not None
    found = trained.training.test.evaluation
    for name in ("ece", "brier"):
        interval = found.metrics[name]
        assert np.isfinite([interval.value, interval.low, interval.high]).all()
    assert sum(found.reliability.count) == found.n
    card = trained.training.bundle.card
    report = Report(card, found, "Report", "films", "rentgen evaluate", "2025-01-01T00:00:00+00:00")
    values = json.loads(render_json(report))["evaluation"]
    assert set(values["ece"]) == set(values["brier"]) == {"value", "low", "high"}
    assert set(values["reliability"]) == {"x", "y", "count"}
    page = html.unescape(render_html(report))
    for word in ("Calibration error (ECE)", "Brier score", "Wilson's 95 % intervals"):
        assert word in page
    assert "Calibration error (ECE)" in render_markdown(report)


@pytest.mark.parametrize("name", ["tutorial.md", "tutorial.uk.md"])
def test_row_12_the_tutorial_holds_patients_out(name: str, trained: Trained) -> None:
    """Tutorial scores the samples that it trained on: copy-paste leakage."""
    assert trained.training.audit.shared_patients == 0
    assert trained.training.test is not None
    leak = trained.training.test.evaluation.leak
    assert leak is not None
    assert (leak.images, leak.patients) == (0, 0)
    path = ROOT / "docs" / name
    if not path.is_file():
        pytest.skip(f"there is no {name}")
    taught: set[str] = set()
    judged = 0
    # Each command with what it prints, up to the next one.
    for block in re.split(r"^\$ ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        command, _, output = block.partition("\n")
        words = shlex.split(command, comments=True)
        if words[:2] == ["rentgen", "train"]:
            taught.add(words[2])
        if words[:2] == ["rentgen", "evaluate"]:
            judged += 1
            assert words[3] not in taught or "--part test" in command or "LEAKY" in output.partition("```")[0], command
    assert taught
    assert judged


def shade(data: bytes) -> npt.NDArray[np.float64]:
    """Return the film as it is shown, in [0, 1]."""
    return read(data).pixels / 65535


def test_row_15_films_are_shown_as_the_standard_says() -> None:
    """Reference pixels for MONOCHROME1, VOI LUT, windows, rescale, 12/16 bit, compressed syntaxes."""
    codes = film(bits=12)
    center, width = 1500.0, 2000.0
    window: dict[str, Any] = {"WindowCenter": center, "WindowWidth": width}

    def linear(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        # PS3.3 C.11.2.1.2.1
        shown = (values - (center - 0.5)) / (width - 1) + 0.5
        return np.asarray(np.clip(shown, 0, 1), np.float64)

    expected = linear(codes.astype(float))
    assert 0 in expected
    assert 1 in expected
    np.testing.assert_allclose(shade(dicom(codes, **window)), expected, atol=2e-5)
    inverse = dicom(codes, PhotometricInterpretation="MONOCHROME1", **window)
    np.testing.assert_allclose(shade(inverse), 1 - expected, atol=2e-5)
    rescaled = dicom(codes, RescaleSlope=2.0, RescaleIntercept=-1000.0, **window)
    np.testing.assert_allclose(shade(rescaled), linear(2.0 * codes - 1000), atol=2e-5)
    for syntax in CODED_LOSSLESS:
        np.testing.assert_allclose(shade(dicom(codes, syntax=syntax, **window)), expected, atol=2e-5)
    deep = film(bits=16)
    whole = dicom(deep, bits=16, WindowCenter=32768.0, WindowWidth=65536.0)
    np.testing.assert_allclose(shade(whole), deep / 65535, atol=2e-5)

    curve = (np.linspace(0, 1, 4096) ** 2 * 4095).astype("<u2")
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 12]
    table["LUTDescriptor"].VR = "US"
    table.LUTData = curve.tobytes()
    table["LUTData"].VR = "OW"
    np.testing.assert_allclose(shade(dicom(codes, VOILUTSequence=[table], **window)), curve[codes] / 4095, atol=2e-5)

    sixteen = png(deep)
    np.testing.assert_array_equal(read(sixteen).pixels, deep)


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_row_16_there_is_no_pickle_anywhere(trained: Trained, tmp_path: Path) -> None:
    """Model shipped as a pickle: does not load elsewhere; runs code when it does."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names} | {getattr(node, "module", "") or ""}
                assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if called == "torch.load":
                    assert given["weights_only"] == "True", path
                if called in ("np.load", "numpy.load"):
                    assert given["allow_pickle"] == "False", path
    with zipfile.ZipFile(trained.bundle) as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".json", ".onnx", ".npz"}
        contents = {name: archive.read(name) for name in archive.namelist()}
    arrays: dict[str, npt.NDArray[Any]] = {}
    with np.load(io.BytesIO(contents["golden.npz"]), allow_pickle=False) as packed:
        arrays |= dict(packed)
    for path in sorted(trained.cache.rglob("*.npy")):
        arrays[path.name] = np.load(path, allow_pickle=False)
    assert len(arrays) > 5
    assert not any(array.dtype.hasobject for array in arrays.values())
    torch.save({"weight": _Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="holds no weights that are safe to read"):
        backbones.load("test_resnet", weights=tmp_path / "evil.pt")
