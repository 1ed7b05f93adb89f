"""A model that has learned nothing, of the same make: what its heat maps show, no training put there.

Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018.
"""

from __future__ import annotations

import numpy as np

from rentgen.errors import BundleError, MissingExtraError

try:
    import onnx
    from onnx import TensorProto, numpy_helper
except ImportError as error:
    raise MissingExtraError(error.name or "onnx", "train", "randomising a model's weights") from error

SMALL = 64
"""Numbers up to which a vector is left alone: means, scales and shapes of the input among them."""
_NUMBERS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    | {TensorProto.INT8, TensorProto.UINT8}
)
"""Types of weights; whole numbers of 32 and 64 bits are shapes and axes."""


def randomise(model: bytes, rng: np.random.Generator) -> bytes:
    """Return an ONNX graph whose weights are shuffled within each tensor: the same numbers, in no order.

    Args:
        model: ONNX, its weights inside; of any floating type.
        rng: decides the order.

    Raises:
        BundleError: it is not ONNX, or has no weights.
    """
    try:
        graph = onnx.load_model_from_string(model)
    # protobuf's own class of error has no types, and is not onnx's to promise.
    except Exception as error:
        raise BundleError("The model's graph is not ONNX, or is damaged. Fetch or train the bundle anew.") from error
    shuffled = 0
    for tensor in graph.graph.initializer:
        if tensor.data_type not in _NUMBERS:
            continue
        weights = numpy_helper.to_array(tensor)
        if weights.ndim < 2 and weights.size <= SMALL:
            continue
        mixed = rng.permutation(weights.ravel()).reshape(weights.shape)
        tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
        shuffled += 1
    if not shuffled:
        raise BundleError("Expected a graph with weights among its initializers, but there are none to shuffle.")
    randomised: bytes = graph.SerializeToString()
    return randomised
