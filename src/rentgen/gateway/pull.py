"""Films fetched from a PACS: DICOMweb (QIDO and WADO), DIMSE (C-FIND and C-MOVE), and Orthanc's feed of changes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import httpx
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from rentgen.errors import InputError, PeerError
from rentgen.gateway.associate import associated
from rentgen.gateway.intake import Intake, Taken, is_uid, read_header
from rentgen.gateway.multipart import Limits, Parts, boundary_of
from rentgen.gateway.nouns import Source
from rentgen.gateway.reconcile import Instance
from rentgen.gateway.tls import fault_of
from rentgen.gateway.transport import client_context

_PAGE = 500
_MOST = 50_000
_PENDING = (0xFF00, 0xFF01)
_SUCCESS = 0x0000


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of Orthanc's feed.

    Attributes:
        studies: Orthanc's identifiers of studies that became stable.
        last: sequence number to go on from.
        done: whether it was the last page.
    """

    studies: tuple[str, ...]
    last: int
    done: bool


class DicomWeb:
    """A PACS that speaks DICOMweb. Addresses are built here; those that the peer gives are not followed."""

    def __init__(self, source: Source, *, timeout_s: float = 30.0) -> None:
        """Prepare, without a connection.

        Args:
            source: with a `url`.
            timeout_s: of every exchange.

        Raises:
            SettingError: a certificate cannot be read.
        """
        self._source = source
        self._client = httpx.Client(
            headers=dict(source.headers),
            timeout=timeout_s,
            verify=True if source.tls is None else client_context(source.tls),
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let connections go."""
        self._client.close()

    def find(self, today: date) -> list[Instance]:
        """Return the objects of the last `source.days` days and of today, of the modalities that are fetched.

        Raises:
            PeerError: the peer does not answer, or not as the standard says.
        """
        days = f"{today - timedelta(days=self._source.days):%Y%m%d}-{today:%Y%m%d}"
        found: dict[str, Instance] = {}
        for modality in self._source.modalities:
            for study in self._query("studies", {"StudyDate": days, "ModalitiesInStudy": modality}):
                uid = _value(study, "0020000D")
                if is_uid(uid):
                    found |= {each.sop_instance_uid: each for each in self.instances(uid, modality)}
        return sorted(found.values())

    def probe(self, today: date) -> None:
        """Ask for one study of today, to see whether the peer answers.

        Raises:
            PeerError: it does not, or not as the standard says.
        """
        self._page("studies", {"StudyDate": f"{today:%Y%m%d}", "limit": "1"})

    def instances(self, study: str, modality: str) -> list[Instance]:
        """Return the objects of one modality in a study.

        Raises:
            PeerError: the peer does not answer, or not as the standard says.
        """
        series = [
            _value(each, "0020000E")
            for each in self._query(f"studies/{study}/series", {"Modality": modality})
            if _value(each, "00080060") in (modality, "")
        ]
        return [
            Instance(study, uid, sop)
            for uid in filter(is_uid, series)
            for each in self._query(f"studies/{study}/series/{uid}/instances", {})
            if is_uid(sop := _value(each, "00080018"))
        ]

    def fetch(self, instance: Instance, intake: Intake, *, folder: Path, max_bytes: int = 200_000_000) -> Taken:
        """Fetch one object, in the coding in which the peer has it, and hand it over.

        Args:
            instance: which.
            intake: where it goes.
            folder: on the spool's disk, for the time being.
            max_bytes: of the object.

        Raises:
            PeerError: the peer does not give it, or gives another one.
            InputError: it is no sound DICOM object.
        """
        path = (
            f"studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}"
            f"/instances/{instance.sop_instance_uid}"
        )
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        with tempfile.TemporaryDirectory(dir=folder, prefix="pull-") as place:
            file = Path(place) / "object.dcm"
            with self._said(), self._client.stream("GET", f"{self._source.url}/{path}", headers=accept) as answer:
                self._check(answer)
                _write_part(answer, file, max_bytes)
            header = read_header(file)
            if header.sop_instance_uid != instance.sop_instance_uid:
                raise self._fault("gave another object than it was asked for")
            return intake.receive(file, header, f"pull:{self._source.name}")

    def changes(self, since: int, *, limit: int = 100) -> Changes:
        """Return what Orthanc reports since a sequence number; `source.orthanc_url` says where.

        Raises:
            PeerError: the peer does not answer, or is no Orthanc.
        """
        with self._said():
            answer = self._client.get(f"{self._source.orthanc_url}/changes", params={"since": since, "limit": limit})
            self._check(answer)
            page = answer.json()
        try:
            stable = [each["ID"] for each in page["Changes"] if each["ChangeType"] == "StableStudy"]
            return Changes(tuple(dict.fromkeys(map(str, stable))), int(page["Last"]), bool(page["Done"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._fault("does not answer as Orthanc's /changes does") from error

    def newest_change(self) -> int:
        """Return the sequence number of the last thing that Orthanc reports.

        Raises:
            PeerError: the peer does not answer, or is no Orthanc.
        """
        with self._said():
            answer = self._client.get(f"{self._source.orthanc_url}/changes", params={"last": ""})
            self._check(answer)
            page = answer.json()
        try:
            return int(page["Last"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._fault("does not answer as Orthanc's /changes does") from error

    def study_uid(self, orthanc_id: str) -> str | None:
        """Return the Study Instance UID of a study of Orthanc's, or None where it is gone.

        Raises:
            PeerError: the peer does not answer, or is no Orthanc.
        """
        if not all(letter in "0123456789abcdef-" for letter in orthanc_id):
            raise self._fault("named a study in a way that Orthanc does not")
        with self._said():
            answer = self._client.get(f"{self._source.orthanc_url}/studies/{orthanc_id}")
            if answer.status_code == 404:
                return None
            self._check(answer)
            study = answer.json()
        try:
            uid = str(study["MainDicomTags"]["StudyInstanceUID"])
        except (KeyError, TypeError) as error:
            raise self._fault("does not answer as Orthanc does") from error
        return uid if is_uid(uid) else None

    def _query(self, path: str, wanted: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        for offset in range(0, _MOST, _PAGE):
            page = self._page(path, {**wanted, "limit": str(_PAGE), "offset": str(offset)})
            yield from page
            if len(page) < _PAGE:
                return
        raise self._fault(f"has more than {_MOST} answers; look back fewer days")

    def _page(self, path: str, wanted: Mapping[str, str]) -> list[Mapping[str, Any]]:
        with self._said():
            answer = self._client.get(
                f"{self._source.url}/{path}", params=wanted, headers={"Accept": "application/dicom+json"}
            )
            self._check(answer)
            if answer.status_code == 204:
                return []
            page = answer.json()
        if not isinstance(page, list) or not all(isinstance(each, dict) for each in page):
            raise self._fault("does not answer a query with a list of data sets")
        return page

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code in (401, 403):
            raise self._fault(f"refuses us ({answer.status_code}); check `source.headers`")
        if answer.status_code not in (200, 204):
            raise self._fault(f"answers {answer.status_code}")

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn what can go wrong with HTTP into what the caller knows, without an address that names a study."""
        try:
            yield
        except httpx.HTTPError as error:
            raise self._fault(f"is not reached ({fault_of(error) or type(error).__name__})") from error
        except ValueError as error:
            raise self._fault("answers with something that is no JSON") from error

    def _fault(self, what: str) -> PeerError:
        return PeerError(f"The source {self._source.name!r} {what}.")


class DimseSource:
    """A PACS that is asked by C-FIND, and told by C-MOVE to send to the gateway's own port."""

    def __init__(self, source: Source, *, ae_title: str, timeout_s: float = 30.0) -> None:
        """Prepare, without a connection.

        Args:
            source: with `host`, `port` and `ae_title`.
            ae_title: of the gateway; the peer must know its address.
            timeout_s: of every exchange.
        """
        self._source = source
        self._own_title = ae_title
        self._timeout_s = timeout_s

    def find(self, today: date) -> list[Instance]:
        """Return the objects of the last `source.days` days and of today, of the modalities that are fetched.

        Raises:
            PeerError: the peer does not answer, or fails.
        """
        days = f"{today - timedelta(days=self._source.days):%Y%m%d}-{today:%Y%m%d}"
        found: set[Instance] = set()
        with self._associated(StudyRootQueryRetrieveInformationModelFind) as association:
            for modality in self._source.modalities:
                for study in self._find(association, "STUDY", StudyDate=days, ModalitiesInStudy=modality):
                    found |= self._instances(association, study, modality)
        return sorted(found)

    def move(self, study: str) -> int:
        """Have the peer send a study to the gateway's port, and return how many objects it says it sent.

        Raises:
            PeerError: the peer does not answer, or could not send all.
        """
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "STUDY"
        wanted.StudyInstanceUID = study
        model = StudyRootQueryRetrieveInformationModelMove
        completed = 0
        with self._associated(model) as association:
            for status, _ in association.send_c_move(wanted, self._own_title, model):
                code = status.get("Status")
                completed = int(status.get("NumberOfCompletedSuboperations", None) or completed)
                if code not in (*_PENDING, _SUCCESS):
                    raise self._fault(
                        f"could not send a study (status {_hex(code)}); does it know our AE title {self._own_title!r} "
                        "and port?"
                    )
        return completed

    def _instances(self, association: Association, study: Dataset, modality: str) -> set[Instance]:
        study_uid = str(study.get("StudyInstanceUID", ""))
        found: set[Instance] = set()
        if not is_uid(study_uid):
            return found
        for series in self._find(association, "SERIES", StudyInstanceUID=study_uid, Modality=modality):
            series_uid = str(series.get("SeriesInstanceUID", ""))
            above = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
            for image in self._find(association, "IMAGE", **above) if is_uid(series_uid) else ():
                uid = str(image.get("SOPInstanceUID", ""))
                if is_uid(uid):
                    found.add(Instance(study_uid, series_uid, uid))
        return found

    def _find(self, association: Association, level: str, **wanted: str) -> list[Dataset]:
        query = Dataset()
        query.QueryRetrieveLevel = level
        keys = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
        setattr(query, keys[level], "")
        for keyword, value in wanted.items():
            setattr(query, keyword, value)
        found: list[Dataset] = []
        for status, answer in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            code = status.get("Status")
            if code not in (*_PENDING, _SUCCESS):
                raise self._fault(f"failed a query (status {_hex(code)})")
            if answer is not None:
                found.append(answer)
            if len(found) > _MOST:
                raise self._fault(f"has more than {_MOST} answers; look back fewer days")
        return found

    @contextmanager
    def _associated(self, abstract: str) -> Iterator[Association]:
        with associated(
            self._source.name,
            (self._source.host, self._source.port),
            self._own_title,
            self._source.ae_title,
            [abstract],
            tls=self._source.tls,
            timeout_s=self._timeout_s,
        ) as association:
            yield association

    def _fault(self, what: str) -> PeerError:
        return PeerError(f"The source {self._source.name!r} {what}.")


def _write_part(answer: httpx.Response, file: Path, max_bytes: int) -> None:
    boundary = boundary_of(answer.headers.get("content-type", ""))
    if boundary is None:
        raise InputError("object", "the peer did not answer with multipart/related of application/dicom")
    with ExitStack() as stack:

        def open_part() -> BinaryIO:
            return cast(BinaryIO, stack.enter_context(file.open("xb")))

        parts = Parts(boundary, Limits(max_bytes, 1), open_part)
        for piece in answer.iter_bytes(1 << 16):
            parts.feed(piece)
        parts.finish()


def _value(dataset: Mapping[str, Any], tag: str) -> str:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def _hex(status: int | None) -> str:
    return "none" if status is None else f"0x{status:04X}"
