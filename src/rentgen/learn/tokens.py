"""The class token of a transformer as features, and what each patch gave to it.

Features are `e = LN(x)` of the class token's last state, `x = x0 + ls1 (sum_p sum_h A[h,p] V[h,p] Wo + bo)` and what
the MLP adds. The share of patch p in e, with the norm's divisor held, is the vector

    c_p = gamma (s_p - mean(s_p)) / sigma,    s_p = ls1 sum_h A[h,p] V[h,p] Wo

so that the dot product of a score's gradient `dz/de` with `c_p` says how much what the class token took from that patch
moved the score: attention, weighted by values (Kobayashi et al. 2020) and by the gradient (Chefer et al. 2021), without
a backward pass. Left out are the way through the last block's MLP, and that earlier blocks had mixed the patches
already: that is what attention rollout (Abnar and Zuidema 2020) follows, at the price of one map for all classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear

from rentgen.errors import WeightsError


def check_token(network: nn.Module, name: str) -> None:
    """Refuse networks whose class token cannot be explained.

    Raises:
        WeightsError: there is no class token, or its last block is none of ViT's.
    """
    parts = ("patch_embed", "_pos_embed", "patch_drop", "norm_pre", "blocks", "norm", "cls_token")
    attention = ("qkv", "q_norm", "k_norm", "proj", "num_heads", "scale")
    plain = all(hasattr(network, part) for part in parts) and network.cls_token is not None
    last: Any = network.blocks[-1] if plain else None  # type: ignore[index]
    if not plain or not all(hasattr(last.attn, part) for part in attention) or last.attn.qkv.bias is None:
        raise WeightsError(
            f'Expected a transformer with a class token and plain attention (ViT, DeiT, DINOv2) for pooling = "token", '
            f'but {name} is none. Take pooling = "mean" in the recipe\'s [backbone].'
        )


def token_and_shares(network: Any, images: Tensor, prefix_tokens: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the normed class token (N, C), and what each patch gave to it (N, patches, C).

    Only the class token goes through the last block: the others are not needed any more.

    Args:
        network: a timm VisionTransformer.
        images: (N, channels, H, W), normalised.
        prefix_tokens: tokens before the patches.
    """
    tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))  # (N, L, C)
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    last = network.blocks[-1]
    attention = last.attn
    count, length, width = tokens.shape
    heads = attention.num_heads
    inside = last.norm1(tokens)
    weight, bias = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
    # Three products in place of one that is cut apart: the query is wanted of the class token alone, and OpenVINO
    # 2026.4 dies compiling the other form of some networks.
    query = linear(inside[:, :1], weight[0], bias[0]).reshape(count, 1, heads, width // heads).transpose(1, 2)
    key = linear(inside, weight[1], bias[1]).reshape(count, length, heads, width // heads).transpose(1, 2)
    value = linear(inside, weight[2], bias[2]).reshape(count, length, heads, width // heads)
    query, key = attention.q_norm(query), attention.k_norm(key)  # (N, heads, 1, d), (N, heads, L, d)
    weights = ((query * attention.scale) @ key.transpose(-2, -1)).softmax(-1)  # (N, heads, 1, L)
    taken = weights.permute(0, 3, 1, 2) * value  # (N, L, heads, d)
    # Layer scale works channel by channel, so it may be taken of each share.
    given = last.ls1(linear(taken.reshape(count, length, width), attention.proj.weight))  # (N, L, C)
    state = tokens[:, :1] + given.sum(1, keepdim=True) + last.ls1(attention.proj.bias)  # (N, 1, C)
    state = state + last.ls2(last.mlp(last.norm2(state)))
    norm = network.norm
    token: Tensor = norm(state)[:, 0]
    sigma = ((state - state.mean(-1, keepdim=True)).square().mean(-1, keepdim=True) + norm.eps).sqrt()
    patches = given[:, prefix_tokens:]
    shares: Tensor = norm.weight * (patches - patches.mean(-1, keepdim=True)) / sigma
    return token, shares
