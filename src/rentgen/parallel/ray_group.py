"""One piece of work by several processes of Ray Train, which share torch.distributed.

Ray Train places them, sets their group up, sees whether all of them have the folder, and begins the group again when a
process dies. What they say on the way goes over a board, an actor that asks for no processor: the driver may stand
outside of the cluster.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rentgen.errors import RentgenError, SettingError
from rentgen.parallel.pool import Seat
from rentgen.parallel.versions import check_same
from rentgen.records import Progress

POLL_SECONDS = 0.2
NOTES = ".ray"
"""Ray Train's own notes on a run, in the folder that all processes see; removed when it is over."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What is to be done together.

    Attributes:
        run: the work, given a seat; None where it travels by itself.
        folder: that all processes must see.
        processes: how many; None for one a GPU, or one a node where there is none.
        alone: whether Ray was started here, for this.
        versions: the driver's.
        retries: how often the group is begun again.
    """

    run: Callable[[Seat], None] | None
    folder: Path
    processes: int | None
    alone: bool
    versions: Mapping[str, str]
    retries: int


class _Board:
    """What the leading process and the driver tell each other."""

    def __init__(self) -> None:
        self._news: tuple[str, int, int, str] | None = None
        self._error: RentgenError | None = None
        self._over = False

    def tell(self, stage: str, done: int, total: int, note: str) -> None:
        """Take what the leading process says."""
        self._news = (stage, done, total, note)

    def fail(self, error: RentgenError) -> None:
        """Take what a process raised; the first is told."""
        self._error = self._error or error

    def read(self, over: bool) -> tuple[tuple[str, int, int, str] | None, RentgenError | None]:
        """Return what was said last, and what was raised."""
        self._over = over
        return self._news, self._error

    def over(self) -> bool:
        """Return whether time is over."""
        return self._over


def lead(order: Order, progress: Progress | None, over: Callable[[], bool] | None) -> None:
    """Have it done, and come back when it is.

    Raises:
        RentgenError: whatever the work raised.
        SettingError: there are not so many places.
    """
    import ray

    processes, share = _places(order.processes, ray.nodes())
    # Films lie in the object store once for each node, not once for each process.
    work = ray.put(order.run)
    board = ray.remote(num_cpus=0)(_Board).remote()
    fit = ray.remote(num_cpus=0, max_retries=0)(_fit)
    fitted = fit.remote(replace(order, run=None), [work], processes, share, board)
    told = None
    try:
        while True:
            done, _ = ray.wait([fitted], timeout=POLL_SECONDS)
            news, error = ray.get(board.read.remote(over is not None and over()))
            if error is not None:
                raise error
            if progress is not None and news is not None and news != told:
                told = news
                progress(*news)
            if done:
                ray.get(fitted)
                return
    finally:
        # The work's processes belong to the one that leads them, and end with it.
        ray.cancel(fitted, force=True)
        ray.kill(board)
        shutil.rmtree(order.folder / NOTES, ignore_errors=True)


def _places(wanted: int | None, nodes: list[dict[str, Any]]) -> tuple[int, dict[str, float]]:
    """Return how many processes there are, and what each asks of its node.

    Raises:
        SettingError: the nodes have fewer places.
    """
    have = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    gpus = sum(int(node.get("GPU", 0)) for node in have)
    kind = "GPU" if gpus else "CPU"
    count = wanted or gpus or max(1, len(have))
    if gpus:
        return _checked(count, gpus, kind), {"GPU": 1, "CPU": 1}
    # As many processors for each as the nodes can give all of them.
    most = max((int(node["CPU"]) for node in have), default=1)
    for cpus in range(most, 0, -1):
        if sum(int(node["CPU"]) // cpus for node in have) >= count:
            return count, {"CPU": cpus}
    return _checked(count, sum(int(node["CPU"]) for node in have), kind), {"CPU": 1}


def _checked(count: int, places: int, kind: str) -> int:
    if count > places:
        raise SettingError(
            f"Expected at most {places} processes, as the cluster has {places} {kind}s, but got {count}."
        )
    return count


def _fit(order: Order, work: list[Any], processes: int, share: Mapping[str, float], board: Any) -> None:  # noqa: ANN401
    """Lead the group, inside of the cluster."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # Gloo would take the interface of the host's name, which others may reach.
    inside = {"env_vars": {"GLOO_SOCKET_IFNAME": "lo"}} if order.alone and sys.platform == "linux" else {}
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    TorchTrainer(
        _take_seat,
        train_loop_config={"order": order, "work": work, "board": board},
        scaling_config=ScalingConfig(num_workers=processes, use_gpu="GPU" in share, resources_per_worker=dict(share)),
        run_config=RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(order.folder / NOTES),
            failure_config=FailureConfig(max_failures=order.retries),
            worker_runtime_env=inside,
        ),
    ).fit()


def _take_seat(config: Mapping[str, Any]) -> None:
    """Do the work as one of the group."""
    import ray
    from ray import train

    order, board = config["order"], config["board"]
    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        board.tell.remote(stage, done, total, note)

    def over() -> bool:
        return bool(ray.get(board.over.remote()))

    try:
        check_same(order.versions)
        ray.get(config["work"][0])(Seat(rank, size, tell if rank == 0 else None, over))
    except RentgenError as error:
        ray.get(board.fail.remote(error))
        raise
