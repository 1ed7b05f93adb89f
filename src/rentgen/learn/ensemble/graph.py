"""Several graphs as one: `image` in once; logits, embedding, maps and distance of all of them together out.

Each member m answers with its own calibrated probabilities, `a = z * scale + bias`, `p = softmax(a)` (one class a film)
or `p = sigmoid(a)` (several findings), and the ensemble with their weighted mean `P = sum_m w_m p_m`. Its logits are
what its probabilities come back from: `log P` of one class a film, for `softmax(log P) = P`, and `log P - log(1 - P)`
of findings. `1 - p` is never a difference here, but the sum of the other classes, or the sigmoid of `-a`: a sure
answer keeps its last digits.

The maps are Grad-CAM of these logits, exactly. A member's map before its ReLU is the gradient of its own logit, times
the features, at each place: `S_k = dz_k` for short, a linear thing, so the chain rule holds place by place. One class
a film::

    d log P_k = sum_m (w_m p_mk / P_k) d log p_mk
    d log p_k = scale_k S_k - sum_j p_j scale_j S_j
              = (1 - p_k) scale_k S_k - sum_(j != k) p_j scale_j S_j

The share of a member in a class's map is its share in the class's probability; what speaks for a rival speaks against
the class. Several findings, each on its own::

    d log(P / (1 - P)) = sum_m (w_m p_m (1 - p_m) / (P (1 - P))) scale S

The ReLU comes last, once. Where members have maps of different grids, the coarser are resampled (bilinear) to the
finest, as a density: that, and only that, is an approximation.

Deep ensembles: Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep ensembles,
NeurIPS 2017. Grad-CAM: Selvaraju et al., ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rentgen.bundle import MAX_MEMBER_BYTES
from rentgen.engine.graph import check_whole
from rentgen.errors import BundleError, MissingExtraError
from rentgen.learn.export import merge_repeats
from rentgen.records import Task

try:
    import onnx
    from onnx import TensorProto, compose, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError(error.name or "onnx", "train", "an ensemble") from error

INPUT = "image"
LEAST = 1e-30
"""Probabilities below it count as this: a logarithm needs more than nothing."""
_LINEAR = {"Reshape": False, "Identity": False, "Div": True, "Mul": True}
"""Operators that may stand between the ReLU of a map and the output, and whether their constant must be positive."""

Step = tuple[str, list[str], str, dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A member, as the graph hears it.

    Attributes:
        name: for messages.
        model: its ONNX graph.
        order: for each class of the ensemble, its place among the member's logits.
        scale: of its calibration, in its own order.
        bias: likewise.
        weight: in the mean; all of them sum to 1.
        threshold: of its distance, positive; None where it does not ask.
    """

    name: str
    model: bytes
    order: tuple[int, ...]
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    weight: float
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class _Own:
    """What a member's graph gives, by its names in the joined one; `rows` and `columns` of its maps."""

    logits: str
    embedding: str
    signed: str
    distance: str | None
    rows: int
    columns: int
    width: int


def join(voices: Sequence[Voice], task: Task) -> bytes:
    """Return ONNX: `image` to `logits`, `embedding`, `activation_maps` and, where a member asks, `distance`.

    The embedding has the members' side by side. The distance is the largest of the members' distances, each in units
    of its own threshold: above 1, at least one of them would not have answered.

    Args:
        voices: at least one, of one input size and opset.
        task: of all of them.

    Raises:
        BundleError: a graph is damaged, is too large with the others, or is not made as Rentgen makes them.
    """
    total = sum(len(voice.model) for voice in voices)
    if total >= MAX_MEMBER_BYTES:
        raise BundleError(
            f"The members' graphs have {total / 2**30:.1f} GiB together; one graph of ONNX holds less than "
            f"{MAX_MEMBER_BYTES >> 30}. Take fewer members, or ones stored in half precision (`backbone.stored`)."
        )
    models = [_read(voice) for voice in voices]
    joined = models[0]
    for voice, other in zip(voices[1:], models[1:], strict=True):
        _check_opsets(joined, other, voice.name)
    own = [
        _describe(model, f"m{number}.", voice) for number, (model, voice) in enumerate(zip(models, voices, strict=True))
    ]
    for other in models[1:]:
        for part in ("node", "initializer", "sparse_initializer", "value_info"):
            getattr(joined.graph, part).extend(getattr(other.graph, part))
        joined.functions.extend(other.functions)
    joined.ir_version = max(model.ir_version for model in models)
    _finish(joined, voices, own, task)
    merge_repeats(joined)
    try:
        onnx.checker.check_model(joined)
    except onnx.checker.ValidationError as error:
        raise BundleError(f"The members' graphs cannot be joined: {error}. Fetch or train the bundles anew.") from error
    whole: bytes = joined.SerializeToString()
    return whole


