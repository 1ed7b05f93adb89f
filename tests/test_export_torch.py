"""The torch program: every operator that our networks are made of, and the bundle's answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Trained
from made import film8
from onnx import TensorProto, helper

from rentgen.bundle import Bundle
from rentgen.engine.session import Session
from rentgen.errors import BundleError
from rentgen.export.program import Network, write_torch
from rentgen.learn.backbones import load
from rentgen.learn.export import export_backbone, halve
from rentgen.records import UInt8

SIZE = (64, 96)


def films(count: int) -> UInt8:
    return np.stack([film8(*SIZE, seed=seed) for seed in range(count)])


@pytest.mark.parametrize("name", ["test_resnet", "test_mambaout", "test_vit", "test_efficientnet"])
def test_networks_answer_in_torch_as_in_the_engine(name: str) -> None:
    graph = halve(export_backbone(load(name, weights="random", size=SIZE), SIZE))
    network = Network(graph).eval()
    images = films(3)
    wanted = Session(graph, streams=1).run(images)
    with torch.no_grad():
        came = network(torch.from_numpy(images))
    assert set(came) == set(wanted)
    for output, values in wanted.items():
        np.testing.assert_allclose(came[output].numpy(), values, atol=2e-5 * max(1.0, float(np.abs(values).max())))


def test_the_saved_program_gives_the_bundles_answers(trained: Trained, tmp_path: Path) -> None:
    bundle = trained.training.bundle
    path, described = write_torch(bundle, tmp_path)
    assert (path.name, described.name) == ("small.pt2", "small.pt2.json")
    program = torch.export.load(path).module()
    # A batch size that it was not made with.
    images = np.concatenate([bundle.golden.prepared] * 2)[:7]
    with torch.no_grad():
        answers = program(torch.from_numpy(images))
    np.testing.assert_allclose(answers["logits"][:4].numpy(), bundle.golden.logits, atol=1e-4)
    np.testing.assert_allclose(answers["activation_maps"][:4].numpy(), bundle.golden.activation_maps, atol=1e-3)
    assert answers["probabilities"].sum(1).numpy() == pytest.approx(np.ones(7), abs=1e-5)


def test_a_program_that_deviates_is_not_kept(trained: Trained, tmp_path: Path) -> None:
    bundle = trained.training.bundle
    golden = replace(bundle.golden, embedding=bundle.golden.embedding * np.float32(1.1))
    with pytest.raises(BundleError, match=r"torch program differs .* in embedding"):
        write_torch(replace(bundle, golden=golden), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_operator_without_translation_is_named(trained: Trained, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(trained.training.bundle.model)
    model.graph.node.append(helper.make_node("NonZero", ["image"], ["odd"]))
    model.graph.output.append(helper.make_tensor_value_info("odd", TensorProto.INT64, ["axes", "found"]))
    strange: Bundle = replace(trained.training.bundle, model=model.SerializeToString())
    with pytest.raises(BundleError, match="it has NonZero, which has no translation"):
        write_torch(strange, tmp_path)
