"""Pretrained networks as frozen feature extractors: any timm model, one road.

What counts as the feature map, by timm's `forward_features`:

=============  =====================================================  ===============================
layout         families                                               the map
=============  =====================================================  ===============================
`NCHW`         ResNet, EfficientNet, DenseNet, ConvNeXt, ...          (N, C, h, w) as it comes
`NHWC`         Swin, and others that keep channels last               permuted to (N, C, h, w)
`NLC`          ViT, DeiT, DINOv2 (class token, registers, or neither) prefix tokens dropped, patches laid out as a grid
=============  =====================================================  ===============================

Features are the mean of that map over its places (global average pooling, as the recipe has it), or a transformer's
class token where that is how it was taught (`networks`). One closed form explains both: the map is what is pooled, or
what each patch gave to the class token (`tokens`).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from rentgen.errors import MissingExtraError, WeightsError
from rentgen.learn.networks import NETWORKS, Network, Pooling
from rentgen.learn.tokens import check_token, token_and_shares
from rentgen.learn.weights import OFFLINE_DEFAULT, find, load_strictly, packaged

try:
    import timm
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "training") from error

RECIPE_DEFAULT = "resnet50"
AUTO = "auto"


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
        pooling: `mean` or `token`.
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
        pooling: Pooling = Pooling.MEAN,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.weights = weights
        self.licence = licence
        self.normalise = normalise
        self.pooling = pooling
        self.weights_sha256 = hash_weights(network.state_dict())
        self.features = int(network.num_features)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.fingerprint = hash_weights(self.state_dict())
        for setting in ((normalise,) if normalise != "fixed" else ()) + ((pooling,) if pooling != Pooling.MEAN else ()):
            self.fingerprint = hashlib.sha256(f"{self.fingerprint}:{setting}".encode()).hexdigest()
        self.prefix_tokens = int(getattr(network, "num_prefix_tokens", 0))
        with torch.inference_mode():
            raw = network.forward_features(torch.zeros(1, self.channels, *size))  # type: ignore[operator]
        self.layout, self.grid = find_layout(raw, self.features, self.prefix_tokens, size)

    @property
    def channels(self) -> int:
        """Return how many channels the network takes: a film fills all alike."""
        return self.mean.shape[1]

    def forward(self, image: Tensor) -> Tensor:
        """Return the map (N, C, h, w) of images (N, H, W): uint8, or float32 grey levels."""
        return self.embed(image)[1]

    def embed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, C), float32, and the map (N, C, h, w) that explains them.

        The gradient of a score with respect to the features, times the map's mean over its places, is what moved the
        score; the places' own products are the heat map.

        Args:
            image: (N, H, W): uint8, or float32 grey levels.
        """
        grey = image.unsqueeze(1).to(torch.float32)  # (N, 1, H, W)
        if self.normalise == "film":
            grey = grey - grey.mean((2, 3), keepdim=True)
            # Not `expand`: OpenVINO 2026.4 moves it past the division and then misses two channels.
            centred = torch.cat([grey] * self.channels, 1)  # (N, channels, H, W)
        else:
            centred = grey.expand(-1, self.channels, -1, -1) - self.mean
        if self.pooling is Pooling.TOKEN:
            token, shares = token_and_shares(self.network, centred / self.std, self.prefix_tokens)
            places = self.grid[0] * self.grid[1]
            return token.float(), places * shares.transpose(1, 2).reshape(-1, self.features, *self.grid)
        raw: Tensor = self.network.forward_features(centred / self.std)  # type: ignore[operator]
        if self.layout is Layout.NHWC:
            raw = raw.permute(0, 3, 1, 2)
        if self.layout is Layout.NLC:
            patches = raw[:, self.prefix_tokens :]  # (N, h * w, C)
            raw = patches.transpose(1, 2).reshape(-1, self.features, *self.grid)
        return raw.float().mean((2, 3)), raw

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
            "pooling": str(self.pooling),
        }


def describe_networks(networks: Sequence[Backbone]) -> dict[str, Any]:
    """Return what the card says of networks that answer together: of the first, and of the others as `also`."""
    first, *others = networks
    return first.describe() | ({"also": [other.describe() for other in others]} if others else {})


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    size: tuple[int, int] = (224, 224),
    seed: int = 0,
    normalise: str = "fixed",
    pooling: str = Pooling.AUTO,
) -> Backbone:
    """Return a frozen backbone.

    Args:
        name: a timm model, a network of `networks`, or `auto`: ResNet50 where its ImageNet weights can be had,
            otherwise EfficientNet-Lite0.
        weights: a safetensors or torch file; `random`; None for the pretrained ones.
        size: height and width of the input, pixels.
        seed: of random weights.
        normalise: as of `Backbone`.
        pooling: `mean`, `token`, or `auto` for what the network was taught with.

    Raises:
        WeightsError: no such model, or weights that cannot be had or do not fit.
    """
    if name == AUTO:
        try:
            return load(RECIPE_DEFAULT, weights=weights, size=size, seed=seed, normalise=normalise, pooling=pooling)
        except WeightsError:
            if weights is not None or not packaged(OFFLINE_DEFAULT):
                raise
            return load(OFFLINE_DEFAULT, size=size, seed=seed, normalise=normalise, pooling=pooling)
    row = NETWORKS.get(name) or Network(name, "", name, 0, "", "")
    if not timm.is_model(row.timm):
        near = ", ".join([*(known for known in NETWORKS if name in known), *timm.list_models(f"*{name}*")][:5])
        raise WeightsError(
            f"Expected the name of a timm model, but got {name!r}. Near it: {near or 'see `rentgen backbones`'}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = timm.create_model(row.timm, pretrained=False, num_classes=0, in_chans=row.channels)
    pooled = row.pooling if pooling == Pooling.AUTO else Pooling(pooling)
    if pooled is Pooling.TOKEN:
        check_token(network, name)
    source = find(row, weights, network)
    if source.state is not None:
        load_strictly(network, source.state, source.weights)
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
        pooling=pooled,
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
