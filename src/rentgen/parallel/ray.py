"""The same pool on Ray: a pipeline of Ray Data whose workers open their state once and whose results keep order.

What several do together is Ray Train's (`ray_group`).

Ray schedules, restarts and retries; this file only says what. A worker that dies is started again and its items are
given out anew (at most `TASK_RETRIES` times each, so that a film that kills every worker ends the run); results that
nobody has taken yet are bounded by Ray's object store, and workers wait when it is full. What the work itself raises
is a result like another: it is raised in the driver, where that of its item would have been yielded.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import platform
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rentgen.errors import MissingExtraError, PeerError
from rentgen.parallel.local import cores
from rentgen.parallel.pool import Seat, Work
from rentgen.parallel.ray_group import Order, lead
from rentgen.parallel.versions import TAUGHT, check_same, own_versions
from rentgen.records import Progress

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

LOCAL = "local"
"""The address that starts Ray on this machine instead of joining a cluster."""
TASK_RETRIES = 3
MAX_BLOCKS = 10_000
"""Items travel in so many parcels at most; the driver keeps a reference to each."""
BLOCK_BYTES = 4 << 20
"""Results travel in parcels of about so much."""
LED_ROWS = 8
"""Results that a driver outside of the cluster asks for at a time."""


def connect(address: str = LOCAL) -> None:
    """Start Ray on this machine, or join a cluster; where this process has Ray already, nothing happens.

    What is started here listens on loopback alone, wants a token that was made for it, reports nothing to anybody and
    ends with this process.

    Args:
        address: `local`; `auto`, the cluster that this machine is part of; `ray://HOST:10001`; or HOST:PORT.

    Raises:
        MissingExtraError: Ray is not installed.
        PeerError: there is no such cluster, or Ray did not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        _close_doors()
    ray = _import()
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == LOCAL:
        options |= {"num_cpus": cores(), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        told = str(error).strip().splitlines()
        raise PeerError(f"Ray at {address!r} refused or failed: {told[0] if told else type(error).__name__}") from error


def _close_doors() -> None:
    """Let a Ray that is started here listen on loopback alone, and to nobody without a token.

    Without this its ports are open on every interface. Ray reads these when it is imported; where somebody imported it
    already, whether it wants a token is theirs to say.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    constants = sys.modules.get("ray._private.ray_constants")
    if constants is not None:
        vars(constants)["ENABLE_RAY_CLUSTER"] = False
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray Data's own actors make Ray write a line of level ERROR at every start.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@dataclass(frozen=True, slots=True)
class Ray:
    """The workers of Ray.

    Attributes:
        address: as of `connect`, which is called when the first work comes.
        store_bytes: bound on the results in Ray's object store that nobody has taken yet; Ray's own by default.
        processes: that do one piece of work together; one for each GPU by default, or for each node without any.
    """

    address: str = LOCAL
    store_bytes: int | None = None
    processes: int | None = None

    @property
    def inside(self) -> bool:
        """Return whether this process is one of the cluster's own, and may lead what Ray leads from there."""
        return not self.address.startswith("ray://")

    def map(self, work: Work[S, T, R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result for each item, in order; all items are drawn before the first.

        Raises:
            MissingExtraError: Ray is not installed, here or there.
            PeerError: Ray failed, or a worker has other versions, does not see the films or died again and again.
        """
        parcels = [{"item": _Parcel(item)} for item in items]
        if not parcels:
            return
        connect(self.address)
        import ray

        pipeline = _led_there if ray.util.client.ray.is_connected() else _pipeline
        with _translated(self.address):
            rows = pipeline(_Order(replace(work, here=None), os.getcwd(), own_versions(), self.store_bytes), parcels)
            try:
                for row in rows:
                    yield _unpack(row["result"])
            finally:
                rows.close()

    def together(
        self,
        run: Callable[[Seat], None],
        folder: Path,
        *,
        progress: Progress | None = None,
        over: Callable[[], bool] | None = None,
    ) -> None:
        """Do one piece of work in several processes of Ray Train, begun again by it where one dies.

        Raises:
            MissingExtraError: Ray is not installed, here or there.
            PeerError: Ray failed, a worker has other versions or does not see the folder, or one died again and again.
            SettingError: the cluster has fewer places than `processes`.
        """
        connect(self.address)
        order = Order(run, folder.absolute(), self.processes, self.address == LOCAL, own_versions(TAUGHT), TASK_RETRIES)
        with _translated(self.address):
            lead(order, progress, over)


@dataclass(frozen=True, slots=True, eq=False)
class _Parcel:
    """Something that travels as it is: Ray makes columns of what it knows, and tuples come out as lists."""

    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """What a driver wants done, and where and by what it stands itself."""

    work: Work[Any, Any, Any]
    folder: str
    versions: Mapping[str, str]
    store_bytes: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Failure:
    """What the work raised."""

    error: Exception


class _Worker:
    """A process of Ray's with the work's state open in it."""

    def __init__(self, order: _Order) -> None:
        work = order.work
        self._work = work
        self._state: Any = None
        self._failure: Exception | None = None
        try:
            check_same(order.versions)
            if work.folder is not None and not work.folder.is_dir():
                raise PeerError(
                    f"The Ray worker on {platform.node()} does not see the films' folder. Mount it on every node under "
                    "the same path."
                )
            # Relative paths mean the same as in the driver.
            with contextlib.suppress(OSError):
                os.chdir(order.folder)
            self._state = work.open(1)
        except Exception as error:
            # Raised here, Ray would only say that the worker died.
            self._failure = error

    def __call__(self, row: Mapping[str, _Parcel]) -> dict[str, _Parcel | _Failure]:
        if self._failure is not None:
            return {"result": _Failure(self._failure)}
        try:
            return {"result": _Parcel(self._work.run(self._state, row["item"].value))}
        except Exception as error:
            return {"result": _Failure(error)}


def _import() -> Any:  # noqa: ANN401
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "work on Ray") from error
    return ray


def _pipeline(order: _Order, parcels: list[dict[str, _Parcel]]) -> Any:  # noqa: ANN401
    """Return an iterator over the rows of the results, in order."""
    import ray
    from ray.data import ActorPoolStrategy, ExecutionResources

    work = order.work
    blocks = max(1, min(len(parcels) // work.grain, MAX_BLOCKS))
    have = ray.cluster_resources()
    places = int(have.get("GPU", 0) if work.gpus else have.get("CPU", 0)) or 1
    # What ends a run is told by the error that it raises.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # Of Ray's own making its context; and what bounds retries has no other name until 2.64.
        warnings.simplefilter("ignore", DeprecationWarning)
        data = ray.data.from_items(parcels, override_num_blocks=blocks)
        context = data.context
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.enable_fallback_to_arrow_object_ext_type = True
        context.target_max_block_size = BLOCK_BYTES
        context.max_errored_blocks = 0
        context.execution_options.preserve_order = True
        if order.store_bytes is not None:
            context.execution_options.resource_limits = ExecutionResources(object_store_memory=order.store_bytes)
        data = data.map(
            _Worker,
            fn_constructor_args=(order,),
            compute=ActorPoolStrategy(min_size=1, max_size=blocks, initial_size=min(places, blocks)),
            num_cpus=None if work.gpus else 1,
            num_gpus=work.gpus or None,
            max_task_retries=TASK_RETRIES,
        )
        return iter(data.iter_rows())


class _Leader:
    """A process in the cluster that leads a pipeline for a driver outside of it."""

    def __init__(self, order: _Order, parcels: list[dict[str, _Parcel]]) -> None:
        self._rows = _pipeline(order, parcels)

    def take(self) -> list[dict[str, Any]]:
        """Return the next rows; none where there are no more."""
        return list(itertools.islice(self._rows, LED_ROWS))


def _led_there(order: _Order, parcels: list[dict[str, _Parcel]]) -> Any:  # noqa: ANN401
    """Yield the rows of the results, in order, where Ray Data cannot run in this process: behind `ray://`."""
    import ray

    leader = ray.remote(num_cpus=0)(_Leader).remote(order, parcels)
    try:
        while rows := ray.get(leader.take.remote()):
            yield from rows
    finally:
        ray.kill(leader)


def _unpack(result: _Parcel | _Failure) -> Any:  # noqa: ANN401
    if isinstance(result, _Failure):
        raise result.error
    return result.value


@contextlib.contextmanager
def _translated(address: str) -> Iterator[None]:
    """Turn what Ray raises into PeerError."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        told = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise PeerError(f"Work on Ray at {address!r} failed: {type(error).__name__}: {told[:500]}") from error
