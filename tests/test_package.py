from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import rentgen

HEAVY = {"torch", "timm", "torchvision", "openvino", "matplotlib", "pydicom", "onnxruntime", "onnx"}
ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def imported(module: str) -> set[str]:
    """Return the heavy packages that importing a module brings."""
    names = json.loads(run(f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"))
    return HEAVY & {name.partition(".")[0] for name in names}


def test_import_brings_nothing_heavy() -> None:
    assert imported("rentgen") == set()


@pytest.mark.parametrize(
    "module",
    ["rentgen.engine.predictor", "rentgen.images.read", "rentgen.bundle", "rentgen.cli", "rentgen.evaluate.judge"],
)
def test_the_serving_half_brings_no_torch(module: str) -> None:
    assert not imported(module) & {"torch", "timm", "torchvision", "onnx"}


def test_the_command_line_starts_light() -> None:
    assert imported("rentgen.cli") == set()


def test_import_takes_less_than_0_3_s() -> None:
    code = "import time; start = time.perf_counter(); import rentgen; print(time.perf_counter() - start)"
    assert min(float(run(code)) for _ in range(5)) < 0.3


def test_import_prints_and_changes_nothing() -> None:
    code = """
import logging, random, warnings
def state():
    levels = {name: logging.getLogger(name).level for name in ("", "rentgen", "PIL", "pydicom")}
    return list(warnings.filters), levels, logging.getLogger().handlers[:], random.getstate()
before = state()
import rentgen
assert state() == before
"""
    assert run(code) == ""


def test_reading_a_film_leaves_numpys_seed_alone() -> None:
    code = """
import numpy, warnings
before, filters = repr(numpy.random.get_state()), list(warnings.filters)
import rentgen
rentgen.prepare(rentgen.Radiograph(numpy.zeros((40, 40), numpy.uint8), "", "png", 8), rentgen.Preprocessing(32, 32))
assert repr(numpy.random.get_state()) == before
assert warnings.filters == filters
"""
    assert run(code) == ""


def test_the_public_list_is_sorted_and_true() -> None:
    assert rentgen.__all__ == sorted(rentgen.__all__)
    assert set(rentgen.__all__) == set(rentgen._HOMES)
    for name in rentgen.__all__:
        public = getattr(rentgen, name)
        home, own_name = rentgen._HOMES[name]
        assert public is getattr(import_module(home), own_name)
        assert public.__doc__
    assert set(rentgen.__all__) <= set(dir(rentgen))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rentgen' has no attribute 'Diagnosis'"):
        rentgen.Diagnosis  # noqa: B018


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == rentgen.__version__
    done = subprocess.run(
        [sys.executable, "-m", "rentgen", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"rentgen {rentgen.__version__}\n"
