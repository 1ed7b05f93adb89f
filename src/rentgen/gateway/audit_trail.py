"""The store's audit trail, line by line to the hospital's audit repository, from where it last came to."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import tempfile
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from rentgen.errors import StoreError
from rentgen.gateway.syslog import Syslog
from rentgen.outputs.atna import MESSAGE_ID, AuditSource, audit_message
from rentgen.store.studies import Store

logger = logging.getLogger(__name__)

PAGE = 200
"""Most lines on their way at once: so many may come twice after a crash."""


@dataclass(frozen=True, slots=True)
class _Line:
    sent: int
    hash: str


_NONE = _Line(0, "")


class Forwarder:
    """Sends each line of the trail once, in order, also those that others wrote; for one thread.

    What the network has taken is remembered in a file. A line is never skipped: where the repository is not there, its
    lines wait in the store.
    """

    def __init__(self, store: Store, syslog: Syslog, state: Path, *, source: AuditSource | None = None) -> None:
        """Go on from where the file says.

        Args:
            store: whose trail it is.
            syslog: that carries nothing else.
            state: file that remembers the last line sent. Where there is none, or the line is not of this trail, as
                after the store came back from an old backup, all of the trail is sent.
            source: who reports; by default this machine's name.

        Raises:
            StoreError: the file is not one of ours, or the store does not answer.
        """
        self._store = store
        self._syslog = syslog
        self._state = state
        host = socket.gethostname()
        self._source = source or AuditSource(f"rentgen@{host}", host)
        self._noted = self._left = self._taken = self._last_sent()
        self._on_the_way: deque[_Line] = deque()
        self._sent_before = syslog.state().sent

    @property
    def behind(self) -> int:
        """How many lines are on their way, or have left and are not yet remembered."""
        return len(self._on_the_way) + (self._left != self._noted)

    def forward(self) -> int:
        """Return how many lines were handed over now; those of earlier calls that have left are remembered.

        Raises:
            StoreError: the store does not answer, or the file cannot be written.
        """
        self._note()
        count = 0
        for entry in self._store.audit_entries(after=self._taken.sent, limit=PAGE - len(self._on_the_way)):
            message = audit_message(entry, self._source)
            if not self._syslog.send(message, at=entry.at, message_id=MESSAGE_ID):
                break
            self._taken = _Line(entry.number, entry.hash)
            self._on_the_way.append(self._taken)
            count += 1
        return count

    def _note(self) -> None:
        """Remember the last line that has left: messages leave in the order in which they were handed over."""
        sent = self._syslog.state().sent
        for _ in range(min(sent - self._sent_before, len(self._on_the_way))):
            self._left = self._on_the_way.popleft()
        self._sent_before = sent
        if self._left != self._noted:
            _write(self._state, self._left)
            self._noted = self._left

    def _last_sent(self) -> _Line:
        noted = _read(self._state)
        if noted.sent and noted.hash not in [e.hash for e in self._store.audit_entries(after=noted.sent - 1, limit=1)]:
            logger.warning("The audit trail is not the one that was sent up to line %d; all is sent.", noted.sent)
            return _NONE
        return noted


def _read(state: Path) -> _Line:
    try:
        found = json.loads(state.read_text("utf-8"))
    except FileNotFoundError:
        return _NONE
    except (OSError, ValueError) as error:
        raise _strange(state) from error
    number, told = (found.get("sent"), found.get("hash")) if isinstance(found, dict) else (None, None)
    if type(number) is not int or number < 1 or not isinstance(told, str):
        raise _strange(state)
    return _Line(number, told)


def _strange(state: Path) -> StoreError:
    return StoreError(
        f'Expected {state.name} to hold {{"sent": NUMBER, "hash": HASH}}, of the last line of the audit trail that was '
        "sent. Delete it to send the whole trail again."
    )


def _write(state: Path, line: _Line) -> None:
    draft = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=state.parent, prefix=f".{state.name}-", delete=False) as file:
            draft = Path(file.name)
            json.dump(asdict(line), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(state)
    except OSError as error:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        reason = error.strerror or type(error).__name__
        raise StoreError(f"What was sent of the audit trail cannot be noted ({reason}). Check the disk.") from error
