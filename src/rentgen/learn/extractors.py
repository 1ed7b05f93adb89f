"""Who computes features of a frozen backbone: the inference engine on a CPU, torch on a GPU."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch

from rentgen.engine.session import Session
from rentgen.learn.backbones import Backbone
from rentgen.learn.export import export_backbone
from rentgen.records import Float32, Precision, UInt8

logger = logging.getLogger(__name__)

Run = Callable[[UInt8], Float32]
"""(N, height, width) uint8 to (N, features) float32; may be called from several threads."""


@dataclass(frozen=True, slots=True, eq=False)
class Extractor:
    """Who computes features, and what makes its results its own.

    Attributes:
        run: computes, in this process.
        features: how many.
        identity: all that decides the values, for the cache's key.
        workers: calls side by side.
        batch_size: films per call.
        opened: makes the same `run` in another process, told how many threads it may use; None where `run` itself can
            be sent there.
        gpus: that it needs there.
    """

    run: Run
    features: int
    identity: Mapping[str, Any]
    workers: int
    batch_size: int
    opened: Callable[[int], Run] | None = None
    gpus: int = 0

    @property
    def open(self) -> Callable[[int], Run]:
        """Return what makes `run` where it is not yet."""
        return partial(_give, self.run) if self.opened is None else self.opened


def _give(run: Run, threads: int) -> Run:
    return run


def openvino_extractor(graph: bytes, backbone: Backbone, precision: Precision, *, batch_size: int = 8) -> Extractor:
    """Return the extractor for a CPU: the exported graph in the inference engine.

    Args:
        graph: what `export_backbone` wrote.
        backbone: what it was written of.
        precision: of the arithmetic.
        batch_size: films per call.
    """
    session = Session(graph, precision=precision, batch_size=batch_size)
    return Extractor(
        run=partial(_run_session, session),
        features=backbone.features,
        identity={
            "backbone": backbone.fingerprint,
            "name": backbone.name,
            "precision": str(session.precision),
            "openvino": version("openvino"),
        },
        workers=session.streams,
        batch_size=batch_size,
        opened=partial(_open_session, graph, session.precision, batch_size),
    )


def _open_session(graph: bytes, precision: Precision, batch_size: int, threads: int) -> Run:
    session = Session(graph, precision=precision, batch_size=batch_size, streams=threads, threads=threads)
    return partial(_run_session, session)


def _run_session(session: Session, images: UInt8) -> Float32:
    return session.run(images, ("embedding_0",))["embedding_0"]


def torch_extractor(backbone: Backbone, *, batch_size: int = 64, device: str | None = None) -> Extractor:
    """Return the extractor for a GPU (or, slower, a CPU): torch in float32.

    Args:
        backbone: the network.
        batch_size: films per call.
        device: as torch names it; CUDA where there is one, by default.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Extractor(
        run=_open_torch(backbone, place, 1),
        features=backbone.features,
        identity={
            "backbone": backbone.fingerprint,
            "name": backbone.name,
            "precision": "torch-f32",
            "torch": torch.__version__,
        },
        workers=1,
        batch_size=batch_size,
        opened=partial(_open_torch, backbone, place),
        gpus=int(place.type == "cuda"),
    )


def _open_torch(backbone: Backbone, place: torch.device, threads: int) -> Run:
    return partial(_run_torch, backbone.to(place).to(memory_format=torch.channels_last), place)


def _run_torch(network: Backbone, place: torch.device, images: UInt8) -> Float32:
    with torch.inference_mode():
        pooled, _ = network.embed(torch.from_numpy(images).to(place))
        result: Float32 = pooled.cpu().numpy()
        return result


def cached_graph(backbone: Backbone, size: tuple[int, int], cache: Path) -> bytes:
    """Return the backbone as ONNX, from the cache where the same versions of torch and timm exported it before."""
    made_by = f"torch{torch.__version__}-timm{timm.__version__}"
    path = cache / "graphs" / f"{backbone.name}-{backbone.fingerprint[:32]}-{size[0]}x{size[1]}-{made_by}-members.onnx"
    seal = path.with_suffix(".sha256")
    if path.is_file() and seal.is_file():
        graph = path.read_bytes()
        if hashlib.sha256(graph).hexdigest().encode() == seal.read_bytes():
            return graph
        logger.warning("the cached graph %s is damaged and is exported anew", path.name)
    graph = export_backbone(backbone, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(graph))
    write_whole(seal, lambda file: file.write(hashlib.sha256(graph).hexdigest().encode()))
    return graph


def write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file so that it is whole, or not there, whatever happens meanwhile."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".draft-", delete=False) as draft:
        try:
            write(draft)
            draft.flush()
            os.fsync(draft.fileno())
        except BaseException:
            os.unlink(draft.name)
            raise
    os.replace(draft.name, path)
