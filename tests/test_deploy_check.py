"""The contracts' check: it passes our server, and it fails one that keeps none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from linear import fitted_model, normal_films, predictor_of, with_spot

from rentgen import bundle as bundles
from rentgen.cli.deploy import deploy_app
from rentgen.deploy import check as checks
from rentgen.deploy import launch, probes, trials
from rentgen.deploy.check import Result, check, passed
from rentgen.deploy.environment import Platform
from rentgen.errors import BundleError, RentgenError, SettingError

BROKEN = (sys.executable, str(Path(__file__).with_name("broken_server.py")))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the smallest bundle that answers."""
    films = normal_films(12)
    labels = np.arange(12) % 2
    model = predictor_of(fitted_model(with_spot(films, labels, 40, 40), labels))
    path = tmp_path_factory.mktemp("tiny") / "tiny.rentgen"
    bundles.write(path, model.bundle)
    return path


def test_our_server_keeps_a_contract(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Other tests run beside this one, so its clock says little; the command is for measuring.
    monkeypatch.setattr(checks, "BIND_S", 30.0)
    told = tmp_path / "found.json"
    arguments = ["check", "sagemaker", "--bundle", str(tiny), "--no-training", "--json", str(told)]
    deploy_app(arguments, standalone_mode=False)
    found = json.loads(told.read_text())
    assert found["passed"] is True
    assert {item["check"] for item in found["results"]} >= {"port is bound", "SIGTERM", "/execution-parameters"}
    assert "passes" in capsys.readouterr().out


def test_a_server_that_keeps_none_breaches_nearly_all(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probes, "DRAIN_S", -14.0)
    monkeypatch.setattr(launch, "KILL_S", 0.5)
    monkeypatch.setattr(checks, "EXIT_S", 2.0)
    monkeypatch.setattr(trials, "can_train", lambda: True)
    found = {
        item.check: item.passed for item in check("sagemaker", bundle=tiny, command=BROKEN, progress=lambda *_: None)
    }
    fine = {name for name, verdict in found.items() if verdict}
    assert fine == {"directory search", "runs as", "alive"}
    arguments = ["check", "sagemaker", "--entry", " ".join(BROKEN), "--no-training"]
    assert deploy_app(arguments, standalone_mode=False) == 1
    assert "breach" in capsys.readouterr().out


def test_a_container_that_does_not_start_is_a_breach(tiny: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit(1)")
    found = {item.check: item for item in check("azure", bundle=tiny, command=command, training=False)}
    assert found["port is bound"].measured == "never"
    assert not passed(list(found.values()))


def test_what_could_not_be_looked_at_is_no_breach() -> None:
    unseen = Result(Platform.AZURE, "training", "", "not looked at", None)
    assert passed([unseen])
    assert unseen.to_dict()["platform"] == "azure"
    with pytest.raises(RentgenError, match="Nothing was checked"):
        passed([])


def test_training_is_not_looked_at_without_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trials, "can_train", lambda: False)
    for look in (trials.trains, trials.poisoned, trials.resumes):
        assert look(launch.Entry(), Platform.AZURE, tmp_path).passed is None


def test_an_unknown_cloud_or_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Expected vertex, sagemaker, azure or all"):
        list(check("heroku"))
    with pytest.raises(BundleError, match="There is no file"):
        list(check("all", bundle=tmp_path / "none.rentgen"))
