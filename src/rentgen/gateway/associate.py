"""Associations that we ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import build_role
from pynetdicom.association import Association

from rentgen.errors import PeerError
from rentgen.gateway.nouns import Tls
from rentgen.gateway.tls import probe
from rentgen.gateway.transport import Caller, client_context

_SUCCESS = 0x0000


@contextmanager
def associated(
    name: str,
    address: tuple[str, int],
    own_title: str,
    their_title: str,
    abstracts: Sequence[str],
    *,
    provided: Sequence[str] = (),
    tls: Tls | None = None,
    timeout_s: float = 30.0,
) -> Iterator[Association]:
    """Return an association with a peer, which ends with the block.

    Args:
        name: of the peer, for messages.
        address: host and port.
        own_title: our AE title.
        their_title: the peer's.
        abstracts: services that are used.
        provided: services that we provide on it, with the roles turned round.
        tls: None in the clear.
        timeout_s: of every step.

    Raises:
        PeerError: it is not reached, or refuses.
        SettingError: a certificate cannot be read.
    """
    entity = Caller(own_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout_s
    for abstract in (*abstracts, *provided):
        entity.add_requested_context(abstract)
    context = None if tls is None else client_context(tls)
    tls_args = None if context is None else (context, address[0])
    roles: list[Any] = [build_role(abstract, scp_role=True) for abstract in provided]
    association = entity.associate(*address, ae_title=their_title, ext_neg=roles, tls_args=tls_args)
    if not association.is_established:
        if association.is_rejected:
            raise PeerError(f"The peer {name!r} refuses our AE title {own_title!r}, or is not called {their_title!r}.")
        if not association.accepted_contexts and association.rejected_contexts:
            raise PeerError(f"The peer {name!r} does not offer what is asked of it.")
        fault = None if context is None else probe(address, context, timeout_s=timeout_s)
        raise PeerError(f"The peer {name!r} is not reached ({fault or 'check host, port and TLS'}).")
    try:
        if not association.accepted_contexts:
            raise PeerError(f"The peer {name!r} does not offer what is asked of it.")
        yield association
    finally:
        if association.is_established:
            association.release()


def answers_echo(association: Association) -> bool:
    """Return whether a peer answers C-ECHO with success."""
    try:
        return bool(association.send_c_echo().get("Status") == _SUCCESS)
    except RuntimeError:
        # It has ended the association.
        return False
