"""One source, asked again and again: what is new there, and what it has that never came here."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from rentgen.errors import InputError, PeerError
from rentgen.gateway.intake import Intake
from rentgen.gateway.nouns import Source, Wire
from rentgen.gateway.pull import DicomWeb, DimseSource
from rentgen.gateway.reconcile import Instance, reconcile
from rentgen.gateway.spool import sync_folder

logger = logging.getLogger(__name__)

MOST_TRIES = 3
"""To fetch one object, before it is left alone for `REST`."""
REST = timedelta(hours=1)
_MOST_PAGES = 100


class Poller:
    """Fetches from one source what the gateway does not have. Of one thread."""

    def __init__(
        self, source: Source, intake: Intake, *, folder: Path, ae_title: str, max_bytes: int = 200_000_000
    ) -> None:
        """Connect nothing yet.

        Args:
            source: of the configuration.
            intake: where objects go.
            folder: of the spool; remembers how far Orthanc's changes were followed.
            ae_title: of the gateway.
            max_bytes: of one object.

        Raises:
            SettingError: a certificate cannot be read.
        """
        self._source = source
        self._intake = intake
        self._folder = folder
        self._max_bytes = max_bytes
        self._web = DicomWeb(source) if source.wire is Wire.STOW else None
        self._dimse = DimseSource(source, ae_title=ae_title) if source.wire is Wire.DIMSE else None
        self._reconcile_at: datetime | None = None
        self._failed: Counter[str] = Counter()
        self._forget_at: datetime | None = None
        self.counts: Counter[str] = Counter()
        """How often what happened: `fetched`, `missing`, `failed`, `unreachable`."""

    def close(self) -> None:
        """Let connections go."""
        if self._web is not None:
            self._web.close()

    def poll(self, now: datetime) -> int:
        """Return how many objects were fetched: what Orthanc reports as new and, when it is time, all of these days.

        Raises:
            PeerError: the source does not answer, or not as the standard says.
        """
        if self._forget_at is None or now >= self._forget_at:
            self._failed.clear()
            self._forget_at = now + REST
        try:
            fetched = self._follow() if self._source.orthanc_url is not None else 0
            if self._source.orthanc_url is None or self._reconcile_at is None or now >= self._reconcile_at:
                fetched += self._reconcile(now)
                self._reconcile_at = now + timedelta(seconds=self._source.reconcile_s)
        except PeerError:
            self.counts["unreachable"] += 1
            raise
        return fetched

    def _reconcile(self, now: datetime) -> int:
        peer = self._web or self._dimse
        if peer is None:
            return 0
        found = peer.find(now.astimezone().date())
        missing = self._missing(found)
        if missing:
            self.counts["missing"] += len(missing)
            logger.info("Source %s has %d objects that never came here.", self._source.name, len(missing))
        return self._fetch(missing)

    def _missing(self, found: Iterable[Instance]) -> tuple[Instance, ...]:
        those = list(found)
        ours = {each.sop_instance_uid for each in those if self._intake.holds(each.sop_instance_uid)}
        left = reconcile(those, ours).missing
        return tuple(each for each in left if self._failed[each.sop_instance_uid] < MOST_TRIES)

    def _follow(self) -> int:
        """Fetch from the studies that Orthanc calls stable since the last time."""
        web = self._web
        if web is None:
            return 0
        since = self._last()
        if since is None:
            # What was there before the gateway is the reconciler's, which looks back a few days and not through all.
            self._note(web.newest_change())
            return 0
        fetched = 0
        for _ in range(_MOST_PAGES):
            changes = web.changes(since)
            for uid in filter(None, map(web.study_uid, changes.studies)):
                wanted = [each for modality in self._source.modalities for each in web.instances(uid, modality)]
                fetched += self._fetch(self._missing(wanted))
            since = changes.last
            self._note(since)
            if changes.done:
                break
        return fetched

    def _fetch(self, missing: tuple[Instance, ...]) -> int:
        return self._move(missing) if self._dimse is not None else self._retrieve(missing)

    def _retrieve(self, missing: tuple[Instance, ...]) -> int:
        if self._web is None:
            return 0
        fetched = 0
        for each in missing:
            try:
                self._web.fetch(each, self._intake, folder=self._folder, max_bytes=self._max_bytes)
                fetched += 1
            except (InputError, PeerError) as error:
                self._fail(each, error)
        self.counts["fetched"] += fetched
        return fetched

    def _move(self, missing: tuple[Instance, ...]) -> int:
        """Have whole studies sent: the standard lets one ask for a single object, but not every PACS listens."""
        if self._dimse is None:
            return 0
        for study in dict.fromkeys(each.study_instance_uid for each in missing):
            try:
                self._dimse.move(study)
            except PeerError as error:
                logger.warning("Source %s: a study did not come (%s).", self._source.name, type(error).__name__)
        left = [each for each in missing if not self._intake.holds(each.sop_instance_uid)]
        for each in left:
            self._fail(each, None)
        fetched = len(missing) - len(left)
        self.counts["fetched"] += fetched
        return fetched

    def _fail(self, instance: Instance, error: Exception | None) -> None:
        self._failed[instance.sop_instance_uid] += 1
        self.counts["failed"] += 1
        if self._failed[instance.sop_instance_uid] == MOST_TRIES:
            kind = "it did not come" if error is None else type(error).__name__
            logger.error(
                "Source %s: an object did not come in %d tries (%s); it is tried again within the hour.",
                self._source.name,
                MOST_TRIES,
                kind,
            )

    @property
    def _state(self) -> Path:
        # The name is the operator's, and may hold what a file's name cannot.
        name = hashlib.sha256(self._source.name.encode()).hexdigest()[:16]
        return self._folder / f"changes-{name}.json"

    def _last(self) -> int | None:
        try:
            return int(json.loads(self._state.read_text())["last"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _note(self, last: int) -> None:
        fresh = self._state.with_suffix(".part")
        fresh.write_text(json.dumps({"last": last}))
        with fresh.open("rb") as written:
            os.fsync(written.fileno())
        fresh.replace(self._state)
        sync_folder(self._folder)
