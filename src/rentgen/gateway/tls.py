"""Why TLS with a peer failed, in words that say what to do.

A delivery that fails for it is tried again, and never given up by itself: nothing is wrong with its documents, and they
go out once a certificate is renewed or put right. Until then the reason stands beside what waits.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from types import MappingProxyType

_NOT_SIGNED = "its certificate is not signed by whom we trust; check `tls.authority`"
_OTHER_HOST = "its certificate is for another host; set the name that it holds, or have it issued for this one"

# Codes of X509_verify_cert_error_string(3).
_VERIFIED: Mapping[int, str] = MappingProxyType(
    {
        9: "its certificate is not valid yet; check the clocks",
        10: "its certificate has expired; have it renewed there",
        62: _OTHER_HOST,
        64: _OTHER_HOST,
    }
    | dict.fromkeys((2, 18, 19, 20, 21), _NOT_SIGNED)
)
# Of RFC 8446, section 6.2, as OpenSSL spells them.
_ALERTS: Mapping[str, str] = MappingProxyType(
    {
        "CERTIFICATE_REQUIRED": "it demands a certificate of ours; set `tls.certificate` and `tls.key`",
        "HANDSHAKE_FAILURE": "it takes no version or cipher of ours, or demands a certificate of ours",
        "CERTIFICATE_EXPIRED": "our certificate has expired; have it renewed",
        "UNKNOWN_CA": "it does not trust who signed our certificate",
        "BAD_CERTIFICATE": "it does not take our certificate",
        "CERTIFICATE_REVOKED": "our certificate was revoked",
        "CERTIFICATE_UNKNOWN": "it does not take our certificate",
        "PROTOCOL_VERSION": "it speaks no version of TLS that is taken; 1.2 at least is needed",
    }
)
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_AFTERWARDS_S = 1.0


def fault_of(error: BaseException) -> str | None:
    """Return why TLS failed, or None where an error is not of TLS or the peer just hung up; its words are not repeated.

    Args:
        error: as it came; what caused it is looked at, too.
    """
    found = next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)
    if found is None or isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"TLS: {_VERIFIED.get(found.verify_code, 'its certificate is not sound')}"
    reason = found.reason or ""
    for name, words in _ALERTS.items():
        if reason.endswith(f"ALERT_{name}"):
            return f"TLS: {words}"
    if reason in _NOT_TLS:
        return "TLS: it does not speak TLS there; check `port`, or leave `tls` out"
    return "TLS: the handshake failed; check `tls`"


def probe(address: tuple[str, int], context: ssl.SSLContext, *, timeout_s: float) -> str | None:
    """Return why TLS with a peer fails, or None where it does not, or nobody is there.

    Args:
        address: host, which the peer's certificate must name, and port.
        context: of our side.
        timeout_s: of each step.
    """
    try:
        with (
            socket.create_connection(address, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=address[0]) as connection,
        ):
            # In TLS 1.3 the peer looks at our certificate after the handshake has ended for us.
            connection.settimeout(min(timeout_s, _AFTERWARDS_S))
            connection.recv(1)
    except OSError as error:
        return fault_of(error)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
