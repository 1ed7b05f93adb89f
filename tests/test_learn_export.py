from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from made import film8

from rentgen.engine.session import Session
from rentgen.learn.backbones import Backbone, Layout, load
from rentgen.learn.export import (
    OPSET,
    OUTPUTS,
    TorchClassifier,
    explain,
    export_backbone,
    export_members,
    halve,
    join_heads,
)
from rentgen.learn.head import Head
from rentgen.records import EngineName, Float32, UInt8

SIZE = (64, 96)
NETWORKS = {"test_resnet": Layout.NCHW, "test_mambaout": Layout.NHWC, "test_vit": Layout.NLC}
CLASSES, HIDDEN = 3, 20
ENGINES = list(EngineName)


@dataclass(frozen=True)
class Exported:
    """A network, and what became of it."""

    backbone: Backbone
    head: Head
    graph: bytes
    model: bytes

    def classify(self, images: UInt8) -> tuple[torch.Tensor, torch.Tensor]:
        """Return torch's logits and feature map; gradients reach the map."""
        with torch.no_grad():
            feature_map = self.backbone(torch.from_numpy(images))
        feature_map.requires_grad_()
        network = TorchClassifier(self.backbone, self.head)
        return network.classifier(network.hidden(feature_map.mean((2, 3))).relu()), feature_map


def make_head(features: int) -> Head:
    """Return a head with weights of about the size that training gives."""
    rng = np.random.default_rng(1)
    shapes = ((HIDDEN, features), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,))
    return Head(*(rng.normal(0, 0.3, shape).astype(np.float32) for shape in shapes))


def films(count: int) -> UInt8:
    return np.stack([film8(*SIZE, seed=seed) for seed in range(count)])


@cache
def export(name: str) -> Exported:
    """Return one export for all tests of this file: it takes seconds."""
    backbone = load(name, weights="random", size=SIZE)
    head, graph = make_head(backbone.features), export_backbone(backbone, SIZE)
    return Exported(backbone, head, graph, join_heads(graph, [head]))


@pytest.fixture(params=NETWORKS)
def exported(request: pytest.FixtureRequest) -> Exported:
    done = export(request.param)
    assert done.backbone.layout is NETWORKS[request.param]
    return done


def close(ours: Float32, theirs: torch.Tensor) -> None:
    """Check to 1e-4 of the largest value, or of 1."""
    expected = theirs.detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_graph_answers_as_torch_does(exported: Exported, engine: EngineName, batch_size: int) -> None:
    session = Session(exported.model, engine=engine, batch_size=batch_size, streams=1)
    images = films(5)
    ours = session.run(images)
    with torch.inference_mode():
        logits, feature_map = TorchClassifier(exported.backbone, exported.head)(torch.from_numpy(images))
    assert set(ours) == set(OUTPUTS)
    close(ours["logits"], logits)
    close(ours["embedding"], feature_map.mean((2, 3)))


@pytest.mark.parametrize("engine", ENGINES)
def test_maps_are_grad_cam_by_autograd(exported: Exported, engine: EngineName) -> None:
    images = films(3)
    ours = Session(exported.model, engine=engine, batch_size=3, streams=1).run(images)["activation_maps"]
    logits, feature_map = exported.classify(images)
    theirs = []
    for number in range(CLASSES):
        (gradient,) = torch.autograd.grad(logits[:, number].sum(), feature_map, retain_graph=True)
        weights = gradient.mean((2, 3), keepdim=True)  # Selvaraju et al. 2017, equation 1
        theirs.append((weights * feature_map).sum(1).relu().detach())  # and equation 2
    assert ours.shape == (3, CLASSES, *exported.backbone.grid)
    assert (ours >= 0).all()
    assert (ours > 0).any()
    expected = torch.stack(theirs, 1).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * float(expected.max()))


def test_the_head_in_numpy_agrees(exported: Exported) -> None:
    answers = Session(exported.model, streams=1).run(films(2))
    np.testing.assert_allclose(exported.head.logits(answers["embedding"]), answers["logits"], atol=1e-4)


