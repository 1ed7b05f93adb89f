"""Several processes that train one network: what each needs of the others, by torch.distributed.

A step's films are shared out among them, and everything that a loss, a statistic or a decision is made of is put
together again, so that what comes out does not depend on how many they are. Alone, nothing of this costs anything.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from rentgen.parallel.pool import Seat
from rentgen.records import Int64


class Crew:
    """The processes, seen from one of them.

    Args:
        seat: whose place this process has.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._network: nn.Module | None = None
        self._open: tuple[bool, ...] = ()

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells for all."""
        return self._seat.rank == 0

    def rows(self, count: int) -> Int64:
        """Return which of so many films are this process's: as many as another's, or one more or less, in order."""
        return np.array_split(np.arange(count), self._seat.size)[self._seat.rank]

    def join(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are the mean over all processes; to be asked for in every step."""
        if self._seat.size == 1:
            return model
        free = tuple(parameter.requires_grad for parameter in model.parameters())
        if self._network is None or free != self._open:
            # torch looks at what trains only once, and the hooks of the one before must be gone.
            self._network = None
            gc.collect()
            self._network = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
            self._open = free
        return self._network

    def gather(self, own: Tensor, count: int) -> Tensor:
        """Return the rows of all processes (count, ...) in order, on the CPU.

        Args:
            own: this process's, as many as `rows` says.
            count: of all.
        """
        if self._seat.size == 1:
            return own.cpu()
        device = _device()
        most = -(-count // self._seat.size)
        padded = torch.zeros((most, *own.shape[1:]), dtype=own.dtype, device=device)
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(self._seat.size)]
        distributed.all_gather(found, padded)
        lengths = [len(rows) for rows in np.array_split(np.arange(count), self._seat.size)]
        return torch.cat([rows[:length] for rows, length in zip(found, lengths, strict=True)]).cpu()

    def scale(self, own: Tensor, whole: Tensor) -> Tensor | float:
        """Return what this process's loss is multiplied by, that the mean of the gradients be that of all films.

        Args:
            own: what the loss of its films was divided by.
            whole: what that of all films is divided by.
        """
        return 1.0 if self._seat.size == 1 else self._seat.size * own / whole

    def over(self) -> bool:
        """Return whether time is over, as the leading process sees it."""
        over = self._seat.over is not None and self.leads and self._seat.over()
        if self._seat.size == 1:
            return over
        told = torch.tensor([over], dtype=torch.int64, device=_device())
        distributed.broadcast(told, 0)
        return bool(told.item())

    def statistics(self) -> AbstractContextManager[Any]:
        """Return the context in which batch norms see the films of all processes."""
        return nullcontext() if self._seat.size == 1 else _SharedStatistics()


def _device() -> torch.device:
    """Return where this process's messages must lie."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


class _SharedStatistics(TorchFunctionMode):
    """Batch norm over the films of all processes (torch.nn.SyncBatchNorm, which knows no CPU), in any network."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    films: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return `torch.nn.functional.batch_norm` of (N, C, ...), its statistics of all processes' N."""
    if not training:
        return functional.batch_norm(films, running_mean, running_var, weight, bias, False, momentum, eps)
    over = [axis for axis in range(films.ndim) if axis != 1]
    shape = [1, -1, *[1] * (films.ndim - 2)]
    values = films.float()
    own = torch.cat([values.sum(over), values.new_tensor([values.numel() / values.shape[1]])])
    total: Tensor = _Sum.apply(own)
    count = total[-1].detach()
    mean = total[:-1] / count
    centred = values - mean.view(shape)
    # About the mean of all, not by the mean of squares: those lose what is small.
    variance: Tensor = _Sum.apply(centred.square().sum(over)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    normal = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normal = normal * weight.float().view(shape)
    if bias is not None:
        normal = normal + bias.float().view(shape)
    return normal.to(films.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ANN401
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return _Sum.forward(ctx, gradient.contiguous())
