"""Whether the gateway could work as it is configured: what is wrong, and what to do, before a film is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

from pydicom.uid import UID
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from rentgen.errors import PeerError, RentgenError
from rentgen.gateway.associate import answers_echo, associated
from rentgen.gateway.deliver import sender_of
from rentgen.gateway.intake import free_mb
from rentgen.gateway.nouns import CheckResult, Destination, GatewayConfig, Source, Tls, Wire
from rentgen.gateway.pull import DicomWeb
from rentgen.gateway.transport import client_context, server_context
from rentgen.store.studies import Store

_SOON_DAYS = 30
_TIMEOUT_S = 10.0
_AT_ONCE = 8
_QUERIES = (StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove)


def check_all(config: GatewayConfig, *, key: str | None = None, now: datetime | None = None) -> list[CheckResult]:
    """Return what was found, one entry for each thing that was looked at; nothing is sent but questions.

    Args:
        config: of the gateway.
        key: of the store, base64 of 32 bytes; None for one without.
        now: the time; by default the clock's.
    """
    moment = now or datetime.now(UTC)
    results = [check_disk(config), check_database(config, key)]
    results += [
        _of(f"certificate of {name}", partial(_certificate, tls, moment, serves=ours))
        for name, tls, ours in _certificates(config)
    ]
    looks = [partial(check_destination, each, config) for each in config.destinations]
    looks += [partial(check_source, each, config, moment.date()) for each in config.sources]
    if not looks:
        return results
    # One peer that is silent costs its time limit, and so do ten.
    with ThreadPoolExecutor(min(len(looks), _AT_ONCE)) as pool:
        answers = list(pool.map(lambda look: look(), looks))
    # A PACS is often both, under one name.
    kinds = ["destination"] * len(config.destinations) + ["source"] * len(config.sources)
    return results + [replace(each, name=f"{kind} {each.name}") for kind, each in zip(kinds, answers, strict=True)]


def check_destination(destination: Destination, config: GatewayConfig) -> CheckResult:
    """Return whether a destination would take what is to be sent; its sender asks."""
    try:
        told = replace(destination, timeout_s=min(_TIMEOUT_S, destination.timeout_s))
        sender = sender_of(told, ae_title=config.ae_title)
    except RentgenError as error:
        return CheckResult(destination.name, False, str(error))
    try:
        return sender.check()
    finally:
        sender.close()


def check_source(source: Source, config: GatewayConfig, today: date) -> CheckResult:
    """Return whether films could be fetched from a source; whether it knows our address, only a film tells."""
    return _of(
        source.name, partial(_query, source, today) if source.wire is Wire.STOW else partial(_ask, source, config)
    )


def check_disk(config: GatewayConfig) -> CheckResult:
    """Return whether the spool can be written, and has room."""

    def look() -> str:
        try:
            config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = config.folder / ".check"
            probe.write_bytes(b"")
            probe.unlink()
            free = free_mb(config.folder)
        except OSError as error:
            raise PeerError(
                f"the folder cannot be written ({error.strerror}); set `gateway.folder` to one that can"
            ) from error
        if free < config.min_free_mb:
            raise PeerError(
                f"{free:.0f} MB are free, of {config.min_free_mb:.0f} that must be: nothing is taken; make room, or "
                "lower `gateway.min_free_mb`"
            )
        return f"{free:.0f} MB are free"

    return _of("disk", look)


def check_database(config: GatewayConfig, key: str | None = None) -> CheckResult:
    """Return whether the store's database answers; it is made or brought up to date where it must be."""

    def look() -> str:
        if not config.database:
            raise PeerError("no database is named; set `gateway.database`, such as sqlite:///gateway.db")
        store = Store.open(config.database, key=key)
        try:
            store.check()
        finally:
            store.close()
        return "it answers"

    return _of("database", look)


def _of(name: str, look: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, look())
    except RentgenError as error:
        return CheckResult(name, False, str(error))


def _certificates(config: GatewayConfig) -> list[tuple[str, Tls, bool]]:
    named: tuple[Destination | Source, ...] = (*config.destinations, *config.sources)
    peers = [(each.name, each.tls, False) for each in named]
    return [(name, tls, ours) for name, tls, ours in [("gateway", config.tls, True), *peers] if tls is not None]


def _certificate(tls: Tls, now: datetime, *, serves: bool) -> str:
    (server_context if serves else client_context)(tls)
    if tls.certificate is None:
        return "none of our own is shown"
    left = _days_left(tls.certificate, now)
    if left < 0:
        raise PeerError("it has expired; have it renewed")
    if left < _SOON_DAYS:
        raise PeerError(f"it expires in {left} days; have it renewed")
    return f"it is valid for {left} days"


def _days_left(certificate: Path, now: datetime) -> int:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise PeerError("it cannot be read; expected PEM") from error
    return min((each.not_valid_after_utc - now).days for each in found)


def _ask(source: Source, config: GatewayConfig) -> str:
    with associated(
        source.name,
        (source.host, source.port),
        config.ae_title,
        source.ae_title,
        [Verification, *_QUERIES],
        tls=source.tls,
        timeout_s=_TIMEOUT_S,
    ) as association:
        offered = {context.abstract_syntax for context in association.accepted_contexts}
        lacking = [UID(each).name for each in _QUERIES if each not in offered]
        if lacking:
            raise PeerError(f"The peer {source.name!r} does not offer {', '.join(lacking)}; allow it there.")
        if Verification in offered and not answers_echo(association):
            raise PeerError(f"The peer {source.name!r} does not answer C-ECHO with success.")
    return "it offers C-FIND and C-MOVE"


def _query(source: Source, today: date) -> str:
    with DicomWeb(source, timeout_s=_TIMEOUT_S) as peer:
        peer.probe(today)
        if source.orthanc_url is not None:
            peer.changes(0, limit=1)
    return "it answers QIDO"
