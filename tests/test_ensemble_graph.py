"""The joined graph against NumPy, torch's autograd and finite differences of its own logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from linear import GRID, SIDE, normal_films, weighing_model
from made import film8
from onnx import TensorProto, helper
from torch.nn import functional

from rentgen.engine.predictor import sigmoid, softmax
from rentgen.engine.session import Session
from rentgen.errors import BundleError
from rentgen.learn.backbones import load
from rentgen.learn.ensemble.graph import Voice, join
from rentgen.learn.export import TorchClassifier, export_backbone, join_heads
from rentgen.learn.head import Head
from rentgen.records import EngineName, Float32, Float64, Task, UInt8

K = 3
MEAN = 0.4
ORDERS = ((0, 1, 2), (2, 0, 1))
SCALES = ((1.0, 0.5, 2.0), (1.3, 0.7, 0.9))
BIASES = ((0.0, 0.2, -0.1), (0.3, 0.0, -0.4))
WEIGHTS = (0.7, 0.3)


@pytest.fixture(scope="module")
def films() -> UInt8:
    return normal_films(3)


@pytest.fixture(scope="module")
def weighed() -> Float64:
    """Return the weights (members, classes, GRID, GRID) of two linear models."""
    return np.random.default_rng(0).normal(size=(2, K, GRID, GRID)) * 0.5


def voices(weighed: Float64) -> list[Voice]:
    return [
        Voice(
            f"m{number}.rentgen",
            weighing_model(weights, np.full((GRID, GRID), MEAN)),
            ORDERS[number],
            SCALES[number],
            BIASES[number],
            WEIGHTS[number],
        )
        for number, weights in enumerate(weighed)
    ]


def run(model: bytes, films: UInt8, engine: EngineName = EngineName.OPENVINO) -> dict[str, Float32]:
    return Session(model, engine=engine, streams=1).run(films)


def mean(voices: list[Voice], films: UInt8, task: Task) -> Float64:
    """Return the weighted mean of the members' calibrated probabilities, (N, classes)."""
    told = softmax if task is Task.MULTICLASS else sigmoid
    total = np.zeros((len(films), K))
    for voice in voices:
        scores = run(voice.model, films)["logits"] * np.array(voice.scale) + np.array(voice.bias)
        total += voice.weight * told(scores)[:, list(voice.order)]
    return total


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("engine", EngineName)
def test_probabilities_are_the_weighted_mean(weighed: Float64, films: UInt8, engine: EngineName, task: Task) -> None:
    heard = voices(weighed)
    answers = run(join(heard, task), films, engine)
    told = softmax if task is Task.MULTICLASS else sigmoid
    expected = mean(heard, films, task)
    np.testing.assert_allclose(told(answers["logits"]), expected, atol=2e-6)
    if task is Task.MULTICLASS:
        np.testing.assert_allclose(answers["logits"], np.log(expected), atol=1e-5)
    alone = [run(voice.model, films)["embedding"] for voice in heard]
    np.testing.assert_allclose(answers["embedding"], np.concatenate(alone, axis=1), atol=1e-6)


def ensemble_logits(evidence: list[torch.Tensor], task: Task) -> torch.Tensor:
    """Return the ensemble's logits in torch, of the members' logits (N, classes)."""
    told = []
    for number, logits in enumerate(evidence):
        scores = logits * torch.tensor(SCALES[number]) + torch.tensor(BIASES[number])
        p = scores.softmax(1) if task is Task.MULTICLASS else scores.sigmoid()
        told.append(WEIGHTS[number] * p[:, list(ORDERS[number])])
    p = torch.stack(told).sum(0)
    return p.log() if task is Task.MULTICLASS else p.logit()


