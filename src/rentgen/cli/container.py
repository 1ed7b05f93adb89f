"""The container's entry point: `rentgen-container [serve|train]`, as Vertex AI, SageMaker and Azure call it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rentgen.cli.listening import listen
from rentgen.deploy import storage
from rentgen.deploy.environment import ServeEnvironment, find_bundles, read_serve, serve_options
from rentgen.deploy.films import gather
from rentgen.deploy.job import TrainEnvironment, read_train, reason
from rentgen.errors import DataError, MissingExtraError, RentgenError, SettingError

if TYPE_CHECKING:
    from google.cloud.storage import Client

    from rentgen.service.cloud import CloudRoutes

ROOT = "RENTGEN_ROOT"
"""Variable with the folder that stands for `/`: `rentgen deploy check` lays a platform's folders out below it."""
MAX_MODEL_BYTES = 4 << 30
MAX_DATA_BYTES = 1 << 40
STOPPED = 128 + signal.SIGTERM
USAGE = "Expected: rentgen-container [serve [--model-dir DIR] | train [--data DATA] [--out FILE] [--OPTION VALUE ...]]"


def main() -> None:
    """Serve or train as the platform says. Exit codes: 0 done, 1 failed, 2 wrong use, 143 stopped while training."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    arguments = sys.argv[1:]
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "serve"
    root = Path(os.environ.get(ROOT) or "/")
    if command == "serve":
        serve(arguments, os.environ, root)
    elif command == "train":
        sys.exit(train(arguments, os.environ, root))
    else:
        _say(USAGE)
        sys.exit(2)


def serve(arguments: Sequence[str], environ: Mapping[str, str], root: Path) -> None:
    """Answer until a signal says stop.

    Args:
        arguments: nothing, or `--model-dir DIR`.
        environ: environment variables.
        root: of the file system; `/` but in tests.
    """
    try:
        found = read_serve(environ, root, model_dir=_model_dir(arguments))
        options = serve_options(found, environ)
        with contextlib.ExitStack() as stack:
            # Before anything large is imported or fetched: who connects now waits a moment instead of being refused.
            listener = stack.enter_context(listen(str(options["host"]), found.port))
            if found.storage_uri is not None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rentgen-model-")))
                options["models"] = fetch_models(found.storage_uri, folder)
            from rentgen.cli.serve import run
            from rentgen.settings import load

            run(load(**options), routes_of(found), listener)
    except ModuleNotFoundError as error:
        _fail(str(MissingExtraError(error.name or "", "service", "the service")))
    except RentgenError as error:
        _fail(str(error))


def routes_of(found: ServeEnvironment) -> CloudRoutes:
    """Return where the platform asks, as the service takes it."""
    from rentgen.service.cloud import CloudRoutes

    batch = {} if found.concurrent is None else {"batch": found.concurrent}
    payload = {} if found.max_payload_mb is None else {"max_payload_mb": found.max_payload_mb}
    return CloudRoutes(health=found.health, predict=found.predict, **batch, **payload)


def fetch_models(uri: str, folder: Path) -> tuple[str, ...]:
    """Return the bundles of a gs:// place, as files on this machine.

    Raises:
        PeerError: the storage refused or failed, or it holds far more than models.
        BundleError: it holds no bundle.
    """
    storage.download(storage.connect(), uri, folder, limit_bytes=MAX_MODEL_BYTES, suffix=".rentgen")
    return tuple(map(str, find_bundles(folder)))


def train(arguments: Sequence[str], environ: Mapping[str, str], root: Path) -> int:
    """Train, leave bundle and report where the platform looks, and return the exit code.

    Args:
        arguments: `--data`, `--out` and options of `rentgen train`.
        environ: environment variables.
        root: of the file system; `/` but in tests.
    """
    signal.signal(signal.SIGTERM, _stop)
    failure = root / "opt/ml/output/failure"
    sources: Mapping[str, str] = {}
    try:
        found = read_train(environ, root, arguments)
        sources = found.sources
        if not found.leads:
            _say("Another machine of this job trains: one is enough.")
            return 0
        run_job(found)
    except RentgenError as error:
        told = reason(error, sources)
    except OSError as error:
        told = f"{error.strerror or type(error).__name__}. Check the places, the permissions and the free space."
    except Exception as error:
        # The process's edge: a text that is not ours may name a patient, so only its kind and its place are told.
        traceback.print_tb(error.__traceback__)
        told = f"Unexpected {type(error).__name__}; the log says where."
    else:
        return 0
    _say(f"Error: {told}")
    if failure.parent.is_dir():
        failure.write_text(told, encoding="utf-8")
    return 1


def run_job(found: TrainEnvironment) -> None:
    """Train as `rentgen train` does, with films, checkpoints and results where the platform has them.

    Raises:
        RentgenError: as of training; MissingExtraError where torch is not installed.
    """
    from rentgen.cli import train

    connect = cache(storage.connect)
    with tempfile.TemporaryDirectory(prefix="rentgen-job-") as scratch, contextlib.ExitStack() as stack:
        fetch = _fetcher(connect, Path(scratch) / "fetched")
        data = gather(found.sources, Path(scratch) / "set", fetch)
        checkpoints = Path(found.checkpoints)
        if found.checkpoints.startswith("gs://"):
            checkpoints = Path(scratch) / "checkpoints"
            stack.enter_context(storage.Mirror(connect(), checkpoints, found.checkpoints))
        places = {place: _local(place, Path(scratch)) for place in (found.out, found.report)}
        weights = found.options.get("weights")
        licence = found.options.get("licence")
        # The options are strings and numbers of a job; `train` checks each as if it were typed.
        train.train(
            data=data,
            destination=places[found.out],
            report=places[found.report],
            cache=checkpoints,
            weights=str(fetch(str(weights))) if str(weights).startswith("gs://") else weights,  # type: ignore[arg-type]
            licence=[str(licence)] if licence else None,
            **{name: found.options[name] for name in _PASSED if name in found.options},  # type: ignore[arg-type]
        )
        for place, local in places.items():
            if place.startswith("gs://"):
                storage.upload(connect(), local, place)
        if found.logs is not None:
            _write_curves(places[found.out], found.logs, Path(scratch), connect)


_PASSED = ("recipe", "backbone", "epochs", "seed", "patient_pattern")


def _write_curves(bundle: Path, logs: str, scratch: Path, connect: Callable[[], Client]) -> None:
    """Leave the curves for TensorBoard."""
    from rentgen.bundle import read
    from rentgen.tracking.events import events, file_name

    now = time.time()
    folder = scratch / "curves" if logs.startswith("gs://") else Path(logs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file_name(now)).write_bytes(events(read(bundle).card.history.parts, now))
    if logs.startswith("gs://"):
        storage.upload(connect(), folder, logs)


def _fetcher(connect: Callable[[], Client], folder: Path) -> Callable[[str], Path]:
    """Return what gives the local path of a gs:// place, or of a pattern; each is fetched once."""

    @cache
    def fetch(uri: str) -> Path:
        bucket, name = storage.split_uri(uri)
        pattern = "*" in name
        own = folder / bucket / (Path(name).parent if pattern else name)
        files = storage.download(connect(), uri, own, limit_bytes=MAX_DATA_BYTES)
        if not files:
            raise DataError("A gs:// source of films or weights is empty or not there.")
        local = own / Path(name).name
        return local if pattern or files == (local,) else own

    return fetch


def _local(place: str, scratch: Path) -> Path:
    return scratch / "made" / Path(place).name if place.startswith("gs://") else Path(place)


def _model_dir(arguments: Sequence[str]) -> Path | None:
    words = [part for word in arguments for part in word.split("=", 1)]
    if not words:
        return None
    if len(words) != 2 or words[0] != "--model-dir":
        raise SettingError(f"{USAGE}, but got {' '.join(arguments)}.")
    return Path(words[1])


def _stop(*_: object) -> NoReturn:
    # Ends training from within, so that what is kept elsewhere is put there before the platform's patience ends.
    sys.exit(STOPPED)


def _fail(message: str) -> NoReturn:
    _say(f"Error: {message}")
    sys.exit(1)


def _say(text: str) -> None:
    # A platform collects lines of standard error; the terminal of the other commands is not loaded here.
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
