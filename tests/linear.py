"""The smallest real model: a film's coarse grey values, weighed. It is fitted in milliseconds and hides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from rentgen.bundle import Bundle, Golden
from rentgen.engine.predictor import Predictor
from rentgen.engine.session import Session
from rentgen.images.phantom import Finding, draw, golden_films
from rentgen.images.prepare import fit, prepare
from rentgen.records import (
    Card,
    History,
    PatientSource,
    Precision,
    Preprocessing,
    Radiograph,
    SplitCertificate,
    UInt8,
)

SIDE, GRID = 96, 12
FED = Preprocessing(SIDE, SIDE)


def normal_films(count: int, seed: int = 0) -> UInt8:
    """Return drawn films without finding, (count, SIDE, SIDE)."""
    return np.stack(
        [
            fit(Radiograph(draw(Finding.NORMAL, np.random.default_rng((seed, i))).pixels, "", "png", 16), FED).pixels
            for i in range(count)
        ]
    )


def with_spot(films: UInt8, labels: npt.NDArray[np.int64], row: int, column: int, side: int = 10) -> UInt8:
    """Return films where a bright square goes with class 1: in a corner it is a marker, in a lung a finding."""
    planted = films.copy()
    window = planted[labels == 1, row : row + side, column : column + side]
    planted[labels == 1, row : row + side, column : column + side] = np.minimum(window.astype(np.int64) + 140, 255)
    return planted


def fitted_model(films: UInt8, labels: npt.NDArray[np.int64], classes: int = 2) -> bytes:
    """Return ONNX of a ridge regression on the films' coarse grey values; its map is what each place adds."""
    step = SIDE // GRID
    coarse = films.reshape(len(films), GRID, step, GRID, step).mean(axis=(2, 4)).reshape(len(films), -1) / 255
    mean = coarse.mean(axis=0)
    target = np.eye(classes)[labels] - 1 / classes
    centred = coarse - mean
    weights = np.linalg.solve(centred.T @ centred + 1.0 * np.eye(GRID * GRID), centred.T @ target).T * 12
    return weighing_model(weights.reshape(classes, GRID, GRID), mean.reshape(GRID, GRID))


def weighing_model(weights: npt.NDArray[np.float64], mean: npt.NDArray[np.float64]) -> bytes:
    """Return ONNX: `image` to `logits`, `embedding` and `activation_maps`, of weights (classes, GRID, GRID)."""
    classes = len(weights)
    constants = {
        "axis": np.array([1], np.int64),
        "full": np.float32(255),
        "mean": mean[None, None].astype(np.float32),
        "weights": weights[None].astype(np.float32),
        "places": np.array([2, 3], np.int64),
    }
    nodes: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
        ("Cast", ["image"], "float", {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["float", "axis"], "channel", {}),
        ("Div", ["channel", "full"], "unit", {}),
        ("AveragePool", ["unit"], "coarse", {"kernel_shape": [SIDE // GRID] * 2, "strides": [SIDE // GRID] * 2}),
        ("Sub", ["coarse", "mean"], "above", {}),
        ("Mul", ["above", "weights"], "added", {}),  # (N, classes, GRID, GRID)
        ("ReduceSum", ["added", "places"], "logits", {"keepdims": 0}),
        ("Relu", ["added"], "activation_maps", {}),
        ("ReduceMean", ["above", "places"], "embedding", {"keepdims": 0}),
    )
    shapes: dict[str, list[str | int | None]] = {
        "logits": ["n", classes],
        "embedding": ["n", 1],
        "activation_maps": ["n", classes, GRID, GRID],
    }
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **more) for kind, inputs, output, more in nodes],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def predictor_of(model: bytes, classes: tuple[str, ...] = ("normal", "covid"), fed: Preprocessing = FED) -> Predictor:
    """Return the model in a bundle, ready to answer."""
    films = golden_films()
    prepared = np.stack([prepare(Radiograph(film, "", "png", 8), fed).pixels for film in films])
    answers = Session(model, precision=Precision.F32).run(prepared)
    card = Card(
        name="linear",
        created="2025-06-01T10:00:00Z",
        classes=classes,
        positive=classes[1] if len(classes) == 2 else None,
        preprocessing=fed,
        backbone={},
        recipe={},
        history=History({}, 0, 0.0),
        operating_points=(),
        validation={},
        test=None,
        counts={},
        audit={},
        intended_use="",
        licences=(),
        software={},
        command="",
    )
    split = SplitCertificate("00", {}, {}, {}, PatientSource.CSV, {})
    golden = Golden(films, prepared, answers["logits"], answers["embedding"], answers["activation_maps"])
    return Predictor(Bundle(card, model, split, golden), precision=Precision.F32, batch_size=16)
