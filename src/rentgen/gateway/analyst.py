"""The gateway's analyst: asks a confined reader, and puts what it says on the physicians' list."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from rentgen.errors import StoreError
from rentgen.gateway.gate import refusal
from rentgen.gateway.nouns import Destination, Header, Route
from rentgen.gateway.readings import Reading, from_bytes, to_bytes
from rentgen.gateway.sandbox import Film, ReaderStopped, Sandbox
from rentgen.gateway.spool import Spool
from rentgen.outputs.wording import Language
from rentgen.records import Status
from rentgen.records.results import Document, ModelIdentity
from rentgen.records.studies import StoredPrediction, Urgency
from rentgen.store.gateway import GATEWAY, Held
from rentgen.store.studies import Store
from rentgen.workflow import belongs_to

logger = logging.getLogger(__name__)


class ConfinedAnalyst:
    """Reads films of the spool in a sandbox. Of one thread; see `pipeline.Analyst`."""

    def __init__(
        self,
        sandbox: Sandbox,
        spool: Spool,
        store: Store,
        *,
        keep_films: bool = False,
        language: Language = Language.EN,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Ask nothing yet.

        Args:
            sandbox: with the models of all routes; the first speaks of films for which there is none.
            spool: where films are.
            store: whose list they come onto.
            keep_films: put their bytes there, too.
            language: of reports.
            tell: is told what came of each film: the status of its prediction, or `not_analysed`.
        """
        self._sandbox = sandbox
        self._spool = spool
        self._store = store
        self._keep_films = keep_films
        self._language = language
        self._tell = tell

    def analyse(self, held: Held, route: Route | None) -> bytes:
        """Return what the route's model says of a film, or why it was not analysed.

        Raises:
            StoreError: the spool has lost the film, or the store does not answer.
            SettingError: a model cannot be loaded.
        """
        header = Header(**held.header)
        film = self._film(held)
        why = refusal(header) or ("" if route is not None else _unrouted(header))
        models = self._sandbox.open()
        model = next(iter(models)) if route is None else route.model
        reading = self._read(film, model, models[model], why)
        if not why:
            self._keep(held, header, film, reading, model)
        self._tell("not_analysed" if reading.prediction is None else str(reading.prediction.status))
        return to_bytes(reading)

    def encode(
        self, held: Sequence[Held], answers: Mapping[str, bytes], destination: Destination
    ) -> Sequence[Document]:
        """Return the documents that a destination takes.

        Raises:
            StoreError: the spool has lost a film.
            ReaderStopped: the documents cannot be made.
        """
        films = [(self._film(each), _of(answers[each.sop_instance_uid])) for each in held]
        told = [(film, reading) for film, reading in films if reading.source is not None]
        return self._sandbox.encode(told, destination, self._language) if told else ()

    def _film(self, held: Held) -> Film:
        path = self._spool.path(held.content_hash)
        if not path.is_file():
            raise StoreError("The spool has lost a film. Check the disk, and have the study sent again.")
        return Film(path, held.content_hash)

    def _read(self, film: Film, model: str, who: ModelIdentity, refused: str) -> Reading:
        for _ in range(2):
            try:
                return self._sandbox.read(film, model=model, refused=refused)
            except ReaderStopped as error:
                # Once may be the machine's fault; twice is the film's.
                why = str(error)
                logger.warning("A reader was replaced: %s.", why)
        try:
            # Its header alone, so that there is something to refer to.
            return self._sandbox.read(film, model=model, refused=refused or why)
        except ReaderStopped:
            return Reading(datetime.now(UTC), who, not_analysed=refused or why)

    def _keep(self, held: Held, header: Header, film: Film, reading: Reading, model: str) -> None:
        study = None if reading.source is None else reading.source.order.study_instance_uid
        image_id, _ = self._store.ids_for(held.content_hash, study)
        stored = belongs_to(reading.prediction or _no_answer(reading, model), image_id)
        # What people see in the list; the film's own numbers stay out of it.
        name = " ".join(filter(None, (header.modality, header.body_part_examined, header.view_position)))
        self._store.add_result(
            reading.film,
            stored,
            content_hash=held.content_hash,
            name=name,
            data=film.path.read_bytes() if self._keep_films else None,
            actor=GATEWAY,
        )


def _unrouted(header: Header) -> str:
    told = [
        f"{what} {value}"
        for what, value in (
            ("modality", header.modality),
            ("body part", header.body_part_examined),
            ("view", header.view_position),
        )
        if value
    ]
    # Age is left out: it is the patient's.
    return f"no model reads films of {', '.join(told) or 'this kind'}, or not at this age"


def _no_answer(reading: Reading, model: str) -> StoredPrediction:
    return StoredPrediction(
        prediction_id="",
        image_id="",
        bundle_id=reading.model.sha256,
        model=model,
        created_at=reading.created_at,
        status=Status.ERROR,
        label=None,
        probabilities={},
        reasons=(reading.not_analysed,),
        prediction_set=(),
        distance=None,
        points=(),
        urgency=Urgency.DOUBT,
        score=0.0,
        precision="",
    )


def _of(answer: bytes) -> Reading:
    try:
        return from_bytes(answer)
    except ValueError as error:
        raise StoreError("An answer in the queue is damaged; have the study sent again.") from error
