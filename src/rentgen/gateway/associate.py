"""Associations that we ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from rentgen.errors import PeerError
from rentgen.gateway.nouns import Tls
from rentgen.gateway.transport import client_context

_SUCCESS = 0x0000


@contextmanager
def associated(
    name: str,
    address: tuple[str, int],
    own_title: str,
    their_title: str,
    abstracts: list[str],
    *,
    tls: Tls | None = None,
    timeout_s: float = 30.0,
) -> Iterator[Association]:
    """Return an association with a peer, which ends with the block.

    Args:
        name: of the peer, for messages.
        address: host and port.
        own_title: our AE title.
        their_title: the peer's.
        abstracts: what is asked for.
        tls: None in the clear.
        timeout_s: of every step.

    Raises:
        PeerError: it is not reached, or refuses.
        SettingError: a certificate cannot be read.
    """
    entity = AE(own_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout_s
    for abstract in abstracts:
        entity.add_requested_context(abstract)
    tls_args = None if tls is None else (client_context(tls), address[0])
    association = entity.associate(*address, ae_title=their_title, tls_args=tls_args)
    if not association.is_established:
        why = (
            f"refuses our AE title {own_title!r}, or is not called {their_title!r}"
            if association.is_rejected
            else "is not reached; check host, port and TLS"
        )
        raise PeerError(f"The peer {name!r} {why}.")
    try:
        if not association.accepted_contexts:
            raise PeerError(f"The peer {name!r} does not offer what is asked of it.")
        yield association
    finally:
        if association.is_established:
            association.release()


def echo(name: str, address: tuple[str, int], own_title: str, their_title: str, **options: Any) -> None:  # noqa: ANN401
    """Ask a peer whether it is there, by C-ECHO; the arguments are those of `associated`.

    Raises:
        PeerError: it is not.
        SettingError: a certificate cannot be read.
    """
    with associated(name, address, own_title, their_title, [Verification], **options) as association:
        status = association.send_c_echo()
        if status.get("Status") != _SUCCESS:
            raise PeerError(f"The peer {name!r} does not answer C-ECHO with success.")
