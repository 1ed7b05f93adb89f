"""What passes between the parts of the gateway: configuration, received objects, outcomes of a delivery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from rentgen.gateway.syslog import SyslogTarget
from rentgen.outputs.fhir import DEFAULT_SYSTEMS, Systems
from rentgen.outputs.hl7 import DEFAULT_ADDRESSES, Addresses
from rentgen.outputs.wording import Language
from rentgen.records.results import Document, Kind


class Wire(StrEnum):
    """How a destination is reached."""

    DIMSE = "dimse"
    """C-STORE, with storage commitment where asked for."""
    STOW = "stow"
    """DICOMweb STOW-RS."""
    FHIR = "fhir"
    """A transaction bundle to a FHIR R4 server."""
    MLLP = "mllp"
    """HL7 v2 over MLLP."""


class Result(StrEnum):
    """What became of a delivery."""

    DELIVERED = "delivered"
    """The peer has it."""
    RETRY = "retry"
    """Not now; the same again later."""
    DEAD = "dead"
    """Never so; a person must look."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a delivery, and why.

    Attributes:
        result: what to do next.
        reason: in words, nothing of a patient; empty where delivered.
        after_s: how long the peer asked to wait; None where it did not say.
    """

    result: Result
    reason: str = ""
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a peer answered when it was asked whether it is there.

    Attributes:
        name: of the peer.
        ok: whether it would take what is sent.
        detail: what is wrong and what to do; what was asked, where all is well.
    """

    name: str
    ok: bool
    detail: str


class Sender(Protocol):
    """One destination. Safe from any thread; every call has a time limit."""

    def send(self, documents: Sequence[Document]) -> Outcome:
        """Deliver documents of one result, all or none counted; the same again does no harm."""

    def check(self) -> CheckResult:
        """Ask whether the peer is there, without changing anything."""

    def rest(self) -> None:
        """There is nothing to deliver for now: let go what a peer would wait for."""

    def close(self) -> None:
        """Let connections go."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a received object says of itself; nothing of whom it shows.

    Attributes:
        study_instance_uid: of the study, checked to be a UID, as the three below.
        series_instance_uid: of the series.
        sop_instance_uid: of the object.
        sop_class_uid: of the object.
        transfer_syntax_uid: of its encoding.
        modality: such as `DX`; empty where it does not say, as all below.
        body_part_examined: such as `CHEST`.
        view_position: such as `PA`.
        manufacturer: tells our own results, which are not analysed.
        patient_age_years: None where unknown.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str = ""
    body_part_examined: str = ""
    view_position: str = ""
    manufacturer: str = ""
    patient_age_years: float | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of one side of a TLS connection.

    Attributes:
        certificate: chain, PEM; None for a client without.
        key: its private key, PEM.
        authority: who signs the peers' certificates, PEM; the system's where None.
        demand_certificate: refuse a peer without one.
    """

    certificate: Path | None = None
    key: Path | None = field(default=None, repr=False)
    authority: Path | None = None
    demand_certificate: bool = True


@dataclass(frozen=True, slots=True)
class Destination:
    """Where results go.

    Attributes:
        name: in the configuration; unique.
        wire: how it is reached.
        kinds: of documents that it takes.
        host: of a DIMSE or MLLP peer.
        port: likewise.
        ae_title: of a DIMSE peer.
        url: of a STOW or FHIR peer.
        tls: None for a connection in the clear.
        commitment: ask a DIMSE peer whether it will keep what was stored.
        headers: to send with every HTTP request; may hold a secret.
        oidc_token_url: where client credentials become a token; None without.
        oidc_client: id of the client.
        oidc_secret: its secret.
        timeout_s: for each exchange.
        systems: namespaces of FHIR identifiers.
        addresses: of HL7 messages.
    """

    name: str
    wire: Wire
    kinds: tuple[Kind, ...]
    host: str = ""
    port: int = 0
    ae_title: str = ""
    url: str = ""
    tls: Tls | None = None
    commitment: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    oidc_token_url: str | None = None
    oidc_client: str = ""
    oidc_secret: str = field(default="", repr=False)
    timeout_s: float = 30.0
    systems: Systems = DEFAULT_SYSTEMS
    addresses: Addresses = DEFAULT_ADDRESSES