def _read(voice: Voice) -> onnx.ModelProto:
    check_whole(voice.model)
    return onnx.load_model_from_string(voice.model)


def _check_opsets(first: onnx.ModelProto, other: onnx.ModelProto, name: str) -> None:
    ours, theirs = (sorted((item.domain, item.version) for item in model.opset_import) for model in (first, other))
    if ours != theirs:
        raise BundleError(
            f"Expected graphs of one set of operators, {ours}, but {name} has {theirs}: it was made by another version "
            "of Rentgen. Train it anew with this one."
        )


def _describe(model: onnx.ModelProto, prefix: str, voice: Voice) -> _Own:
    """Give a graph's names a prefix, in place, all but the film's, and return where its outputs are."""
    shapes = {
        output.name: [axis.dim_value for axis in output.type.tensor_type.shape.dim] for output in model.graph.output
    }
    classes = len(voice.order)
    match shapes.get("logits"), shapes.get("embedding"), shapes.get("activation_maps"):
        case [_, logits], [_, width], [_, maps, rows, columns] if logits == maps == classes and rows and columns:
            pass
        case _:
            raise BundleError(
                f"{voice.name}: expected a graph with logits and maps of {classes} classes and an embedding, but got "
                f"{shapes}. Train the bundle anew."
            )
    if voice.threshold is not None and "distance" not in shapes:
        raise BundleError(f"{voice.name}: its card has a domain, but its graph no distance. Train the bundle anew.")
    compose.add_prefix(model, prefix, inplace=True)
    for node in model.graph.node:
        node.input[:] = [INPUT if name == f"{prefix}{INPUT}" else name for name in node.input]
    model.graph.input[0].name = INPUT
    signed = _before_relu(model.graph, prefix, voice.name)
    distance = None if voice.threshold is None else f"{prefix}distance"
    return _Own(f"{prefix}logits", f"{prefix}embedding", signed, distance, rows, columns, width)


def _before_relu(graph: onnx.GraphProto, prefix: str, name: str) -> str:
    """Add the maps as they would be without their ReLU, and return their name.

    Between the ReLU and the output stand only a shape and a positive factor, which are repeated before it.
    """
    makers = {output: node for node in graph.node for output in node.output}
    constants = {item.name: item for item in graph.initializer}
    chain: list[onnx.NodeProto] = []
    last = makers.get(f"{prefix}activation_maps")
    while last is not None and last.op_type in _LINEAR and all(item in constants for item in last.input[1:]):
        if _LINEAR[last.op_type] and not (numpy_helper.to_array(constants[last.input[1]]) > 0).all():
            break
        chain.append(last)
        last = makers.get(last.input[0])
    if last is None or last.op_type != "Relu":
        raise BundleError(
            f"{name}: expected heat maps that end in a ReLU, as Rentgen's gradient maps do, but its graph makes them "
            "in another way, and their mean would mean nothing. Train the bundle anew."
        )
    value = str(last.input[0])
    for node in reversed(chain):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.name}.signed"
        copy.input[0], copy.output[0] = value, f"{node.output[0]}.signed"
        graph.node.append(copy)
        value = str(copy.output[0])
    return value


