"""What a peer's answer means for a delivery: one table for DICOM, one for HTTP."""

from __future__ import annotations

from collections.abc import Iterable

from rentgen.gateway.nouns import Outcome, Result

DELIVERED = Outcome(Result.DELIVERED)

# Statuses of the standard (PS3.7 annex C, PS3.4 B.2.3): mask, value, what it means, words.
_DICOM: tuple[tuple[int, int, Result, str], ...] = (
    (0xFFFF, 0x0000, Result.DELIVERED, ""),
    (0xFFFF, 0x0111, Result.DELIVERED, "the peer has it already"),
    (0xF000, 0xB000, Result.DELIVERED, "stored, with a warning"),
    (0xFF00, 0xA700, Result.RETRY, "out of resources"),
    (0xFFFF, 0x0110, Result.RETRY, "processing failure"),
    (0xFFFF, 0x0112, Result.RETRY, "no such object"),
    (0xFFFF, 0x0119, Result.RETRY, "class and instance conflict"),
    (0xFFFF, 0x0131, Result.RETRY, "transaction seen before"),
    (0xFFFF, 0x0213, Result.RETRY, "resource limitation"),
    (0xFFFF, 0x0122, Result.DEAD, "the class is not supported"),
    (0xFF00, 0xA900, Result.DEAD, "the object does not match its class"),
    (0xF000, 0xC000, Result.DEAD, "cannot be understood"),
)
_AGAIN = frozenset((401, 408, 409, 425, 429))


def retry(reason: str, after_s: float | None = None) -> Outcome:
    """Return the outcome of a delivery that may go well later."""
    return Outcome(Result.RETRY, reason, after_s)


def dead(reason: str) -> Outcome:
    """Return the outcome of a delivery that a person must look at."""
    return Outcome(Result.DEAD, reason)


def of_dicom_status(status: int | None) -> Outcome:
    """Return what a DIMSE status, or the failure reason of STOW or storage commitment, means.

    Args:
        status: 16 bits; None where the peer went away without one, which is unknown and so tried again.
    """
    if status is None:
        return retry("the peer went away before it answered")
    for mask, value, result, words in _DICOM:
        if status & mask == value:
            return Outcome(result, f"status {status:#06x}: {words}" if words else "")
    return dead(f"status {status:#06x}: refused")


def of_http_status(status: int, after_s: float | None = None) -> Outcome:
    """Return what an HTTP status means.

    Args:
        status: of the answer.
        after_s: how long the peer asked to wait, where it did.
    """
    if 200 <= status < 300:
        return DELIVERED
    if status >= 500 or status in _AGAIN:
        return retry(f"HTTP status {status}", after_s)
    return dead(f"HTTP status {status}")


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the one outcome of several documents: what can still go well is tried before it is given up."""
    ranks = {Result.RETRY: 0, Result.DEAD: 1, Result.DELIVERED: 2}
    return min(outcomes, key=lambda outcome: ranks[outcome.result], default=DELIVERED)
