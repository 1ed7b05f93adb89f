"""From torch to one ONNX graph: uint8 film in; logits, embedding and activation maps out.

The backbone is exported once by torch; the head, which is a dozen nodes, is joined to it by hand. The maps are Grad-CAM
(Selvaraju et al. 2017) in closed form: with mean pooling `g = mean(A)` and a ReLU head `z = W2 relu(W1 g + b1) + b2`,
`dz_k/dg = W2[k] diag(h > 0) W1`, and the gradient at each of the P places of `A` is that over P.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rentgen.learn.backbones import Backbone
from rentgen.learn.head import Head

OUTPUTS = ("logits", "embedding", "activation_maps")
OPSET = 20
"""Of ONNX; pinned, so that what torch prefers does not decide who can read a bundle."""


class _Features(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        feature_map = self.backbone(image)
        return feature_map.mean((2, 3)), feature_map


def export_backbone(backbone: Backbone, size: tuple[int, int]) -> bytes:
    """Return ONNX: `image` uint8 (N, height, width) to `embedding` (N, C) and `feature_map` (N, C, h, w).

    Args:
        backbone: in evaluation mode.
        size: height and width of the input, pixels.
    """
    sample = torch.zeros(2, *size, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            _Features(backbone).eval(),
            (sample,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["embedding", "feature_map"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing.")
    graph: bytes = _strip(program.model_proto).SerializeToString()
    return graph


def join_head(backbone: bytes, head: Head) -> bytes:
    """Return the whole classifier as ONNX: `image` to `logits`, `embedding` and `activation_maps`.

    Args:
        backbone: what `export_backbone` wrote.
        head: trained on its embeddings.
    """
    model = onnx.load_model_from_string(backbone)
    graph = model.graph
    features = graph.output[1].type.tensor_type.shape.dim
    channels, rows, columns = (features[axis].dim_value for axis in (1, 2, 3))
    classes = len(head.class_bias)
    constants = {
        "head.w1": head.hidden_weight,
        "head.b1": head.hidden_bias,
        "head.w2": head.class_weight,
        "head.b2": head.class_bias,
        "head.w2_row": head.class_weight[None],  # (1, classes, hidden)
        "head.zero": np.float32(0),
        "head.places": np.float32(rows * columns),
        "head.axis": np.array([1], np.int64),
        "head.flat": np.array([0, channels, rows * columns], np.int64),
        "head.grid": np.array([0, classes, rows, columns], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    graph.node.extend(
        helper.make_node(kind, inputs, [output], name=f"head.{output}", **attributes)
        for kind, inputs, output, attributes in (
            ("Gemm", ["embedding", "head.w1", "head.b1"], "head.pre", {"transB": 1}),
            ("Relu", ["head.pre"], "head.hidden", {}),
            ("Gemm", ["head.hidden", "head.w2", "head.b2"], "logits", {"transB": 1}),
            ("Greater", ["head.pre", "head.zero"], "head.active", {}),
            ("Cast", ["head.active"], "head.gate", {"to": TensorProto.FLOAT}),
            ("Unsqueeze", ["head.gate", "head.axis"], "head.gate_row", {}),
            ("Mul", ["head.gate_row", "head.w2_row"], "head.gated", {}),  # (N, classes, hidden)
            ("MatMul", ["head.gated", "head.w1"], "head.gradient", {}),  # (N, classes, C)
            ("Reshape", ["feature_map", "head.flat"], "head.map", {}),  # (N, C, places)
            ("MatMul", ["head.gradient", "head.map"], "head.sum", {}),  # (N, classes, places)
            ("Relu", ["head.sum"], "head.positive", {}),
            ("Div", ["head.positive", "head.places"], "head.mean", {}),
            ("Reshape", ["head.mean", "head.grid"], "activation_maps", {}),
        )
    )
    embedding = graph.output[0]
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
            embedding,
            helper.make_tensor_value_info("activation_maps", TensorProto.FLOAT, ["batch", classes, rows, columns]),
        ]
    )
    onnx.checker.check_model(model)
    joined: bytes = model.SerializeToString()
    return joined


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
        feature_map = self.backbone(image)
        hidden = self.hidden(feature_map.mean((2, 3))).relu()
        return self.classifier(hidden), feature_map

    def explain(self, image: Tensor) -> dict[str, Tensor]:
        """Return what the graph returns, with the maps by autograd: an answer to check the graph against.

        The maps of a film are nan where a hidden unit stands so near to zero that rounding decides whether it counts.
        """
        with torch.no_grad():
            feature_map = self.backbone(image)
        feature_map.requires_grad_(True)
        embedding = feature_map.mean((2, 3))
        before = self.hidden(embedding)
        logits = self.classifier(before.relu())
        maps = []
        for number in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, number].sum(), feature_map, retain_graph=True)
            maps.append((gradient.mean((2, 3), keepdim=True) * feature_map).sum(1).relu())  # (N, h, w)
        size = before.detach().abs()
        doubtful = size.amin(1) < 1e-4 * size.amax(1).clamp(min=1)
        stacked = torch.stack(maps, 1).masked_fill(doubtful.view(-1, 1, 1, 1), float("nan"))  # (N, classes, h, w)
        found = {"logits": logits, "embedding": embedding, "activation_maps": stacked}
        return {name: tensor.detach() for name, tensor in found.items()}


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
