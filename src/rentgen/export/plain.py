"""The classifier as one plain graph: prepared film in; calibrated probabilities, logits, maps out.

A bundle's own graph ends at the logits, because calibration belongs to a site and not to the network. Whoever runs the
graph elsewhere has no card to apply it from, so here it becomes part of the graph.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rentgen.bundle import Bundle
from rentgen.engine.graph import check_whole
from rentgen.engine.predictor import sigmoid, softmax
from rentgen.engine.session import TOLERANCE, Session
from rentgen.errors import BundleError, MissingExtraError
from rentgen.records import DISCLAIMER, EngineName, Float32, Float64, Precision, Task, UInt8

INPUT = "image"
PROBABILITIES = "probabilities"
FORMAT = "rentgen-export"
VERSION = 1

MEANINGS = {
    PROBABILITIES: "calibrated, one for each class, in the order of `classes`; if `task` is multiclass, they sum to 1",
    "logits": "before calibration",
    "embedding": "the mean of the network's last feature map",
    "activation_maps": "Grad-CAM of each class over the prepared film, not negative",
    "distance": "from the films that taught the model; above `domain.threshold` it should not be asked",
}

Answer = Callable[[UInt8], Mapping[str, Float32]]
"""From prepared films to what a graph answers, by name."""


def write_onnx(bundle: Bundle, folder: Path) -> tuple[Path, ...]:
    """Write NAME.onnx and NAME.onnx.json, once the file answers the golden films as the bundle does.

    Raises:
        BundleError: it does not; nothing is kept.
        MissingExtraError: onnx is not installed.
    """
    model = with_probabilities(bundle)
    with drafted(folder, f"{file_stem(bundle)}.onnx") as draft:
        draft.write_bytes(model)
        written = draft.read_bytes()
        engines = [EngineName.OPENVINO]
        engines += [EngineName.ONNXRUNTIME] if find_spec("onnxruntime") else []
        checked = {
            str(engine): check(bundle, Session(written, engine=engine, precision=Precision.F32).run, "ONNX graph")
            for engine in engines
        }
        path = folder / draft.name
    return path, describe(bundle, path, checked, runs="ONNX Runtime 1.17 or newer, or any that reads opset 20")


def with_probabilities(bundle: Bundle) -> bytes:
    """Return the bundle's graph with calibration and softmax, or sigmoid, behind: the first output, `probabilities`.

    Raises:
        BundleError: the graph is not sound.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise MissingExtraError("onnx", "export", "the export of a graph") from error
    # No weight may come from a file that the bundle's hashes do not cover.
    check_whole(bundle.model)
    model = onnx.load_model_from_string(bundle.model)
    graph = model.graph
    calibration = bundle.card.calibration
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = []
    last = "logits"
    if calibration is not None:
        for name, kind, values in (("scale", "Mul", calibration.scale), ("bias", "Add", calibration.bias)):
            constant, result = f"calibration.{name}", f"calibration.{kind.lower()}"
            graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), constant))
            steps.append((kind, [last, constant], result, {}))
            last = result
    if bundle.card.task is Task.MULTILABEL:
        steps.append(("Sigmoid", [last], PROBABILITIES, {}))
    else:
        steps.append(("Softmax", [last], PROBABILITIES, {"axis": -1}))
    graph.node.extend(
        helper.make_node(kind, inputs, [output], name=f"make.{output}", **attributes)
        for kind, inputs, output, attributes in steps
    )
    outputs = list(graph.output)
    del graph.output[:]
    classes = len(bundle.card.classes)
    first = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", classes])
    graph.output.extend([first, *outputs])
    model.producer_name = "rentgen"
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise BundleError(f"The bundle's graph is no sound ONNX: {error}. Fetch or train the bundle anew.") from error
    whole: bytes = model.SerializeToString()
    return whole


