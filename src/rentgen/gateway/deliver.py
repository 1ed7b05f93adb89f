"""The sender of a destination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from rentgen.gateway.commitment import Commitments
from rentgen.gateway.nouns import Destination, Sender, Wire
from rentgen.gateway.send_dimse import DimseSender
from rentgen.gateway.send_fhir import FhirSender
from rentgen.gateway.send_mllp import MllpSender
from rentgen.gateway.send_stow import StowSender

SENDERS: Mapping[Wire, Callable[[Destination], Sender]] = MappingProxyType(
    {Wire.DIMSE: DimseSender, Wire.STOW: StowSender, Wire.FHIR: FhirSender, Wire.MLLP: MllpSender}
)


def sender_of(destination: Destination, *, ae_title: str = "RENTGEN", commitments: Commitments | None = None) -> Sender:
    """Return what delivers to a destination; nothing is connected yet.

    Args:
        destination: of the configuration.
        ae_title: of the gateway; DIMSE alone needs it, and the next.
        commitments: shared with the receiver, whose `on_commitment` is its `report`.

    Raises:
        SettingError: a certificate cannot be read.
    """
    if destination.wire is Wire.DIMSE:
        return DimseSender(destination, ae_title=ae_title, commitments=commitments)
    return SENDERS[destination.wire](destination)