def test_the_backbone_alone_gives_the_same_embedding(exported: Exported) -> None:
    alone = Session(exported.graph, streams=1).run(films(2))
    whole = Session(exported.model, streams=1).run(films(2), ("embedding",))
    assert set(alone) == {"embedding_0", "feature_map_0"}
    np.testing.assert_allclose(alone["embedding_0"], whole["embedding"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(alone["feature_map_0"].mean((2, 3)), whole["embedding"], rtol=1e-4, atol=1e-5)


def signature(values: Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[int, list[str | int]]]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def test_the_graph_is_valid_and_as_documented(exported: Exported) -> None:
    model = onnx.load_model_from_string(exported.model)
    onnx.checker.check_model(model, full_check=True)
    assert {item.domain: item.version for item in model.opset_import} == {"": OPSET}
    grid, features = exported.backbone.grid, exported.backbone.features
    assert signature(model.graph.input) == {"image": (onnx.TensorProto.UINT8, ["batch", *SIZE])}
    assert signature(model.graph.output) == {
        "logits": (onnx.TensorProto.FLOAT, ["batch", CLASSES]),
        "embedding": (onnx.TensorProto.FLOAT, ["batch", features]),
        "activation_maps": (onnx.TensorProto.FLOAT, ["batch", CLASSES, *grid]),
    }
    backbone = onnx.load_model_from_string(exported.graph)
    assert signature(backbone.graph.output) == {
        "embedding_0": (onnx.TensorProto.FLOAT, ["batch", features]),
        "feature_map_0": (onnx.TensorProto.FLOAT, ["batch", features, *grid]),
    }


def texts(message: onnx.ModelProto) -> Iterator[str]:
    """Yield every text in a protocol buffer: names, notes, attributes; weights are none."""
    for field, value in message.ListFields():
        for item in value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else (value,):
            if isinstance(item, str):
                yield item
            elif isinstance(item, bytes):
                if field.name != "raw_data":
                    yield item.decode("latin-1")
            elif hasattr(item, "ListFields"):
                yield from texts(item)


def test_the_graph_tells_nothing_of_the_machine_it_was_made_on(exported: Exported) -> None:
    model = onnx.load_model_from_string(exported.model)
    assert not model.metadata_props
    assert not model.graph.metadata_props
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    said = list(texts(model))
    assert "image" in said
    here = (str(Path.cwd()), str(Path.home()), sys.prefix, "site-packages", ".py", "Traceback", "torch/")
    assert not [text for text in said if any(part in text for part in here)]
    # torch names a value `view/shape`; a path begins with a slash, or goes through several.
    assert not [text for text in said if text.startswith("/") or text.count("/") > 1]


def test_a_head_that_says_nothing_gives_black_maps(exported: Exported) -> None:
    dead = make_head(exported.backbone.features)
    dead.hidden_bias[:] = -1e6  # no unit is ever active
    answers = Session(join_heads(exported.graph, [dead]), streams=1).run(films(1))
    assert not answers["activation_maps"].any()
    np.testing.assert_array_equal(answers["logits"][0], dead.class_bias)


class Mean(torch.nn.Module):
    """A distance that anybody can check."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.float().mean((1, 2))


@cache
def pair() -> tuple[tuple[Backbone, Backbone], tuple[Head, Head], bytes]:
    """Return two members that share their first stages, their heads, and the graph of both."""
    first = load("test_efficientnet", weights="random", size=SIZE, normalise="film")
    network = copy.deepcopy(first.network)
    for name, parameter in network.named_parameters():
        if name.startswith(("blocks.3", "blocks.2", "conv_head")):
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    second = first.with_network(network)
    one, other = make_head(first.features), make_head(first.features)
    other.class_weight[:] = other.class_weight[::-1]
    graph = export_members([first, second], SIZE, Mean())
    return (first, second), (one, other), join_heads(graph, [one, other])


@pytest.mark.parametrize("engine", ENGINES)
def test_members_answer_together_as_in_torch(engine: EngineName) -> None:
    backbones, heads, model = pair()
    images = films(3)
    ours = Session(model, engine=engine, batch_size=3, streams=1).run(images)
    members = [TorchClassifier(backbone, head) for backbone, head in zip(backbones, heads, strict=True)]
    with torch.inference_mode():
        logits = torch.stack([member(torch.from_numpy(images))[0] for member in members]).mean(0)
    close(ours["logits"], logits)
    close(ours["distance"], torch.from_numpy(images).float().mean((1, 2)))
    theirs = explain(members, torch.from_numpy(images))
    close(ours["embedding"], theirs["embedding"])
    maps = theirs["activation_maps"].numpy()
    known = ~np.isnan(maps)
    assert known.any()
    np.testing.assert_allclose(ours["activation_maps"][known], maps[known], atol=1e-4 * max(1, maps[known].max()))


def test_what_members_share_stands_in_the_graph_once() -> None:
    backbones, _, model = pair()
    alone = onnx.load_model_from_string(export_backbone(backbones[0], SIZE))
    both = onnx.load_model_from_string(model)
    kernels = [sum(node.op_type == "Conv" for node in graph.graph.node) for graph in (alone, both)]
    changed = sum(
        not torch.equal(a, b)
        for (name, a), (_, b) in zip(
            backbones[0].network.named_parameters(), backbones[1].network.named_parameters(), strict=True
        )
        if a.ndim == 4
    )
    assert 0 < changed < kernels[0]
    # From the first changed kernel on, each member has its own.
    assert kernels[0] + changed <= kernels[1] < 2 * kernels[0]


def test_halved_weights_halve_the_file_and_hardly_move_the_answer() -> None:
    _, _, model = pair()
    smaller = halve(model)
    assert len(smaller) < 0.65 * len(model)
    images = films(2)
    one, other = (Session(graph, streams=1).run(images) for graph in (model, smaller))
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=0, atol=5e-3 * max(1.0, float(np.abs(values).max())))
