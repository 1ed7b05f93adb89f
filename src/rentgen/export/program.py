"""The classifier as a torch program (`torch.export`, .pt2): for those whose pipelines end in torch.

A bundle holds an ONNX graph and no torch code. The graph is read node by node into torch's own operators, those that
the networks here are made of; a graph with any other is refused by its name. What comes out is compared with the golden
films, so that the table of operators need not be believed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rentgen.bundle import Bundle
from rentgen.errors import BundleError, MissingExtraError
from rentgen.export.plain import INPUT, check, describe, drafted, file_stem, with_probabilities
from rentgen.records import Float32, UInt8

try:
    import onnx
    import torch
    from onnx import TensorProto, helper, numpy_helper
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "the export to torch") from error

from rentgen.export.operators import OPERATORS, Value


def write_torch(bundle: Bundle, folder: Path) -> tuple[Path, ...]:
    """Write NAME.pt2 and NAME.pt2.json, once the file, loaded again, answers the golden films as the bundle does.

    Raises:
        BundleError: it does not, and nothing is kept; or the graph has an operator that is not translated.
        MissingExtraError: onnx or torch is not installed.
    """
    network = Network(with_probabilities(bundle)).eval()
    fed = bundle.card.preprocessing
    sample = torch.zeros(2, fed.height, fed.width, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=1024)
    with torch.no_grad():
        program = torch.export.export(network, (sample,), dynamic_shapes={INPUT: {0: batch}})
    with drafted(folder, f"{file_stem(bundle)}.pt2") as draft:
        torch.export.save(program, draft)
        loaded = torch.export.load(draft).module()

        def answer(films: UInt8) -> dict[str, Float32]:
            with torch.no_grad():
                return {name: tensor.numpy() for name, tensor in loaded(torch.from_numpy(films)).items()}

        checked = check(bundle, answer, "torch program")
        path = folder / draft.name
    return path, describe(bundle, path, {"torch": checked}, runs=f"torch {torch.__version__.split('+')[0]} or newer")


class Network(nn.Module):
    """An ONNX graph as torch code: from uint8 films (N, H, W) to a dictionary of its outputs."""

    def __init__(self, model: bytes) -> None:
        """Read the graph.

        Raises:
            BundleError: it has an operator that is not translated.
        """
        super().__init__()
        proto = onnx.load_model_from_string(model)
        graph = proto.graph
        unknown = sorted({node.op_type for node in graph.node if node.domain or node.op_type not in OPERATORS})
        if unknown:
            raise BundleError(
                f"The bundle's graph cannot be turned into torch: it has {', '.join(unknown)}, which has no "
                "translation. Export it with --onnx, which has them all."
            )
        self._constants: dict[str, Value] = {}
        halves: dict[str, np.ndarray[Any, Any]] = {}
        for item in graph.initializer:
            if item.data_type == TensorProto.FLOAT16:
                halves[item.name] = numpy_helper.to_array(item)
            else:
                self._keep(item.name, numpy_helper.to_array(item))
        self._steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        for node in graph.node:
            if node.op_type == "Cast" and node.input[0] in halves:
                # A weight stored in half precision: it is what it becomes, once and for all.
                self._keep(node.output[0], halves[node.input[0]].astype(np.float32))
                continue
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            self._steps.append((node.op_type, list(node.input), list(node.output), attributes))
        self._outputs = [output.name for output in graph.output]

    def _keep(self, name: str, values: np.ndarray[Any, Any]) -> None:
        """Keep a constant: what counts places as plain numbers, a weight as a buffer."""
        if values.dtype == np.int64 and values.ndim <= 1:
            self._constants[name] = [int(value) for value in values.reshape(-1)] if values.ndim else int(values)
        else:
            own = f"weight_{len(self._buffers)}"
            self.register_buffer(own, torch.from_numpy(np.array(values)))
            self._constants[name] = own

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return each output for films (N, H, W)."""
        values: dict[str, Any] = {
            name: getattr(self, value) if isinstance(value, str) else value for name, value in self._constants.items()
        }
        values[INPUT] = image
        for kind, inputs, outputs, attributes in self._steps:
            answer = OPERATORS[kind]([values[name] if name else None for name in inputs], attributes)
            values |= dict(zip(outputs, answer if isinstance(answer, tuple) else (answer,), strict=False))
        return {name: values[name] for name in self._outputs}