def check(bundle: Bundle, answer: Answer, what: str) -> dict[str, float]:
    """Return how far each output stands from the bundle's golden one, relative to its largest value (or 1).

    Films are asked one by one and all together: a batch must not change an answer.

    Args:
        bundle: whose golden films are asked.
        answer: the exported graph.
        what: it is, for the message.

    Raises:
        BundleError: an output differs by more than the engine's own tolerance, or has another shape.
    """
    expected = _expected(bundle)
    films = bundle.golden.prepared
    singly = [answer(film[None]) for film in films]
    found: dict[str, float] = {}
    for name, golden in expected.items():
        for came in (answer(films)[name], np.concatenate([np.asarray(one[name]) for one in singly])):
            difference = _difference(np.asarray(came), golden)
            # Not a number is worse than any.
            found[name] = max(found.get(name, 0.0), math.inf if math.isnan(difference) else difference)
    worst = max(found, key=lambda name: found[name])
    allowed = TOLERANCE[Precision.F32]
    if not found[worst] <= allowed:
        raise BundleError(
            f"The {what} differs from the bundle's golden vectors in {worst} by {found[worst]:.2g} of its range; "
            f"allowed is {allowed:g}. It was deleted: it would not give the bundle's answers."
        )
    return found


def describe(bundle: Bundle, path: Path, checked: Mapping[str, Mapping[str, float]], *, runs: str) -> Path:
    """Write PATH.json: what stands in the file, what it must be fed, what its answers mean. Return where.

    Args:
        bundle: that was exported.
        path: of the exported file.
        checked: engine to output to largest difference from the golden one.
        runs: where the file runs, in words.
    """
    described = path.with_name(f"{path.name}.json")
    text = json.dumps(description(bundle, path.name, checked, runs), ensure_ascii=False, allow_nan=False, indent=1)
    with drafted(path.parent, described.name) as draft:
        draft.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return described


def description(
    bundle: Bundle, file: str, checked: Mapping[str, Mapping[str, float]], runs: str = ""
) -> dict[str, Any]:
    """Return the JSON object beside an exported graph; arguments as of `describe`."""
    card = bundle.card
    expected = _expected(bundle)
    values = card.to_dict()
    kept = ("preprocessing", "calibration", "conformal", "domain", "scope", "operating_points")
    size = [card.preprocessing.height, card.preprocessing.width]
    return {
        "format": FORMAT,
        "version": VERSION,
        "file": file,
        "runs": runs,
        "name": card.name,
        "bundle_id": bundle.bundle_id,
        "task": str(card.task),
        "classes": list(card.classes),
        "positive": card.positive,
        "input": {"name": INPUT, "type": "uint8", "shape": ["batch", *size], "meaning": "the prepared film"},
        "outputs": [
            {"name": name, "type": "float32", "shape": ["batch", *golden.shape[1:]], "meaning": MEANINGS[name]}
            for name, golden in expected.items()
        ],
        **{name: values[name] for name in kept},
        "checked": {engine: dict(found) for engine, found in checked.items()},
        "tolerance": TOLERANCE[Precision.F32],
        "intended_use": card.intended_use,
        "licences": list(card.licences),
        "disclaimer": DISCLAIMER,
    }


def file_stem(bundle: Bundle) -> str:
    """Return the bundle's name as a file name that every system bears."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in bundle.card.name)
    # A file name has at most 255 bytes on most systems.
    return plain.encode()[:120].decode(errors="ignore").strip(".") or "model"


@contextmanager
def drafted(folder: Path, name: str) -> Iterator[Path]:
    """Give a place to write a file of that name; it moves to the folder only when nothing went wrong.

    What else was written beside it moves along.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as scratch:
        yield Path(scratch) / name
        for part in sorted(Path(scratch).iterdir()):
            os.replace(part, folder / part.name)


def _expected(bundle: Bundle) -> dict[str, Float32 | Float64]:
    golden, calibration = bundle.golden, bundle.card.calibration
    scores = golden.logits.astype(np.float64)
    if calibration is not None:
        scores = scores * np.array(calibration.scale) + np.array(calibration.bias)
    values: dict[str, Float32 | Float64] = {
        PROBABILITIES: sigmoid(scores) if bundle.card.task is Task.MULTILABEL else softmax(scores),
        "logits": golden.logits,
        "embedding": golden.embedding,
        "activation_maps": golden.activation_maps,
    }
    return values if golden.distance is None else values | {"distance": golden.distance}


def _difference(came: Float32, golden: Float32 | Float64) -> float:
    if came.shape != golden.shape:
        return math.inf
    return float(np.abs(came - golden).max() / max(1.0, float(np.abs(golden).max())))