@dataclass(frozen=True, slots=True)
class Source:
    """Where films are fetched from, beside those that are sent.

    Attributes:
        name: in the configuration; unique.
        wire: `dimse` (C-FIND and C-MOVE) or `stow` (DICOMweb: QIDO and WADO).
        host: of a DIMSE peer.
        port: likewise.
        ae_title: likewise.
        url: of a DICOMweb peer.
        orthanc_url: of Orthanc's own interface, whose `/changes` is followed; None for another.
        headers: to send with every HTTP request; may hold a secret.
        tls: None for a connection in the clear.
        every_s: how often it is asked what is new.
        reconcile_s: how often all that it has of these days is held against what came here.
        days: how far back that looks.
        modalities: that are fetched.
    """

    name: str
    wire: Wire
    host: str = ""
    port: int = 0
    ae_title: str = ""
    url: str = ""
    orthanc_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Tls | None = None
    every_s: float = 60.0
    reconcile_s: float = 600.0
    days: int = 1
    modalities: tuple[str, ...] = ("CR", "DX")


@dataclass(frozen=True, slots=True)
class Route:
    """Which model reads which films; the first that fits is taken.

    Attributes:
        model: a bundle, by name or file.
        modalities: any where empty, as all below.
        body_parts: DICOM BodyPartExamined.
        views: DICOM ViewPosition.
        min_age_years: None for any.
        max_age_years: None for any.
    """

    model: str
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    min_age_years: float | None = None
    max_age_years: float | None = None

    def fits(self, header: Header) -> bool:
        """Return whether a film is for this model; what its header does not say is no reason against it."""
        for value, meant in (
            (header.modality, self.modalities),
            (header.body_part_examined, self.body_parts),
            (header.view_position, self.views),
        ):
            if value and meant and value.upper() not in meant:
                return False
        age = header.patient_age_years
        if age is None:
            return True
        return (self.min_age_years is None or age >= self.min_age_years) and (
            self.max_age_years is None or age <= self.max_age_years
        )


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What `gateway.toml` says.

    Attributes:
        ae_title: of the gateway.
        host: address to listen on.
        port: of DIMSE; 0 takes a free one.
        tls: of DIMSE; None in the clear.
        allow_ae_titles: who may send; any where empty.
        allow_addresses: networks that may send, as `10.0.0.0/8`; loopback only where empty.
        http_port: of DICOMweb STOW-RS, health and metrics; None for none.
        http_keys: SHA-256 of the bearer keys that may store; anyone on loopback where empty.
        folder: for the spool; on the disk that has room.
        database: SQLAlchemy URL of the store; that of the service where empty.
        keep_films: keep the films in the store too, encrypted, for the physicians' page.
        max_object_mb: largest object taken.
        max_associations: side by side.
        min_free_mb: of the disk, below which nothing more is taken.
        quiet_s: without a new object, after which a study is complete.
        routes: which model reads what.
        destinations: where results go.
        sources: where films are fetched from.
        dry_run: do everything but deliver.
        keep_days: how long objects stay in the spool after their results were delivered.
        readers: processes that decode and analyse films, side by side.
        reader_memory_mb: that a film may cost one of them, MB of 10^6 bytes, beside its models.
        reader_timeout_s: that a film may take.
        language: of the PDF report.
        audit: the hospital's audit repository; None for none.
    """

    ae_title: str = "RENTGEN"
    host: str = "127.0.0.1"
    port: int = 11112
    tls: Tls | None = None
    allow_ae_titles: tuple[str, ...] = ()
    allow_addresses: tuple[str, ...] = ()
    http_port: int | None = None
    http_keys: tuple[str, ...] = field(default=(), repr=False)
    folder: Path = Path("gateway")
    database: str = field(default="", repr=False)
    keep_films: bool = False
    max_object_mb: float = 200.0
    max_associations: int = 10
    min_free_mb: float = 1000.0
    quiet_s: float = 10.0
    routes: tuple[Route, ...] = (Route("pneumonia"),)
    destinations: tuple[Destination, ...] = ()
    sources: tuple[Source, ...] = ()
    dry_run: bool = False
    keep_days: int = 7
    readers: int = 1
    reader_memory_mb: float = 2000.0
    reader_timeout_s: float = 60.0
    language: Language = Language.EN
    audit: SyslogTarget | None = None
