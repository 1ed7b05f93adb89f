"""Keeping track: a real MLflow store, TensorBoard's own reader, and trackers that fail."""

from __future__ import annotations

import json
import logging
import struct
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from conftest import Trained
from made import film8, png
from peers import free_port

from rentgen.cli import main
from rentgen.cli.track import trackers
from rentgen.errors import MissingExtraError, PeerError
from rentgen.records import Epoch
from rentgen.records.runs import Findings, RunStart, describe, figures, flatten
from rentgen.tracking.events import events, file_name
from rentgen.tracking.follow import TensorBoard, follow
from rentgen.tracking.mlflow_server import Mlflow, _shown

EPOCHS = (Epoch(0.5, 0.25, 0.1, 0.2), Epoch(0.25, 0.75, 0.3, 0.4))
START = RunStart("chest", "train", {"head.epochs": "2"}, "rentgen train films")
needs_mlflow = pytest.mark.skipif(
    not all(map(find_spec, ("mlflow", "sqlalchemy", "alembic"))), reason="mlflow is not installed"
)
needs_tensorboard = pytest.mark.skipif(not find_spec("tensorboard"), reason="tensorboard is not installed")


class Broken:
    """A tracker whose server goes away at one of its calls."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.at:
            raise PeerError("the server went away")

    def begin(self, run: RunStart) -> None:
        self._call("begin")

    def keep(self, found: Findings) -> None:
        self._call("keep")

    def end(self, *, failed: bool) -> None:
        self._call("failed" if failed else "end")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a current folder without settings of MLflow's."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("at", "calls"), [("begin", 1), ("keep", 2), ("end", 3)])
def test_a_tracker_that_fails_is_warned_of_once_and_left(at: str, calls: int, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Broken(at), Broken("never")
    with follow([broken, sound], START) as followers:
        followers.keep(Findings())
    assert len(broken.calls) == calls
    assert sound.calls == ["begin", "keep", "end"]
    assert [record.getMessage() for record in caplog.records] == [
        "Broken no longer keeps track of this run, which goes on: the server went away"
    ]


def train_and_fail(tracker: Broken) -> None:
    """Work that stops half way."""
    with follow([tracker], START):
        raise KeyboardInterrupt


def test_work_that_raises_is_a_failed_run() -> None:
    tracker = Broken("never")
    with pytest.raises(KeyboardInterrupt):
        train_and_fail(tracker)
    assert tracker.calls == ["begin", "failed"]


def test_events_are_frames_that_tensorboard_checks() -> None:
    data = events({"train": EPOCHS}, 1.0)
    records = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        record = data[12 : 12 + length]
        for told, part in ((data[8:12], data[:8]), (data[12 + length : 16 + length], record)):
            crc = google_crc32c.value(part)
            assert struct.unpack("<I", told)[0] == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        records.append(record)
        data = data[16 + length :]
    assert len(records) == 3
    assert b"brain.Event:2" in records[0]
    assert b"accuracy/train" in records[2]
    assert struct.pack("<f", 0.75) in records[2]


def read_events(folder: Path) -> Any:  # noqa: ANN401
    """Return what TensorBoard's own reader finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


@needs_tensorboard
def test_tensorboard_reads_curves_figures_and_pictures(tmp_path: Path) -> None:
    picture = png(film8(30, 20))
    found = Findings(curves={"train": EPOCHS}, metrics={"test/auroc": 0.875}, pictures={"mistakes/0": picture})
    (tmp_path / file_name(5.0)).write_bytes(events(found.curves, 5.0, found))
    read = read_events(tmp_path)
    assert [(point.step, point.value) for point in read.Scalars("accuracy/train")] == [(0, 0.25), (1, 0.75)]
    assert read.Scalars("test/auroc")[0].value == 0.875
    (image,) = read.Images("mistakes/0")
    assert (image.height, image.width, image.encoded_image_string) == (30, 20, picture)


def test_a_folder_that_cannot_be_made_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    with follow([TensorBoard(tmp_path / "file")], START) as followers:
        followers.keep(Findings())
    assert "TensorBoard no longer keeps track of this run" in caplog.text


@needs_mlflow
def test_mlflow_keeps_parameters_curves_figures_and_files(folder: Path) -> None:
    uri = f"sqlite:///{folder / 'runs.db'}"
    (folder / "report.html").write_text("<p>", encoding="utf-8")
    metrics = {"test/auroc": 0.9, "test/auroc_low": 0.8, "test/recall/Viral (one)": 0.5}
    found = Findings({"train": EPOCHS}, metrics, {}, (folder / "report.html",), "# chest")
    settings = {f"setting.{number}": str(number) for number in range(150)} | {"long": "x" * 9000}
    with follow([Mlflow(uri)], RunStart("chest", "train", settings, "rentgen train")) as followers:
        followers.keep(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("rentgen")
        (run,) = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(run.info.run_id, "train/loss_per_epoch")
        files = [file.path for file in client.list_artifacts(run.info.run_id)]
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 151
    assert run.data.metrics["test/auroc_low"] == 0.8
    assert run.data.metrics["test/recall/Viral _one_"] == 0.5
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.25)]
    assert run.data.tags["mlflow.note.content"] == "# chest"
    assert files == ["report.html"]


