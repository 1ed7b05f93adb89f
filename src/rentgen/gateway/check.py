"""Whether the gateway could work as it is configured: what is wrong, and what to do, before a film is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path

from rentgen.errors import PeerError, RentgenError
from rentgen.gateway.associate import echo
from rentgen.gateway.intake import free_mb
from rentgen.gateway.nouns import CheckResult, Destination, GatewayConfig, Sender, Source, Tls, Wire
from rentgen.gateway.pull import DicomWeb
from rentgen.gateway.transport import client_context, server_context
from rentgen.store.studies import Store

_SOON_DAYS = 30


def check_all(
    config: GatewayConfig, *, senders: Iterable[Sender] = (), now: datetime | None = None
) -> list[CheckResult]:
    """Return what was found, one entry for each thing that was looked at; nothing is sent but questions.

    Args:
        config: of the gateway.
        senders: of destinations that are not DIMSE, which ask their peers themselves.
        now: the time; by default the clock's.
    """
    moment = now or datetime.now(UTC)
    results = [check_disk(config), check_database(config)]
    results += [
        _of(f"certificate of {name}", lambda tls=tls, ours=ours: _certificate(tls, moment, serves=ours))  # type: ignore[misc]
        for name, tls, ours in _certificates(config)
    ]
    results += [
        _of(each.name, lambda each=each: _echo(each, config))  # type: ignore[misc]
        for each in _peers(config)
        if each.wire is Wire.DIMSE
    ]
    results += [
        _of(source.name, lambda source=source: _query(source, moment.date()))  # type: ignore[misc]
        for source in config.sources
        if source.wire is Wire.STOW
    ]
    return results + [sender.check() for sender in senders]


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


def check_database(config: GatewayConfig) -> CheckResult:
    """Return whether the store's database answers; it is made or brought up to date where it must be."""

    def look() -> str:
        if not config.database:
            raise PeerError("no database is named; set `gateway.database`, such as sqlite:///gateway.db")
        store = Store.open(config.database)
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


def _peers(config: GatewayConfig) -> tuple[Destination | Source, ...]:
    return (*config.destinations, *config.sources)


def _certificates(config: GatewayConfig) -> list[tuple[str, Tls, bool]]:
    peers = [(each.name, each.tls, False) for each in _peers(config)]
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


def _echo(peer: Destination | Source, config: GatewayConfig) -> str:
    timeout_s = min(10.0, peer.timeout_s) if isinstance(peer, Destination) else 10.0
    echo(peer.name, (peer.host, peer.port), config.ae_title, peer.ae_title, tls=peer.tls, timeout_s=timeout_s)
    return "it answers C-ECHO"


def _query(source: Source, today: date) -> str:
    with DicomWeb(source, timeout_s=10.0) as peer:
        peer.probe(today)
        if source.orthanc_url is not None:
            peer.changes(0, limit=1)
    return "it answers QIDO"
