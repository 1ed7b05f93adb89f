"""A bundle for where others already run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rentgen.cli.options import BundleArgument, app
from rentgen.errors import SettingError
from rentgen.records import DISCLAIMER
from rentgen.terminal import err, out


@app.command("export")
def export_bundle(
    bundle: BundleArgument,
    onnx: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Plain ONNX: prepared film in, calibrated probabilities out.")
    ] = None,
    openvino: Annotated[Path | None, typer.Option(metavar="DIR", help="OpenVINO IR (.xml, .bin) of the same.")] = None,
    torch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A torch.export program (.pt2) of the same.")
    ] = None,
    mlflow: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="An MLflow model that takes whole films: for `mlflow models serve` and for Spark."
        ),
    ] = None,
) -> None:
    """Write a bundle in the forms that other systems run, each checked against its golden vectors.

    A form that does not give the bundle's answers is deleted, and the exit code is 1. Beside each graph stands a JSON
    file with its names, shapes, preprocessing, classes and thresholds.
    """
    from rentgen import bundle as bundles

    asked = {"onnx": onnx, "openvino": openvino, "torch": torch, "mlflow": mlflow}
    if not any(asked.values()):
        raise SettingError(f"Expected at least one form to write: {', '.join(f'--{name} DIR' for name in asked)}.")
    path = bundles.find(bundle)
    read = bundles.read(path)
    for name, folder in asked.items():
        if folder is None:
            continue
        for written in _writer(name, path)(read, folder):
            out.print(f"{written}", markup=False, highlight=False, soft_wrap=True)
    err.print(DISCLAIMER, style="dim")


def _writer(name: str, path: Path) -> Callable[..., tuple[Path, ...]]:
    """Return what writes a form; only what it needs is loaded."""
    if name == "onnx":
        from rentgen.export.plain import write_onnx

        return write_onnx
    if name == "openvino":
        from rentgen.export.ir import write_openvino

        return write_openvino
    if name == "torch":
        from rentgen.export.program import write_torch

        return write_torch
    from rentgen.export.pyfunc import write_mlflow

    return lambda bundle, folder: write_mlflow(path, bundle, folder)