@needs_mlflow
def test_a_server_that_is_down_loses_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rentgen")
    with follow([Mlflow(f"http://somebody:secret@127.0.0.1:{free_port()}")], START) as followers:
        followers.keep(Findings())
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "Mlflow no longer keeps track of this run, which goes on" in said
    assert "secret" not in said


def test_a_uri_is_shown_without_its_password() -> None:
    assert _shown("https://somebody:secret@there:5000/x?token=1") == "https://there:5000/x"


def test_nobody_is_asked_unless_told(folder: Path) -> None:
    assert trackers(None, None) == []


def test_a_missing_mlflow_stops_who_asked_for_it_and_warns_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"needs mlflow.*rentgen\[mlflow\]"):
        trackers("sqlite:///x.db", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///x.db")
    assert trackers(None, None) == []
    assert "MLFLOW_TRACKING_URI is set, but this run is not tracked" in caplog.text


def test_figures_carry_the_ends_of_their_intervals(trained: Trained) -> None:
    found = trained.training.validation.evaluation
    named = figures(found, "validation")
    auroc = found.metrics["auroc"]
    assert named["validation/auroc"] == auroc.value
    assert (named["validation/auroc_low"], named["validation/auroc_high"]) == (auroc.low, auroc.high)
    assert named["validation/n"] == found.n
    assert all(number == number for number in named.values())


def test_settings_are_flat() -> None:
    assert flatten({"head": {"epochs": 4, "own": {"x": 1.5}}, "seed": 0}) == {
        "head.epochs": "4", "head.own.x": "1.5", "seed": "0",
    }  # fmt: skip


def test_a_card_is_described(trained: Trained) -> None:
    card = trained.training.bundle.card
    text = describe(card, "abc")
    assert card.intended_use in text
    assert "| accuracy | " in text
    assert "Bundle: abc" in text


@needs_mlflow
@needs_tensorboard
def test_the_command_line_tells_both(
    trained: Trained, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{folder / 'runs.db'}"
    monkeypatch.setattr(
        sys,
        "argv",
        ["rentgen", "evaluate", str(trained.bundle), str(trained.data), "--part", "test", "--resamples", "20",
         "--mlflow", uri, "--tensorboard", str(folder / "board"), "--report", str(folder / "report"), "--json", "-"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    # What MLflow would print is kept from standard output.
    assert json.loads(capsys.readouterr().out)["n"]
    (written,) = (folder / "board").iterdir()
    read = read_events(written)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        (run,) = client.search_runs([client.get_experiment_by_name("rentgen").experiment_id])
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert run.data.tags["rentgen.task"] == "evaluate"
    assert run.data.metrics["test/accuracy"] == pytest.approx(read.Scalars("test/accuracy")[0].value, abs=1e-6)
    assert run.data.metrics["test/accuracy_low"] <= run.data.metrics["test/accuracy_high"]
    assert {"report.html", "report.md", "report.json"} <= files
    assert any(tag.startswith("examples/") for tag in read.Tags()["images"])


@needs_mlflow
@needs_tensorboard
def test_training_tells_both(trained: Trained, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{folder / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    from rentgen.learn.recipe import text

    toml = text("paper")
    for old, new in (("height = 224", "height = 96"), ("width = 224", "width = 96"), ('"auto"', '"test_resnet"')):
        toml = toml.replace(old, new, 1)
    (folder / "mine.toml").write_text(toml, encoding="utf-8")
    monkeypatch.setattr(
        sys,
        "argv",
        ["rentgen", "train", str(trained.data), "--out", "mine.rentgen", "--recipe", "mine.toml", "--weights", "random",
         "--epochs", "3", "--cache", str(folder / "cache"), "--tensorboard", "board"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    (written,) = (folder / "board").iterdir()
    curve = read_events(written).Scalars("loss/validation")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        (run,) = client.search_runs([client.get_experiment_by_name("rentgen").experiment_id])
        history = client.get_metric_history(run.info.run_id, "validation/loss_per_epoch")
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert [point.value for point in history] == pytest.approx([point.value for point in curve], abs=1e-6)
    assert len(history) == 3
    assert run.data.params["head.epochs"] == "3"
    assert "test/auroc_low" in run.data.metrics
    assert {"mine.rentgen", "report.html"} <= files
