"""Bring a known set into a folder, or say how to do it by hand."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from rentgen.data.catalog import Client, DataSet, Published
from rentgen.data.download import Patience, download
from rentgen.data.published import films_in, write_labels
from rentgen.data.unpack import unpack
from rentgen.errors import DataError, MissingExtraError, PeerError, SettingError
from rentgen.images import phantom

SOURCE_NAME = "SOURCE.txt"
"""Says, beside the films, what they are and on what terms; its first line is the name of the set."""


class KaggleClient(Protocol):
    """What is used of kagglehub; both methods continue what broke off, and return the folder that was filled."""

    def dataset_download(self, handle: str) -> str:
        """Fetch a data set."""

    def competition_download(self, handle: str) -> str:
        """Fetch the data of a competition."""


@dataclass(frozen=True, slots=True)
class GetOptions:
    """What `get` may be told.

    Attributes:
        finding: one finding against the rest, for sets with a published table of findings.
        films: to draw of a generated set: of each class, or in all where a film may have several findings.
        seed: of a generated set.
        dicom: draw DICOM files instead of PNG.
        patience: with servers.
    """

    finding: str | None = None
    films: int = 200
    seed: int = 0
    dicom: bool = False
    patience: Patience = field(default_factory=Patience)


def get(
    data_set: DataSet,
    directory: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    options: GetOptions | None = None,
    client: KaggleClient | None = None,
) -> Path:
    """Return what to give to `rentgen train`: the folder, or its `labels.csv`, of a fetched set.

    What already lies in the folder is not fetched again: films, or the one zip that a person put there.

    Args:
        data_set: from the catalogue.
        directory: made if need be; holds one set only.
        progress: called with what is done and what there is to do (0 where unknown): bytes, or films that are drawn.
        options: the defaults if None.
        client: stands for kagglehub.

    Raises:
        PeerError: the set could not be had; the message says how to fetch it by hand.
        MissingExtraError: kagglehub is needed and not installed.
        DataError: an archive is unsafe or broken, or published labels are missing.
        SettingError: the folder holds another set, or the set has no such finding.
    """
    options = options or GetOptions()
    directory.mkdir(parents=True, exist_ok=True)
    source = directory / SOURCE_NAME
    owner = source.read_text(encoding="utf-8").partition("\n")[0] if source.exists() else data_set.name
    if owner != data_set.name:
        raise SettingError(f"Expected an empty folder for {data_set.name!r}, but {directory} holds {owner!r}.")
    if next(films_in(directory), None) is None:
        try:
            _bring(data_set, directory, progress, options, client)
        except PeerError as error:
            raise PeerError(f"{error}\n\n{by_hand(data_set, directory)}") from error
    facts = (data_set.name, data_set.title, data_set.page or "", data_set.licence, data_set.citation)
    source.write_text("\n".join(facts) + "\n", encoding="utf-8")
    return write_labels(data_set, directory, finding=options.finding) or directory


def by_hand(data_set: DataSet, directory: Path) -> str:
    """Return, as numbered lines, how a person with a browser brings a set into a folder."""
    ready = directory if data_set.published is Published.FOLDERS else directory / "labels.csv"
    kind = "competitions" if data_set.client is Client.KAGGLE_COMPETITION else "datasets"
    kaggle = f"https://www.kaggle.com/{kind}/{data_set.handle}"
    last = [f"Then go on with: rentgen train {ready} --out {data_set.name}.rentgen"]
    if data_set.file is not None:
        size = f" (about {data_set.approx_bytes / 1e9:.1f} GB)" if data_set.approx_bytes else ""
        steps = [f"Open {data_set.page} in a browser.", f"Fetch {data_set.file.name}{size}."]
        if data_set.handle:
            last.append(f"The same films are at {kaggle} too.")
    else:
        steps = [f"Open {kaggle} in a browser and sign in."]
        if data_set.client is Client.KAGGLE_COMPETITION:
            steps.append(f"Accept the rules at {kaggle}/rules.")
        steps.append("Download everything as one zip.")
        last.append(
            "To let Rentgen fetch it: make an API token at https://www.kaggle.com/settings/api and put it into the"
            " file ~/.kaggle/access_token or the environment variable KAGGLE_API_TOKEN."
        )
    steps += [f"Put it into {directory}, packed as it is.", f"Run: rentgen data get {data_set.name} {directory}"]
    return "\n".join(["By hand:", *(f"{number}. {step}" for number, step in enumerate(steps, 1)), *last])


def _bring(
    data_set: DataSet,
    directory: Path,
    progress: Callable[[int, int], None] | None,
    options: GetOptions,
    client: KaggleClient | None,
) -> None:
    """Fill a hidden folder and show it when it is complete, so that a broken run leaves no half set."""
    films, stage = directory / "films", directory / ".films.part"
    if films.exists():
        raise DataError(f"Expected films in {films}, but there are none. Delete it, or choose an empty folder.")
    placed = sorted(directory.glob("*.zip"))
    if len(placed) > 1:
        raise DataError(f"Expected at most one zip in {directory}, but got {', '.join(zip.name for zip in placed)}.")
    archive = placed[0] if placed else None
    if data_set.file is not None and (archive is None or archive.name == data_set.file.name):
        archive = download(data_set.file, directory, progress=progress, patience=options.patience)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        if data_set.client is Client.GENERATED:
            rng = np.random.default_rng(options.seed)
            draw = phantom.write_table if data_set.published is Published.FINDINGS else phantom.write_set
            draw(stage, films=options.films, rng=rng, dicom=options.dicom, progress=progress)
        elif archive is not None:
            unpack(archive, stage, progress=progress)
        else:
            _from_kaggle(data_set, stage, client or _kagglehub())
        if next(films_in(stage), None) is None:
            raise PeerError(f"Expected films of {data_set.title}, but none came.")
        stage.replace(films)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    if archive is not None and not placed:
        archive.unlink()


def _kagglehub() -> KaggleClient:
    try:
        return cast(KaggleClient, importlib.import_module("kagglehub"))
    except ImportError as error:
        raise MissingExtraError("kagglehub", "download", "fetching from Kaggle") from error


def _from_kaggle(data_set: DataSet, stage: Path, client: KaggleClient) -> None:
    competition = data_set.client is Client.KAGGLE_COMPETITION
    fetch = client.competition_download if competition else client.dataset_download
    try:
        came = fetch(str(data_set.handle))
    except Exception as error:  # kagglehub's errors, requests' and its SDK's have no common root
        raise PeerError(f"Kaggle did not give {data_set.handle}: {type(error).__name__}: {error}") from error
    shutil.copytree(came, stage, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """Spare the disk a second copy of what lies in kagglehub's cache; another disk needs one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
