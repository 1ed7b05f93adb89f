"""The operators of ONNX (opset 20) that networks for films are made of, in torch.

Each takes a node's inputs and attributes and returns its output, or a tuple of several. A shape, or a piece of one, is
a list of numbers here and no tensor, so that torch can follow a batch size that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

Value = Tensor | list[int] | int | str | None
Inputs = Sequence[Any]
Attributes = Mapping[str, Any]
Operator = Callable[[Inputs, Attributes], Any]

_FLOAT, _INT64, _BOOL = 1, 7, 9
_TYPES = {_FLOAT: torch.float32, _INT64: torch.int64, _BOOL: torch.bool}


def _same_kind(function: Callable[[Any, Any], Any]) -> Operator:
    """Return an operator of two numbers, tensors or shapes."""

    def apply(x: Inputs, _: Attributes) -> Any:  # noqa: ANN401
        if isinstance(x[0], list) or isinstance(x[1], list):
            one, other = (value if isinstance(value, list) else [value] for value in x)
            count = max(len(one), len(other))
            return [
                function(a, b) for a, b in zip(one * (count // len(one)), other * (count // len(other)), strict=True)
            ]
        return function(x[0], x[1])

    return apply


def _cast(x: Inputs, attributes: Attributes) -> Any:  # noqa: ANN401
    return x[0] if isinstance(x[0], list | int) else x[0].to(_TYPES[attributes["to"]])


def _axes(x: Inputs, attributes: Attributes) -> list[int] | None:
    found = x[1] if len(x) > 1 else attributes.get("axes")
    return [found] if isinstance(found, int) else found


def _unsqueeze(x: Inputs, attributes: Attributes) -> Any:  # noqa: ANN401
    if isinstance(x[0], int | torch.SymInt):
        return [x[0]]
    for axis in sorted(_axes(x, attributes) or []):
        x = [x[0].unsqueeze(axis)]
    return x[0]


def _squeeze(x: Inputs, attributes: Attributes) -> Any:  # noqa: ANN401
    if isinstance(x[0], list):
        return x[0][0]
    axes = _axes(x, attributes)
    return x[0].squeeze() if axes is None else x[0].squeeze(tuple(axes))


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def apply(x: Inputs, attributes: Attributes) -> Tensor:
        axes = _axes(x, attributes) or list(range(x[0].dim()))
        return function(x[0], axes, bool(attributes.get("keepdims", 1)))

    return apply


def _padded(image: Tensor, attributes: Attributes, fill: float = 0.0) -> tuple[Tensor, Any]:
    """Return the image and the padding that torch's own operator can do; what it cannot is done here."""
    pads = attributes.get("pads")
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or not pads:
        return image, 0
    half = len(pads) // 2
    if pads[:half] == pads[half:]:
        return image, tuple(pads[:half])
    order = [number for axis in reversed(range(half)) for number in (pads[axis], pads[axis + half])]
    return fn.pad(image, order, value=fill), 0


def _convolve(x: Inputs, attributes: Attributes) -> Tensor:
    image, padding = _padded(x[0], attributes)
    kernel, bias = x[1], x[2] if len(x) > 2 else None
    stride, dilation = (tuple(attributes.get(name, (1, 1))) for name in ("strides", "dilations"))
    return fn.conv2d(image, kernel, bias, stride, padding, dilation, attributes.get("group", 1))


def _max_pool(x: Inputs, attributes: Attributes) -> Tensor:
    image, padding = _padded(x[0], attributes, float("-inf"))
    size, stride, dilation = (tuple(attributes.get(name, (1, 1))) for name in ("kernel_shape", "strides", "dilations"))
    return fn.max_pool2d(image, size, stride, padding, dilation, bool(attributes.get("ceil_mode", 0)))


def _average_pool(x: Inputs, attributes: Attributes) -> Tensor:
    size, stride = (tuple(attributes.get(name, (1, 1))) for name in ("kernel_shape", "strides"))
    image, padding = _padded(x[0], attributes)
    ceil, whole = (bool(attributes.get(name, 0)) for name in ("ceil_mode", "count_include_pad"))
    return fn.avg_pool2d(image, size, stride, padding, ceil, whole)


def _reshape(x: Inputs, attributes: Attributes) -> Any:  # noqa: ANN401
    if isinstance(x[0], list | int):
        return x[0]
    copied = not attributes.get("allowzero", 0)
    shape = [
        x[0].shape[axis] if copied and isinstance(size, int) and size == 0 else size for axis, size in enumerate(x[1])
    ]
    return x[0].reshape(shape)


def _expand(x: Inputs, _: Attributes) -> Tensor:
    # ONNX lets a 1 stand for what the input has already.
    missing = len(x[1]) - x[0].dim()
    own = [1] * max(missing, 0) + list(x[0].shape)
    wanted = [1] * max(-missing, 0) + list(x[1])
    sizes = [have if isinstance(size, int) and size == 1 else size for have, size in zip(own, wanted, strict=True)]
    expanded: Tensor = x[0].expand(sizes)
    return expanded


def _shape(x: Inputs, attributes: Attributes) -> list[int]:
    return list(x[0].shape)[attributes.get("start", 0) : attributes.get("end")]


def _slice(x: Inputs, _: Attributes) -> Any:  # noqa: ANN401
    data, starts, ends = x[:3]
    axes = x[3] if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = x[4] if len(x) > 4 and x[4] is not None else [1] * len(starts)
    if isinstance(data, list):
        return data[starts[0] : ends[0] : steps[0]]
    whole = [slice(None)] * data.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # Beyond any size is ONNX's way to say: to the end.
        whole[axis] = slice(start, None if isinstance(end, int) and end > 1 << 31 else end, step)
    return data[tuple(whole)]