def _finish(model: onnx.ModelProto, voices: Sequence[Voice], own: Sequence[_Own], task: Task) -> None:
    """Add what makes one answer of several, and take away what is then no longer needed."""
    classes = len(voices[0].order)
    rows, columns = max((one.rows, one.columns) for one in own)
    constants: dict[str, Any] = {
        "all.one": np.array([1], np.int64),
        "all.two": np.array([2], np.int64),
        "all.least": np.float32(LEAST),
        # Whole numbers: what shuffles a network's weights (`learn.randomise`) must leave them alone.
        "all.rivals": 1 - np.eye(classes, dtype=np.int64),
        "all.flat": np.array([0, classes, rows * columns], np.int64),
        "all.grid": np.array([0, classes, rows, columns], np.int64),
        "all.size": np.array([rows, columns], np.int64),
        "all.minus": np.float32(-1),
    }
    steps: list[Step] = [("Cast", ["all.rivals"], "all.others", {"to": TensorProto.FLOAT})]
    for number, voice in enumerate(voices):
        constants |= {
            f"v{number}.scale": np.array([voice.scale[place] for place in voice.order], np.float32),
            f"v{number}.bias": np.array([voice.bias[place] for place in voice.order], np.float32),
            f"v{number}.order": np.array(voice.order, np.int64),
            f"v{number}.weight": np.float32(voice.weight),
        }
        steps += _vote(f"v{number}", own[number].logits, task)
    steps += _mean(len(voices), task)
    for number, one in enumerate(own):
        if (one.rows, one.columns) != (rows, columns):
            constants[f"v{number}.density"] = np.float32(one.rows * one.columns / (rows * columns))
        steps += _evidence(f"v{number}", one.signed, (one.rows, one.columns) != (rows, columns))
        steps += _explain_classes(f"v{number}") if task is Task.MULTICLASS else _explain_findings(f"v{number}")
    steps += [
        ("Sum", [f"v{number}.gradient" for number in range(len(voices))], "all.gradient", {}),
        ("Relu", ["all.gradient"], "all.positive", {}),
        ("Reshape", ["all.positive", "all.grid"], "activation_maps", {}),
        ("Concat", [one.embedding for one in own], "embedding", {"axis": 1}),
    ]
    asked = [
        (number, one.distance, voice.threshold)
        for number, (one, voice) in enumerate(zip(own, voices, strict=True))
        if one.distance is not None
    ]
    for number, distance, threshold in asked:
        constants[f"v{number}.threshold"] = np.float32(threshold)
        steps += [
            ("Div", [distance, f"v{number}.threshold"], f"v{number}.ratio", {}),
            ("Unsqueeze", [f"v{number}.ratio", "all.one"], f"v{number}.ratios", {}),
        ]
    if asked:
        steps += [
            ("Concat", [f"v{number}.ratios" for number, _, _ in asked], "all.ratios", {"axis": 1}),
            ("ReduceMax", ["all.ratios", "all.one"], "distance", {"keepdims": 0}),
        ]
    graph = model.graph
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    graph.node.extend(
        helper.make_node(kind, inputs, [output], name=f"make.{output}", **attributes)
        for kind, inputs, output, attributes in steps
    )
    shapes: dict[str, list[str | int]] = {
        "logits": ["batch", classes],
        "embedding": ["batch", sum(one.width for one in own)],
        "activation_maps": ["batch", classes, rows, columns],
        **({"distance": ["batch"]} if asked else {}),
    }
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph.name = "ensemble"
    _prune(graph)


def _vote(own: str, logits: str, task: Task) -> list[Step]:
    """Return what makes a member's `p`, `q` (1 - p) and its weighted `wp`, `wq`, each (N, classes), of its logits."""
    steps: list[Step] = [
        ("Gather", [logits, f"{own}.order"], f"{own}.ordered", {"axis": 1}),
        ("Mul", [f"{own}.ordered", f"{own}.scale"], f"{own}.scaled", {}),
        ("Add", [f"{own}.scaled", f"{own}.bias"], f"{own}.scores", {}),
    ]
    if task is Task.MULTICLASS:
        steps += [
            ("Softmax", [f"{own}.scores"], f"{own}.p", {"axis": -1}),
            ("MatMul", [f"{own}.p", "all.others"], f"{own}.q", {}),
        ]
    else:
        steps += [
            ("Sigmoid", [f"{own}.scores"], f"{own}.p", {}),
            ("Mul", [f"{own}.scores", "all.minus"], f"{own}.against", {}),
            ("Sigmoid", [f"{own}.against"], f"{own}.q", {}),
            ("Mul", [f"{own}.q", f"{own}.weight"], f"{own}.wq", {}),
        ]
    return [*steps, ("Mul", [f"{own}.p", f"{own}.weight"], f"{own}.wp", {})]


