"""Weights lose their order and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import Trained
from onnx import TensorProto, helper, numpy_helper

from rentgen.bundle import read
from rentgen.engine.predictor import Predictor
from rentgen.engine.session import Session
from rentgen.errors import BundleError
from rentgen.evaluate.explain import graph_maps
from rentgen.learn.randomise import SMALL, randomise


def weights_of(model: bytes) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in onnx.load_model_from_string(model).graph.initializer}


def made(kind: int) -> bytes:
    values = {
        "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
        "long": np.arange(SMALL + 1, dtype=np.float32),
        "short": np.arange(SMALL, dtype=np.float32),
    }
    tensors = [helper.make_tensor(name, kind, value.shape, value.ravel().tolist()) for name, value in values.items()]
    tensors.append(numpy_helper.from_array(np.arange(100, dtype=np.int64).reshape(10, 10), "shape"))
    graph = helper.make_graph([], "g", [], [], tensors)
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_large_tensors_are_shuffled_small_ones_and_shapes_are_not(kind: int) -> None:
    model = made(kind)
    before, after = weights_of(model), weights_of(randomise(model, np.random.default_rng(0)))
    assert list(before) == list(after)
    for name, values in before.items():
        assert after[name].dtype == values.dtype
        assert after[name].shape == values.shape
        first, second = values.astype(np.float64).ravel(), after[name].astype(np.float64).ravel()
        assert (np.sort(first) == np.sort(second)).all()
        assert (first == second).all() == (name in ("short", "shape"))


def test_the_same_seed_gives_the_same_graph() -> None:
    model = made(TensorProto.FLOAT)
    assert randomise(model, np.random.default_rng(3)) == randomise(model, np.random.default_rng(3))
    assert randomise(model, np.random.default_rng(3)) != randomise(model, np.random.default_rng(4))


def test_a_trained_graph_still_runs_and_answers_otherwise(trained: Trained) -> None:
    bundle = read(trained.bundle)
    other = randomise(bundle.model, np.random.default_rng(0))
    films = bundle.golden.prepared
    answers = Session(other).run(films)
    assert answers["logits"].shape == bundle.golden.logits.shape
    assert np.isfinite(answers["activation_maps"]).all()
    assert np.abs(answers["activation_maps"] - bundle.golden.activation_maps).max() > 0
    maps = graph_maps(other, Predictor(bundle))(films)
    assert maps.shape == bundle.golden.activation_maps.shape


def test_what_has_no_weights_is_refused() -> None:
    empty = helper.make_model(helper.make_graph([], "g", [], []))
    with pytest.raises(BundleError, match="none to shuffle"):
        randomise(empty.SerializeToString(), np.random.default_rng(0))
    with pytest.raises(BundleError, match="not ONNX"):
        randomise(b"\xff\xff\xff\xff", np.random.default_rng(0))
