"""Plain ONNX and OpenVINO IR: the bundle's answers, from files that know nothing of Rentgen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
from linear import fitted_model, normal_films, predictor_of

from rentgen import bundle as bundles
from rentgen.bundle import Bundle
from rentgen.cli import main
from rentgen.engine.predictor import Predictor
from rentgen.errors import BundleError, MissingExtraError
from rentgen.export.ir import write_openvino
from rentgen.export.plain import file_stem, write_onnx
from rentgen.images.phantom import golden_films
from rentgen.images.prepare import prepare
from rentgen.records import Calibration, OperatingPoint, Precision, Radiograph, Task
from rentgen.records.evaluation import Interval

Writer = Callable[[Bundle, Path], tuple[Path, ...]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a small calibrated bundle, as it is read from its file."""
    films = normal_films(24)
    made = predictor_of(fitted_model(films, np.arange(24) % 2)).bundle
    half = Interval(0.5, 0.4, 0.6)
    card = replace(
        made.card,
        calibration=Calibration("vector", (1.7, 0.6), (0.3, -0.2), "these", 24),
        operating_points=(OperatingPoint("youden", "covid", 0.25, half, half),),
    )
    path = tmp_path_factory.mktemp("bundle") / "linear.rentgen"
    bundles.write(path, replace(made, card=card))
    return bundles.read(path)


def expected(bundle: Bundle) -> np.ndarray:
    """Return the probabilities that the bundle's own predictor gives the golden films."""
    predictor = Predictor(bundle, precision=Precision.F32)
    given = [predictor.predict_film(Radiograph(film, "", "png", 8)).probabilities for film in golden_films()]
    return np.array([list(each.values()) for each in given])


def prepared(bundle: Bundle) -> np.ndarray:
    return np.stack(
        [prepare(Radiograph(film, "", "png", 8), bundle.card.preprocessing).pixels for film in golden_films()]
    )


def test_onnx_runtime_gives_the_bundles_probabilities(bundle: Bundle, tmp_path: Path) -> None:
    path, _ = write_onnx(bundle, tmp_path)
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    assert names == ["probabilities", "logits", "embedding", "activation_maps"]
    answers = dict(zip(names, session.run(names, {"image": prepared(bundle)}), strict=True))
    np.testing.assert_allclose(answers["probabilities"], expected(bundle), atol=1e-5)
    np.testing.assert_allclose(answers["activation_maps"], bundle.golden.activation_maps, atol=1e-4)


def test_findings_get_a_sigmoid_each(bundle: Bundle, tmp_path: Path) -> None:
    several = replace(bundle, card=replace(bundle.card, task=Task.MULTILABEL))
    path, described = write_onnx(several, tmp_path)
    (given,) = onnxruntime.InferenceSession(path).run(["probabilities"], {"image": prepared(several)})
    np.testing.assert_allclose(given, expected(several), atol=1e-5)
    assert np.abs(given.sum(axis=1) - 1).max() > 1e-3
    assert json.loads(described.read_text())["task"] == "multilabel"


def test_openvino_gives_the_bundles_probabilities(bundle: Bundle, tmp_path: Path) -> None:
    path, weights, _ = write_openvino(bundle, tmp_path)
    assert weights.is_file()
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = compiled({"image": prepared(bundle)})
    np.testing.assert_allclose(answers["probabilities"], expected(bundle), atol=1e-5)


def test_a_bundle_without_calibration_has_the_bare_softmax(bundle: Bundle, tmp_path: Path) -> None:
    plain = replace(bundle, card=replace(bundle.card, calibration=None))
    path, _ = write_onnx(plain, tmp_path)
    (came,) = onnxruntime.InferenceSession(path).run(["probabilities"], {"image": prepared(plain)})
    np.testing.assert_allclose(came, expected(plain), atol=1e-5)
    assert np.abs(expected(plain) - expected(bundle)).max() > 0.01


@pytest.mark.parametrize("write", [write_onnx, write_openvino])
def test_the_json_beside_it_says_what_the_graph_takes_and_gives(write: Writer, bundle: Bundle, tmp_path: Path) -> None:
    path, *_, described = write(bundle, tmp_path)
    values = json.loads(described.read_text(encoding="utf-8"))
    assert described.name == f"{path.name}.json"
    assert values["file"] == path.name
    assert values["bundle_id"] == bundle.bundle_id
    assert values["classes"] == ["normal", "covid"]
    assert values["input"]["shape"] == ["batch", 96, 96]
    assert values["preprocessing"]["height"] == 96
    assert values["operating_points"][0]["threshold"] == 0.25
    graph = openvino.Core().read_model(path)
    shapes = {
        output.get_any_name(): [axis.get_length() if axis.is_static else "batch" for axis in output.partial_shape]
        for output in graph.outputs
    }
    told = {output["name"]: output["shape"] for output in values["outputs"]}
    assert told == {name: ["batch", *shape[1:]] for name, shape in shapes.items()}
    for found in values["checked"].values():
        assert set(found) == set(shapes)
        assert max(found.values()) <= values["tolerance"]


@pytest.mark.parametrize("write", [write_onnx, write_openvino])
def test_what_deviates_from_the_golden_vectors_is_not_kept(write: Writer, bundle: Bundle, tmp_path: Path) -> None:
    golden = replace(bundle.golden, logits=bundle.golden.logits + np.float32(0.05))
    with pytest.raises(BundleError, match=r"differs from the bundle's golden vectors in .* It was deleted"):
        write(replace(bundle, golden=golden), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_becomes_a_file_name(bundle: Bundle) -> None:
    named = replace(bundle, card=replace(bundle.card, name="../Läsion 1/β"))
    assert file_stem(named) == "_Läsion_1_β"


def test_without_onnx_the_extra_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"needs onnx.*rentgen\[export\]"):
        write_onnx(bundle, tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """Return the exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["rentgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_the_command_writes_several_forms(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "chest.rentgen"
    bundles.write(source, bundle)
    assert not run(monkeypatch, "export", source, "--onnx", tmp_path / "one", "--openvino", tmp_path / "two")
    written = capsys.readouterr().out.split()
    assert [Path(line).name for line in written] == [
        "linear.onnx", "linear.onnx.json", "linear.xml", "linear.bin", "linear.xml.json",
    ]  # fmt: skip
    assert all(Path(line).is_file() for line in written)


def test_the_command_wants_a_form(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles.write(tmp_path / "chest.rentgen", bundle)
    assert run(monkeypatch, "export", tmp_path / "chest.rentgen") == 1
    assert "--onnx DIR, --openvino DIR, --torch DIR, --mlflow DIR" in capsys.readouterr().err
