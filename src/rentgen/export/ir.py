"""The classifier as OpenVINO IR: what OpenVINO Model Server and OpenVINO's C++ and JavaScript read without ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino

from rentgen.bundle import Bundle
from rentgen.export.plain import INPUT, check, describe, drafted, file_stem, with_probabilities
from rentgen.records import Float32, Precision, UInt8


def write_openvino(bundle: Bundle, folder: Path) -> tuple[Path, ...]:
    """Write NAME.xml, NAME.bin and NAME.xml.json, once the files answer the golden films as the bundle does.

    Raises:
        BundleError: they do not; nothing is kept.
        MissingExtraError: onnx is not installed.
    """
    core = openvino.Core()
    graph = core.read_model(model=with_probabilities(bundle))
    with drafted(folder, f"{file_stem(bundle)}.xml") as draft:
        # What the bundle stores in half precision stays so; nothing else is rounded.
        openvino.save_model(graph, draft, compress_to_fp16=False)
        checked = check(bundle, _Runner(core, draft).run, "OpenVINO model")
        path = folder / draft.name
    described = describe(bundle, path, {"openvino": checked}, runs="OpenVINO 2025.0 or newer")
    return path, path.with_suffix(".bin"), described


class _Runner:
    """The saved files, read again and compiled for any batch size."""

    def __init__(self, core: Any, path: Path) -> None:  # noqa: ANN401
        self.compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": str(Precision.F32)})

    def run(self, films: UInt8) -> dict[str, Float32]:
        answers = self.compiled({INPUT: films})
        return {output.get_any_name(): np.array(answers[output]) for output in self.compiled.outputs}