@pytest.mark.parametrize("task", Task)
def test_maps_are_autograds(weighed: Float64, films: UInt8, task: Task) -> None:
    step = SIDE // GRID
    coarse = films.reshape(len(films), GRID, step, GRID, step).mean(axis=(2, 4)) / 255 - MEAN
    features = [torch.tensor(coarse, requires_grad=True) for _ in weighed]  # the maps that Grad-CAM looks at
    logits = ensemble_logits(
        [
            torch.einsum("nrc,krc->nk", one, torch.tensor(weights))
            for one, weights in zip(features, weighed, strict=True)
        ],
        task,
    )
    answers = run(join(voices(weighed), task), films)
    for label in range(K):
        slopes = torch.autograd.grad(logits[:, label].sum(), features, retain_graph=True)
        shown = sum((slope * one).detach() for slope, one in zip(slopes, features, strict=True))
        assert isinstance(shown, torch.Tensor)
        np.testing.assert_allclose(answers["activation_maps"][:, label], shown.relu().numpy(), atol=2e-5)


@pytest.mark.parametrize("task", Task)
def test_maps_are_finite_differences_of_the_graphs_own_logits(weighed: Float64, films: UInt8, task: Task) -> None:
    """A block of pixels that gets brighter moves the logits as the map there says."""
    model, step = join(voices(weighed), task), SIDE // GRID
    film = np.clip(films[0], 8, 247)
    (answers,) = (run(model, film[None]),)
    by = 8
    for row, column in ((2, 3), (5, 5), (6, 9), (10, 1)):
        block = np.s_[row * step : (row + 1) * step, column * step : (column + 1) * step]
        lower, higher = film.copy(), film.copy()
        lower[block] -= by
        higher[block] += by
        ends = run(model, np.stack([lower, higher]))["logits"].astype(np.float64)
        slope = (ends[1] - ends[0]) / (2 * by / 255)
        expected = np.maximum(slope * (film[block].mean() / 255 - MEAN), 0)
        np.testing.assert_allclose(answers["activation_maps"][0, :, row, column], expected, rtol=0.02, atol=2e-4)


@pytest.mark.parametrize("task", Task)
def test_members_that_are_quite_sure_leave_nothing_undefined(weighed: Float64, films: UInt8, task: Task) -> None:
    heard = [replace(voice, scale=(4000.0,) * K) for voice in voices(weighed)]
    answers = run(join(heard, task), films)
    assert all(np.isfinite(values).all() for values in answers.values())
    told = softmax if task is Task.MULTICLASS else sigmoid
    np.testing.assert_allclose(told(answers["logits"]), mean(heard, films, task), atol=1e-5)


# Real networks


SIZE = (64, 64)


def make_head(features: int, seed: int) -> Head:
    rng = np.random.default_rng(seed)
    shapes = ((20, features), (20,), (K, 20), (K,))
    return Head(*(rng.normal(0, 0.3, shape).astype(np.float32) for shape in shapes))


@pytest.fixture(scope="module")
def exported() -> dict[str, tuple[bytes, TorchClassifier]]:
    """Return two heads on one network, and one on a network with another grid."""
    found = {}
    for name, seeds in (("test_resnet", (1, 2)), ("test_vit", (3,))):
        backbone = load(name, weights="random", size=SIZE)
        graph = export_backbone(backbone, SIZE)
        for seed in seeds:
            head = make_head(backbone.features, seed)
            found[f"{name}_{seed}"] = join_heads(graph, [head]), TorchClassifier(backbone, head)
    return found


def voice_of(name: str, model: bytes, weight: float) -> Voice:
    return Voice(name, model, tuple(range(K)), (1.0,) * K, (0.0,) * K, weight)


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("pair", [("test_resnet_1", "test_resnet_2"), ("test_resnet_1", "test_vit_3")])
def test_networks_answer_together_as_torch_and_autograd_say(
    exported: dict[str, tuple[bytes, TorchClassifier]], pair: tuple[str, str], task: Task
) -> None:
    images = np.stack([film8(*SIZE, seed=seed) for seed in range(3)])
    answers = run(join([voice_of(name, exported[name][0], 0.5) for name in pair], task), images)
    told, leaves = [], []
    for name in pair:
        network = exported[name][1]
        with torch.no_grad():
            _, feature_map = network.backbone.embed(torch.from_numpy(images))
        leaves.append(feature_map.requires_grad_())
        logits = network.classifier(network.hidden(feature_map.mean((2, 3))).relu())
        told.append(logits.softmax(1) if task is Task.MULTICLASS else logits.sigmoid())
    p = torch.stack(told).mean(0)
    logits = p.log() if task is Task.MULTICLASS else p.logit()
    np.testing.assert_allclose(answers["logits"], logits.detach().numpy(), atol=1e-4)
    finest = max(tuple(leaf.shape[2:]) for leaf in leaves)
    for label in range(K):
        slopes = torch.autograd.grad(logits[:, label].sum(), leaves, retain_graph=True)
        total = torch.zeros(len(images), *finest)
        for slope, leaf in zip(slopes, leaves, strict=True):
            shown = (slope.mean((2, 3), keepdim=True) * leaf).sum(1, keepdim=True).detach()
            # What a map says in all stays the same on a finer grid.
            share = shown[0, 0].numel() / (finest[0] * finest[1])
            total += share * functional.interpolate(shown, finest, mode="bilinear", align_corners=False)[:, 0]
        scale = max(1e-3, float(total.abs().max()))
        difference = np.abs(answers["activation_maps"][:, label] - total.relu().numpy()).max()
        assert difference < 5e-3 * scale


