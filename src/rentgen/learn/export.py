"""From torch to one ONNX graph: uint8 film in; logits, embedding and activation maps out.

The backbone is exported once by torch; the head, which is a dozen nodes, is joined to it by hand. The maps are Grad-CAM
(Selvaraju et al. 2017) in closed form: with mean pooling `g = mean(A)` and a ReLU head `z = W2 relu(W1 g + b1) + b2`,
`dz_k/dg = W2[k] diag(h > 0) W1`, and the gradient at each of the P places of `A` is that over P.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rentgen.learn.backbones import Backbone
from rentgen.learn.head import Head
from rentgen.learn.networks import Pooling

OUTPUTS = ("logits", "embedding", "activation_maps")
OPSET = 20
"""Of ONNX; pinned, so that what torch prefers does not decide who can read a bundle."""
HALVED_SIZE = 256
"""Weights of so many values or more are worth storing in half precision."""


class _Features(nn.Module):
    """All that is computed from the film: pooled features and map of each member, and the distance, if asked for."""

    def __init__(self, members: Sequence[Backbone], domain: nn.Module | None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.domain = domain

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for member in self.members:
            assert isinstance(member, Backbone)  # noqa: S101
            outputs += member.embed(image)
        return (*outputs, *(() if self.domain is None else (self.domain(image),)))


def export_backbone(backbone: Backbone, size: tuple[int, int]) -> bytes:
    """Return ONNX: `image` uint8 (N, height, width) to `embedding_0` (N, C) and `feature_map_0` (N, C, h, w)."""
    return export_members([backbone], size)


def export_members(members: Sequence[Backbone], size: tuple[int, int], domain: nn.Module | None = None) -> bytes:
    """Return ONNX: `image` to `embedding_<k>` and `feature_map_<k>` of each member, and `distance` (N,).

    What several members share, such as frozen stages, stands in the graph once.

    Args:
        members: in evaluation mode.
        size: height and width of the input, pixels.
        domain: from uint8 films (N, H, W) to distances (N,); None for no such output.
    """
    sample = torch.zeros(2, *size, dtype=torch.uint8)
    names = [f"{name}_{number}" for number in range(len(members)) for name in ("embedding", "feature_map")]
    with _quiet():
        program = torch.onnx.export(
            _Features(members, domain).eval(),
            (sample,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[*names, *(() if domain is None else ("distance",))],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing.")
    model = _strip(program.model_proto)
    merge_repeats(model)
    graph: bytes = model.SerializeToString()
    return graph


def join_heads(features: bytes, heads: Sequence[Head]) -> bytes:
    """Return the whole classifier as ONNX: `image` to `logits`, `embedding`, `activation_maps`; `distance` is kept.

    Logits are the mean of the members', embeddings stand side by side, and the maps are those of the mean logits.

    Args:
        features: what `export_members` wrote.
        heads: one for each member, trained on its embeddings.
    """
    model = onnx.load_model_from_string(features)
    graph = model.graph
    outputs = {output.name: output for output in graph.output}
    shape = outputs["feature_map_0"].type.tensor_type.shape.dim
    rows, columns = (shape[axis].dim_value for axis in (2, 3))
    classes = len(heads[0].class_bias)
    width = sum(
        outputs[f"feature_map_{number}"].type.tensor_type.shape.dim[1].dim_value for number in range(len(heads))
    )
    constants: dict[str, object] = {
        "head.zero": np.float32(0),
        "head.axis": np.array([1], np.int64),
        "head.members": np.float32(len(heads)),
        "head.places": np.float32(rows * columns * len(heads)),
        "head.grid": np.array([0, classes, rows, columns], np.int64),
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = []
    for number, head in enumerate(heads):
        own, channels = f"head.{number}", head.hidden_weight.shape[1]
        constants |= {
            f"{own}.w1": head.hidden_weight,
            f"{own}.b1": head.hidden_bias,
            f"{own}.w2": head.class_weight,
            f"{own}.b2": head.class_bias,
            f"{own}.w2_row": head.class_weight[None],  # (1, classes, hidden)
            f"{own}.flat": np.array([0, channels, rows * columns], np.int64),
        }
        steps += [
            ("Gemm", [f"embedding_{number}", f"{own}.w1", f"{own}.b1"], f"{own}.pre", {"transB": 1}),
            ("Relu", [f"{own}.pre"], f"{own}.hidden", {}),
            ("Gemm", [f"{own}.hidden", f"{own}.w2", f"{own}.b2"], f"{own}.logits", {"transB": 1}),
            ("Greater", [f"{own}.pre", "head.zero"], f"{own}.active", {}),
            ("Cast", [f"{own}.active"], f"{own}.gate", {"to": TensorProto.FLOAT}),
            ("Unsqueeze", [f"{own}.gate", "head.axis"], f"{own}.gate_row", {}),
            ("Mul", [f"{own}.gate_row", f"{own}.w2_row"], f"{own}.gated", {}),  # (N, classes, hidden)
            ("MatMul", [f"{own}.gated", f"{own}.w1"], f"{own}.gradient", {}),  # (N, classes, C)
            ("Reshape", [f"feature_map_{number}", f"{own}.flat"], f"{own}.map", {}),  # (N, C, places)
            ("MatMul", [f"{own}.gradient", f"{own}.map"], f"{own}.sum", {}),  # (N, classes, places)
        ]

    def each(name: str) -> list[str]:
        return [f"head.{number}.{name}" for number in range(len(heads))]

    steps += [
        ("Sum", each("logits"), "head.logits", {}),
        ("Div", ["head.logits", "head.members"], "logits", {}),
        ("Concat", [f"embedding_{number}" for number in range(len(heads))], "embedding", {"axis": 1}),
        ("Sum", each("sum"), "head.sum", {}),
        ("Relu", ["head.sum"], "head.positive", {}),
        ("Div", ["head.positive", "head.places"], "head.mean", {}),
        ("Reshape", ["head.mean", "head.grid"], "activation_maps", {}),
    ]
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    graph.node.extend(
        helper.make_node(kind, inputs, [output], name=f"make.{output}", **attributes)
        for kind, inputs, output, attributes in steps
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width]),
            helper.make_tensor_value_info("activation_maps", TensorProto.FLOAT, ["batch", classes, rows, columns]),
            *([outputs["distance"]] if "distance" in outputs else []),
        ]
    )
    onnx.checker.check_model(model)
    joined: bytes = model.SerializeToString()
    return joined


def halve(model: bytes) -> bytes:
    """Return a graph whose large weights are stored in half precision and turned back into f32 when it is loaded.

    The arithmetic stays what it was; a weight moves by at most one part in 2,048. Weights that half precision cannot
    hold (beyond 65,504) stay as they are.
    """
    proto = onnx.load_model_from_string(model)
    casts = []
    for initializer in proto.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or math.prod(initializer.dims) < HALVED_SIZE:
            continue
        values = numpy_helper.to_array(initializer)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if not np.isfinite(halved).all():
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(halved, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"cast.{name}", to=TensorProto.FLOAT))
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(proto)
    smaller: bytes = proto.SerializeToString()
    return smaller


class TorchClassifier(nn.Module):
    """The same classifier in torch, to check the graph against.

    Attributes:
        backbone: frozen.
        hidden: the dense layer.
        classifier: the last layer.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        classes, hidden = head.class_weight.shape
        self.hidden = nn.Linear(backbone.features, hidden)
        self.classifier = nn.Linear(hidden, classes)
        state = {
            "hidden.weight": head.hidden_weight,
            "hidden.bias": head.hidden_bias,
            "classifier.weight": head.class_weight,
            "classifier.bias": head.class_bias,
        }
        own = {name: value for name, value in self.state_dict().items() if name.startswith("backbone.")}
        self.load_state_dict(own | {name: torch.from_numpy(value) for name, value in state.items()}, strict=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and the feature map (N, C, h, w) of uint8 images (N, H, W)."""
        features, feature_map = self.backbone.embed(image)
        return self.classifier(self.hidden(features).relu()), feature_map


def explain(members: Sequence[TorchClassifier], image: Tensor) -> dict[str, Tensor]:
    """Return what the graph returns for uint8 images (N, H, W), with the maps by autograd: an answer to check it by.

    The maps of a film are nan where a hidden unit stands so near to zero that rounding decides whether it counts.
    """
    leaves, maps, embeddings, before = [], [], [], []
    logits = torch.zeros(())
    for member in members:
        with torch.no_grad():
            features, feature_map = member.backbone.embed(image)
        maps.append(feature_map)
        if member.backbone.pooling is Pooling.TOKEN:
            leaves.append(features.requires_grad_(True))
            embeddings.append(features)
        else:
            leaves.append(feature_map.requires_grad_(True))
            embeddings.append(feature_map.mean((2, 3)))
        before.append(member.hidden(embeddings[-1]))
        logits = logits.to(image.device) + member.classifier(before[-1].relu()) / len(members)
    found = []
    for number in range(logits.shape[1]):
        gradients = torch.autograd.grad(logits[:, number].sum(), leaves, retain_graph=True)
        weighted = [
            (_at_each_place(gradient, feature_map) * feature_map).sum(1)
            for gradient, feature_map in zip(gradients, maps, strict=True)
        ]
        found.append(torch.stack(weighted).sum(0).relu())  # (N, h, w)
    size = torch.cat(before, 1).detach().abs()
    doubtful = size.amin(1) < 1e-4 * size.amax(1).clamp(min=1)
    stacked = torch.stack(found, 1).masked_fill(doubtful.view(-1, 1, 1, 1), float("nan"))  # (N, classes, h, w)
    values = {"logits": logits, "embedding": torch.cat(embeddings, 1), "activation_maps": stacked}
    return {name: tensor.detach() for name, tensor in values.items()}


def _at_each_place(gradient: Tensor, feature_map: Tensor) -> Tensor:
    """Return (N, C, 1, 1) of a gradient with respect to a map, or to features that stand for its mean."""
    if gradient.ndim == feature_map.ndim:
        return gradient.mean((2, 3), keepdim=True)
    return gradient[:, :, None, None] / (feature_map.shape[2] * feature_map.shape[3])


def merge_repeats(model: onnx.ModelProto) -> None:
    """Make what is computed twice from the same things stand once: equal constants, then equal nodes, from the top."""
    graph = model.graph
    instead: dict[str, str] = {}
    kept: dict[object, str] = {}
    constants = list(graph.initializer)
    del graph.initializer[:]
    for constant in constants:
        key = (constant.data_type, tuple(constant.dims), numpy_helper.to_array(constant).tobytes())
        first = kept.setdefault(key, constant.name)
        if first == constant.name:
            graph.initializer.append(constant)
        else:
            instead[constant.name] = first
    shown = {output.name for output in graph.output}
    seen: dict[object, list[str]] = {}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        node.input[:] = [instead.get(name, name) for name in node.input]
        attributes = tuple(item.SerializeToString(deterministic=True) for item in node.attribute)
        same = (node.domain, node.op_type, tuple(node.input), attributes, len(node.output))
        earlier = seen.get(same)
        if earlier is not None and not shown & set(node.output):
            instead |= dict(zip(node.output, earlier, strict=True))
            continue
        seen.setdefault(same, list(node.output))
        graph.node.append(node)
    alive = {name for node in graph.node for name in (*node.input, *node.output)}
    values = [value for value in graph.value_info if value.name in alive]
    del graph.value_info[:]
    graph.value_info.extend(values)


def _strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what torch notes about its own source files; it is of no use and names paths of this machine."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from talking on standard output and in the log while it works."""
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        chatter.setLevel(level)