def _mean(count: int, task: Task) -> list[Step]:
    """Return what makes the mean probabilities `all.p`, of findings also `all.q`, and the logits."""
    steps: list[Step] = [
        ("Sum", [f"v{number}.wp" for number in range(count)], "all.sum_p", {}),
        ("Clip", ["all.sum_p", "all.least"], "all.p", {}),
    ]
    if task is Task.MULTICLASS:
        return [*steps, ("Log", ["all.p"], "logits", {})]
    return [
        *steps,
        ("Sum", [f"v{number}.wq" for number in range(count)], "all.sum_q", {}),
        ("Clip", ["all.sum_q", "all.least"], "all.q", {}),
        ("Log", ["all.p"], "all.log_p", {}),
        ("Log", ["all.q"], "all.log_q", {}),
        ("Sub", ["all.log_p", "all.log_q"], "logits", {}),
        ("Mul", ["all.p", "all.q"], "all.spread", {}),
    ]


def _evidence(own: str, signed: str, resampled: bool) -> list[Step]:
    """Return what makes `scale_k S_k` (N, classes, places) on the common grid."""
    steps: list[Step] = [("Gather", [signed, f"{own}.order"], f"{own}.maps", {"axis": 1})]
    fine = f"{own}.maps"
    if resampled:
        steps += [
            ("Shape", [fine], f"{own}.batch", {"start": 0, "end": 2}),
            ("Concat", [f"{own}.batch", "all.size"], f"{own}.size", {"axis": 0}),
            ("Resize", [fine, "", "", f"{own}.size"], f"{own}.fine", {"mode": "linear"}),
            ("Mul", [f"{own}.fine", f"{own}.density"], f"{own}.dense", {}),
        ]
        fine = f"{own}.dense"
    return [
        *steps,
        ("Reshape", [fine, "all.flat"], f"{own}.places", {}),
        ("Unsqueeze", [f"{own}.scale", "all.one"], f"{own}.scale_column", {}),  # (classes, 1)
        ("Mul", [f"{own}.places", f"{own}.scale_column"], f"{own}.evidence", {}),
    ]


def _explain_classes(own: str) -> list[Step]:
    """Return what makes a member's part of `d log P_k` (N, classes, places)."""
    return [
        ("Unsqueeze", [f"{own}.q", "all.two"], f"{own}.q_column", {}),  # (N, classes, 1)
        ("Mul", [f"{own}.evidence", f"{own}.q_column"], f"{own}.for", {}),
        ("Unsqueeze", [f"{own}.p", "all.one"], f"{own}.p_row", {}),  # (N, 1, classes)
        ("Mul", [f"{own}.p_row", "all.others"], f"{own}.rivals", {}),  # (N, classes, classes)
        ("MatMul", [f"{own}.rivals", f"{own}.evidence"], f"{own}.against", {}),
        ("Sub", [f"{own}.for", f"{own}.against"], f"{own}.slope", {}),
        ("Div", [f"{own}.wp", "all.p"], f"{own}.share", {}),
        ("Unsqueeze", [f"{own}.share", "all.two"], f"{own}.share_column", {}),
        ("Mul", [f"{own}.slope", f"{own}.share_column"], f"{own}.gradient", {}),
    ]


def _explain_findings(own: str) -> list[Step]:
    """Return what makes a member's part of `d log(P / (1 - P))` (N, findings, places)."""
    return [
        ("Mul", [f"{own}.wp", f"{own}.q"], f"{own}.spread", {}),
        ("Div", [f"{own}.spread", "all.spread"], f"{own}.share", {}),
        ("Unsqueeze", [f"{own}.share", "all.two"], f"{own}.share_column", {}),
        ("Mul", [f"{own}.evidence", f"{own}.share_column"], f"{own}.gradient", {}),
    ]


def _prune(graph: onnx.GraphProto) -> None:
    """Take away what no output needs: the members' own maps, calibrations of nobody, a distance that is not asked."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(list(graph.node)):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
            for attribute in node.attribute:
                for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                    wanted |= {name for below in inner.node for name in below.input}
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for part in ("initializer", "value_info"):
        items = [item for item in getattr(graph, part) if item.name in wanted]
        del getattr(graph, part)[:]
        getattr(graph, part).extend(items)
