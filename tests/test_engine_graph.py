from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Trained
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rentgen import bundle as bundles
from rentgen.engine.graph import check_whole
from rentgen.engine.session import Session
from rentgen.errors import BundleError
from rentgen.records import EngineName


def graph(*, inside: bool = False) -> onnx.ModelProto:
    """Return a graph with one weight; `inside` a branch of an If."""
    weight = numpy_helper.from_array(np.ones(4, np.float32), "weight")
    films = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 16, 16])
    found = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [4])
    if inside:
        branch = helper.make_graph(
            [helper.make_node("Identity", ["weight"], ["logits"])], "branch", [], [found], [weight]
        )
        yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
        nodes, weights = [yes, helper.make_node("If", ["yes"], ["logits"], then_branch=branch, else_branch=branch)], []
    else:
        nodes, weights = [helper.make_node("Identity", ["weight"], ["logits"])], [weight]
    return helper.make_model(helper.make_graph(nodes, "graph", [films], [found], weights))


def tensors(model: onnx.ModelProto) -> list[TensorProto]:
    """Return the weight, wherever it lies."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    return [*model.graph.initializer, *(item for attribute in attributes for item in attribute.g.initializer)]


def test_a_bundles_graph_is_whole(trained: Trained) -> None:
    check_whole(bundles.read(trained.bundle).model)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("engine", list(EngineName))
def test_weights_in_another_file_are_refused(inside: bool, engine: EngineName, tmp_path: Path) -> None:
    model = graph(inside=inside)
    check_whole(model.SerializeToString())
    (tmp_path / "outside.bin").write_bytes(np.ones(4, np.float32).tobytes())
    for tensor in tensors(model):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=str(tmp_path / "outside.bin"))
    with pytest.raises(BundleError, match="keeps weights in another file"):
        Session(model.SerializeToString(), engine=engine)


@given(st.binary(max_size=400))
def test_anything_else_is_refused_or_harmless(content: bytes) -> None:
    with suppress(BundleError):
        check_whole(content)