def _gather(x: Inputs, attributes: Attributes) -> Any:  # noqa: ANN401
    data, places, axis = x[0], x[1], attributes.get("axis", 0)
    if isinstance(data, list):
        return [data[place] for place in places] if isinstance(places, list) else data[places]
    if isinstance(places, int):
        return data.select(axis, places)
    index = torch.tensor(places, dtype=torch.int64) if isinstance(places, list) else places
    index = index.to(data.device)
    found = data.index_select(axis, index.reshape(-1))
    return found.reshape(*data.shape[:axis], *index.shape, *data.shape[axis % data.dim() + 1 :])


def _gather_nd(x: Inputs, _: Attributes) -> Tensor:
    found: Tensor = x[0][tuple(x[1].unbind(-1))]
    return found


def _concat(x: Inputs, attributes: Attributes) -> Any:  # noqa: ANN401
    if isinstance(x[0], list):
        return [size for part in x for size in part]
    return torch.cat(list(x), attributes["axis"])


def _split(x: Inputs, attributes: Attributes) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    if len(x) > 1 and x[1] is not None:
        return tuple(x[0].split(x[1], axis))
    return tuple(x[0].chunk(attributes["num_outputs"], axis))


def _clip(x: Inputs, _: Attributes) -> Tensor:
    low, high = (x[place] if len(x) > place else None for place in (1, 2))
    clipped: Tensor = x[0]
    if low is not None:
        clipped = torch.maximum(clipped, low)
    return clipped if high is None else torch.minimum(clipped, high)


def _gemm(x: Inputs, attributes: Attributes) -> Tensor:
    one = x[0].t() if attributes.get("transA") else x[0]
    other = x[1].t() if attributes.get("transB") else x[1]
    product: Tensor = attributes.get("alpha", 1.0) * (one @ other)
    return product if len(x) < 3 else product + attributes.get("beta", 1.0) * x[2]


def _layer_norm(x: Inputs, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", -1) % x[0].dim()
    bias = x[2] if len(x) > 2 else None
    return fn.layer_norm(x[0], x[0].shape[axis:], x[1], bias, attributes.get("epsilon", 1e-5))


def _batch_norm(x: Inputs, attributes: Attributes) -> Tensor:
    return fn.batch_norm(x[0], x[3], x[4], x[1], x[2], False, 0.0, attributes.get("epsilon", 1e-5))


def _gelu(x: Inputs, attributes: Attributes) -> Tensor:
    return fn.gelu(x[0], approximate=attributes.get("approximate", b"none").decode())


def _pad(x: Inputs, attributes: Attributes) -> Tensor:
    if attributes.get("mode", b"constant") != b"constant" or (len(x) > 3 and x[3] is not None):
        raise NotImplementedError("Pad by other than a constant")
    half = len(x[1]) // 2
    order = [number for axis in reversed(range(half)) for number in (x[1][axis], x[1][axis + half])]
    return fn.pad(x[0], order, value=0.0 if len(x) < 3 or x[2] is None else float(x[2]))


def _resize(x: Inputs, attributes: Attributes) -> Tensor:
    mode = {b"cubic": "bicubic", b"linear": "bilinear"}[attributes.get("mode", b"nearest")]
    size = x[3][2:] if len(x) > 3 and x[3] is not None else None
    scale = None if size is not None else [float(value) for value in x[2][2:]]
    if attributes.get("coordinate_transformation_mode", b"half_pixel") != b"half_pixel":
        raise NotImplementedError("Resize by corners")
    return fn.interpolate(
        x[0], size, scale, mode=mode, align_corners=False, antialias=bool(attributes.get("antialias", 0))
    )


OPERATORS: Mapping[str, Operator] = {
    "Add": _same_kind(lambda a, b: a + b),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _convolve,
    "Div": _same_kind(lambda a, b: a / b if isinstance(a, Tensor) else a // b),
    "Erf": lambda x, _: torch.erf(x[0]),
    "Exp": lambda x, _: torch.exp(x[0]),
    "Expand": _expand,
    "Flatten": lambda x, attributes: x[0].flatten(attributes.get("axis", 1)),
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, _: x[0].mean((2, 3), keepdim=True),
    "Greater": lambda x, _: x[0] > x[1],
    "HardSigmoid": lambda x, a: (x[0] * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda x, _: fn.hardswish(x[0]),
    "Identity": lambda x, _: x[0],
    "LayerNormalization": _layer_norm,
    "Log": lambda x, _: x[0].log(),
    "MatMul": lambda x, _: x[0] @ x[1],
    "MaxPool": _max_pool,
    "Mul": _same_kind(lambda a, b: a * b),
    "Pad": _pad,
    "Pow": lambda x, _: x[0] ** x[1],
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "Relu": lambda x, _: x[0].relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda x, _: x[0].sigmoid(),
    "Slice": _slice,
    "Softmax": lambda x, attributes: x[0].softmax(attributes.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda x, _: x[0].sqrt(),
    "Squeeze": _squeeze,
    "Sub": _same_kind(lambda a, b: a - b),
    "Sum": lambda x, _: sum(x[1:], start=x[0]),
    "Tanh": lambda x, _: x[0].tanh(),
    "Transpose": lambda x, attributes: x[0].permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""By the name that ONNX gives it."""