def test_what_members_share_stands_in_the_graph_once(exported: dict[str, tuple[bytes, TorchClassifier]]) -> None:
    first, second = exported["test_resnet_1"][0], exported["test_resnet_2"][0]
    together = join([voice_of("a", first, 0.5), voice_of("b", second, 0.5)], Task.MULTICLASS)
    kinds = [node.op_type for node in onnx.load_model_from_string(together).graph.node]
    alone = [node.op_type for node in onnx.load_model_from_string(first).graph.node]
    assert kinds.count("Conv") == alone.count("Conv") > 0
    assert len(together) < 1.5 * len(first)


# Distance, and graphs that are refused


def with_distance(model: bytes) -> bytes:
    """Return a linear model whose distance is its embedding."""
    proto = onnx.load_model_from_string(model)
    axis = helper.make_node("Squeeze", ["embedding", "axis"], ["distance"])
    proto.graph.node.append(axis)
    proto.graph.output.append(helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["n"]))
    return bytes(proto.SerializeToString())


def test_the_distance_is_the_largest_in_units_of_its_threshold(weighed: Float64, films: UInt8) -> None:
    first, second = voices(weighed)
    bright = weighing_model(weighed[1], np.full((GRID, GRID), 0.1))
    heard = [
        replace(first, model=with_distance(first.model), threshold=0.5),
        replace(second, model=with_distance(bright), threshold=2.0),
    ]
    alone = [run(voice.model, films)["distance"] for voice in heard]
    answers = run(join(heard, Task.MULTICLASS), films)
    np.testing.assert_allclose(answers["distance"], np.maximum(alone[0] / 0.5, alone[1] / 2.0), rtol=1e-5)
    only = run(join([first, heard[1]], Task.MULTICLASS), films)
    np.testing.assert_allclose(only["distance"], alone[1] / 2.0, rtol=1e-5)
    assert "distance" not in run(join([first, second], Task.MULTICLASS), films)
    with pytest.raises(BundleError, match="its card has a domain, but its graph no distance"):
        join([replace(first, threshold=1.0), second], Task.MULTICLASS)


def changed(model: bytes, kind: str, into: str) -> bytes:
    proto = onnx.load_model_from_string(model)
    for node in proto.graph.node:
        if node.op_type == kind:
            node.op_type = into
    return bytes(proto.SerializeToString())


def test_maps_of_another_make_are_refused(weighed: Float64) -> None:
    first, second = voices(weighed)
    strange = replace(second, model=changed(second.model, "Relu", "Abs"))
    with pytest.raises(BundleError, match=r"m1.rentgen: expected heat maps that end in a ReLU"):
        join([first, strange], Task.MULTICLASS)


def test_graphs_of_other_operators_or_classes_are_refused(weighed: Float64) -> None:
    first, second = voices(weighed)
    proto = onnx.load_model_from_string(second.model)
    proto.opset_import[0].version = 18
    with pytest.raises(BundleError, match=r"Expected graphs of one set of operators.* m1.rentgen has"):
        join([first, replace(second, model=proto.SerializeToString())], Task.MULTICLASS)
    with pytest.raises(BundleError, match="expected a graph with logits and maps of 2 classes"):
        join([first, replace(second, order=(0, 1))], Task.MULTICLASS)
