"""From films to predictions: reading, preparing and inference side by side, in order, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from rentgen.bundle import Bundle
from rentgen.bundle import read as read_bundle
from rentgen.engine.gate import check_distance, check_film, check_radiograph, check_scope
from rentgen.engine.session import TOLERANCE, Session
from rentgen.errors import BundleError, InputError
from rentgen.images.prepare import fit, map_to_native, prepare, smooth
from rentgen.images.read import read
from rentgen.parallel.local import cores, imap
from rentgen.parallel.pool import HERE, Pool, Work, folder_of
from rentgen.records import (
    Card,
    Conformal,
    EngineName,
    Float32,
    Float64,
    Int64,
    Precision,
    Prediction,
    Prepared,
    Radiograph,
    Status,
    Task,
    UInt8,
    deciding_thresholds,
    present_findings,
)
from rentgen.records.results import is_finding

Source = str | Path | bytes
GRAIN = 8
"""Films that a worker elsewhere takes at a time, about."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A source after reading: a prepared film and what the gate says of it, or the reason why there is none."""

    name: str
    hashes: tuple[str, str] | None
    prepared: Prepared | None
    reasons: tuple[str, ...]


class Predictor:
    """A bundle, ready to answer. Safe to use from several threads.

    Example:
        >>> predictor = Predictor.load("chest.rentgen")  # doctest: +SKIP
        >>> predictor.predict("film.dcm").label  # doctest: +SKIP
        'PNEUMONIA'

    Attributes:
        bundle: what it runs.
        card: the bundle's.
        session: the compiled graph.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: EngineName = EngineName.OPENVINO,
        precision: Precision = Precision.AUTO,
        batch_size: int = 1,
        streams: int | None = None,
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        """Compile the bundle's graph and replay its golden vectors.

        Args:
            bundle: what to run.
            engine: who runs it.
            precision: of the arithmetic; by default bf16 where the processor has it and the golden vectors bear it.
            batch_size: films per call of the engine.
            streams: calls side by side; the number of cores by default. 1 gives a single film all cores.
            threads: of the engine, for a process that may not use the whole machine; the number of cores by default.
            cache: folder where compiled graphs are kept and looked for; none by default.

        Raises:
            BundleError: the graph cannot be read, or does not answer as it did where it was made.
        """
        self.bundle = bundle
        self.card: Card = bundle.card
        wanted = Precision(precision)

        def compiled(arithmetic: Precision) -> Session:
            session = Session(
                bundle.model,
                engine=engine,
                precision=arithmetic,
                batch_size=batch_size,
                streams=streams,
                threads=threads,
                cache=cache,
            )
            replay(bundle, session)
            return session

        try:
            self.session = compiled(wanted)
        except BundleError:
            # A network may not bear bf16; that nobody asked for it by name is the case where f32 is the answer.
            if wanted is not Precision.AUTO or engine is not EngineName.OPENVINO:
                raise
            self.session = compiled(Precision.F32)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        engine: EngineName = EngineName.OPENVINO,
        precision: Precision = Precision.AUTO,
        batch_size: int = 1,
        streams: int | None = None,
        cache: Path | None = None,
    ) -> Self:
        """Return a predictor of the bundle in a file, or of a name that comes with the package.

        Arguments and errors are as of the constructor.
        """
        return cls(
            read_bundle(path),
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            streams=streams,
            cache=cache,
        )

    def predict(self, source: Source, *, maps: bool = False) -> Prediction:
        """Return the prediction for one film; a file that cannot be read gives status `error`.

        Args:
            source: a path, or the bytes of a file.
            maps: compute activation maps, too.
        """
        return self._answer([source], maps)[0]

    def predict_many(self, sources: Iterable[Source], *, maps: bool = False, pool: Pool = HERE) -> Iterator[Prediction]:
        """Yield the prediction for each film, in order; memory does not grow with their number.

        Args:
            sources: paths, or bytes of files; drawn lazily.
            maps: compute activation maps, too.
            pool: who answers; another than this process takes all sources before it begins.
        """
        session = self.session
        folder = None
        if pool is not HERE:
            sources = tuple(sources)
            folder = folder_of(Path(source) for source in sources if not isinstance(source, bytes))
        # Also with one stream, films are read while others are computed.
        workers = max(session.streams, cores())
        work = Work(
            open=partial(_open, self.bundle, session.engine, session.precision, session.batch_size),
            run=partial(_answer, maps),
            here=self,
            workers=workers,
            ahead=4 * workers,
            grain=max(1, GRAIN // session.batch_size),
            folder=folder,
        )
        for answers in pool.map(work, _batches(sources, session.batch_size)):
            yield from answers

    def predict_film(self, film: Radiograph, *, name: str = "film", maps: bool = False) -> Prediction:
        """Return the prediction for a film that was read already."""
        return self._infer([self._prepare(name, film)], maps)[0]

    def run(self, fitted: UInt8, outputs: tuple[str, ...] = ("logits",)) -> dict[str, Float32]:
        """Return what the graph answers for films at its input size, in order.

        Args:
            fitted: (N, height, width), not yet smoothed: `images.prepare.fit` makes such.
            outputs: of `logits`, `embedding`, `activation_maps` and, where the bundle measures it, `distance`.
        """
        smoothed = np.stack([smooth(image, self.card.preprocessing.smooth_px) for image in fitted])
        size = self.session.batch_size
        batches = [smoothed[start : start + size] for start in range(0, len(smoothed), size)]
        answers = list(imap(lambda batch: self.session.run(batch, outputs), batches, workers=self.session.streams))
        return {name: np.concatenate([answer[name] for answer in answers]) for name in outputs}

    def probabilities(self, logits: Float32 | Float64) -> Float64:
        """Return calibrated probabilities (..., classes) of logits (..., classes)."""
        calibration = self.card.calibration
        told = sigmoid if self.card.task is Task.MULTILABEL else softmax
        if calibration is None:
            return told(logits)
        return told(logits * np.array(calibration.scale) + np.array(calibration.bias))

    def leading(self, probabilities: Float64) -> Int64:
        """Return the class (n,) that each film is named by: the most probable, or of findings the most conspicuous.

        A finding is the more conspicuous the higher its logit stands above that of its operating point.

        Args:
            probabilities: (n, classes).
        """
        if self.card.task is Task.MULTICLASS:
            return np.asarray(probabilities.argmax(axis=1), np.int64)
        thresholds = deciding_thresholds(self.card.operating_points, self.card.classes)
        return np.asarray((_logit(probabilities) - _logit(thresholds)).argmax(axis=1), np.int64)

    def _answer(self, sources: list[Source], maps: bool) -> list[Prediction]:
        return self._infer([self._open(source) for source in sources], maps)

    def _open(self, source: Source) -> _Opened:
        name = "bytes" if isinstance(source, bytes) else str(source)
        try:
            return self._prepare(name, read(source))
        except InputError as error:
            return _Opened(name, None, None, (error.reason,))

    def _prepare(self, name: str, film: Radiograph) -> _Opened:
        preprocessing = self.card.preprocessing
        fitted = fit(film, preprocessing)
        # The gate looks before smoothing, which would make noise look like anatomy.
        reasons = (*check_film(film), *check_radiograph(fitted.pixels), *check_scope(film, self.card.scope))
        prepared = replace(fitted, pixels=smooth(fitted.pixels, preprocessing.smooth_px))
        return _Opened(name, (film.content_hash, film.pixel_hash), prepared, reasons)

    def _infer(self, opened: list[_Opened], maps: bool) -> list[Prediction]:
        images = [item.prepared.pixels for item in opened if item.prepared is not None]
        wanted = {"logits": True, "activation_maps": maps, "distance": self.card.domain is not None}
        outputs = tuple(name for name, asked in wanted.items() if asked)
        answers = self.session.run(np.stack(images), outputs) if images else {}
        rows = iter(range(len(images)))
        return [
            _refuse(item) if item.prepared is None else self._describe(item, item.prepared, answers, next(rows), maps)
            for item in opened
        ]

    def _describe(
        self, item: _Opened, prepared: Prepared, answers: dict[str, Float32], row: int, maps: bool
    ) -> Prediction:
        card = self.card
        logits = answers["logits"][row]
        probabilities = self.probabilities(logits)
        distance = None if card.domain is None else float(answers["distance"][row])
        told = dict(zip(card.classes, probabilities.tolist(), strict=True))
        several = _read_findings(card, told) if card.task is Task.MULTILABEL else None
        reasons = (*item.reasons, *check_distance(distance, card.domain))
        status = Status.OUT_OF_SCOPE if reasons else Status.OK
        members = () if card.conformal is None else _members(card.classes, probabilities, card.conformal)
        if not reasons and card.conformal is not None and len(members) != 1:
            status, reasons = Status.ABSTAIN, (_doubt(members, card.conformal),)
        return Prediction(
            path=item.name,
            status=status,
            label=self._name(probabilities, several),
            probabilities=told,
            reasons=reasons,
            content_hash=item.hashes[0] if item.hashes else None,
            pixel_hash=item.hashes[1] if item.hashes else None,
            prediction_set=members if several is None else several.possible,
            distance=distance,
            logits=tuple(logits.tolist()),
            activation_maps=answers["activation_maps"][row] if maps else None,
            geometry=prepared.geometry if maps else None,
            findings=None if several is None else several.present,
            undetermined=() if several is None else several.undetermined,
        )

    def _name(self, probabilities: Float64, several: _Findings | None) -> str:
        """Return the class that stands for the answer where there is room for one."""
        classes = self.card.classes
        if several is not None and not any(map(is_finding, several.present)):
            nothing = next((label for label in classes if not is_finding(label)), None)
            if nothing is not None:
                return nothing
        scores = probabilities.copy()
        if several is not None and several.present:
            # One that is sure stands before one in doubt.
            sure = [label for label in several.present if label not in several.undetermined]
            scores[[label not in (sure or several.present) for label in classes]] = 0.0
        return classes[int(self.leading(scores[np.newaxis])[0])]


def _open(bundle: Bundle, engine: EngineName, precision: Precision, batch_size: int, threads: int) -> Predictor:
    return Predictor(
        bundle, engine=engine, precision=precision, batch_size=batch_size, streams=threads, threads=threads
    )


def _answer(maps: bool, predictor: Predictor, sources: list[Source]) -> list[Prediction]:
    return predictor._answer(sources, maps)


@dataclass(frozen=True, slots=True)
class _Findings:
    """What an answer says of several findings: present, in doubt, and not to be ruled out."""

    present: tuple[str, ...]
    undetermined: tuple[str, ...]
    possible: tuple[str, ...]


def _read_findings(card: Card, told: dict[str, float]) -> _Findings:
    may = {item.label: item.may_be(told[item.label]) for item in card.finding_sets}
    return _Findings(
        present=present_findings(card.operating_points, told),
        undetermined=tuple(label for label, (there, not_there) in may.items() if there == not_there),
        possible=tuple(label for label, (there, _) in may.items() if there),
    )


def _logit(probabilities: Float64) -> Float64:
    bounded = np.clip(probabilities, 1e-12, 1 - 1e-12)
    result: Float64 = np.log(bounded) - np.log1p(-bounded)
    return result


def _members(classes: tuple[str, ...], probabilities: Float64, conformal: Conformal) -> tuple[str, ...]:
    return tuple(label for label, value in zip(classes, probabilities, strict=True) if value >= conformal.threshold)


def _doubt(members: tuple[str, ...], conformal: Conformal) -> str:
    """Return why a prediction set that does not hold exactly one class is no answer."""
    if members:
        return f"the model does not know: at {conformal.coverage:.0%} coverage it may be {' or '.join(members)}"
    return f"the model does not know: at {conformal.coverage:.0%} coverage no class is probable enough"


def sigmoid(logits: Float32 | Float64) -> Float64:
    """Return a probability for each logit on its own."""
    result: Float64 = 0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))
    return result


def softmax(logits: Float32 | Float64) -> Float64:
    """Return probabilities over the last axis."""
    values = logits.astype(np.float64)
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    result: Float64 = powers / powers.sum(axis=-1, keepdims=True)
    return result


def heat_map(prediction: Prediction, label: str | None = None) -> Float32:
    """Return a class's activation map painted on the native film; the predicted class by default.

    Returns:
        (native height, native width), not negative.

    Raises:
        ValueError: the prediction was made without maps, or does not know the class.
    """
    if prediction.activation_maps is None or prediction.geometry is None:
        raise ValueError("Expected a prediction with activation maps, but it was made without: ask with maps=True.")
    classes = list(prediction.probabilities)
    wanted = label if label is not None else prediction.label
    if wanted not in classes:
        raise ValueError(f"Expected one of the classes {', '.join(classes)}, but got {wanted!r}.")
    return map_to_native(prediction.activation_maps[classes.index(wanted)], prediction.geometry)


def replay(bundle: Bundle, session: Session) -> dict[str, float]:
    """Prepare the golden films and run them; return the largest difference of each output.

    Raises:
        BundleError: preparing or the graph answers otherwise than where the bundle was made.
    """
    differences = measure_replay(bundle, session)
    own = bundle.card.tolerances.get(str(session.precision), {})
    allowed = {name: own.get(name, TOLERANCE[session.precision]) for name in differences}
    # Not a number is worse than any.
    excess = {name: np.nan_to_num(value, nan=np.inf) - allowed[name] for name, value in differences.items()}
    worst = max(excess, key=lambda name: excess[name])
    if not differences[worst] <= allowed[worst]:
        raise BundleError(
            f"The golden vectors do not replay: {worst} differs by {differences[worst]:.2g} of its range, allowed is "
            f"{allowed[worst]:.2g} in {session.precision}. The bundle or the engine ({session.engine}) cannot be "
            "trusted here."
        )
    return differences


def measure_replay(bundle: Bundle, session: Session) -> dict[str, float]:
    """Return how far each output stands from the golden one, relative to its largest golden value (or 1).

    Raises:
        BundleError: preparing differs, or the parts of the bundle do not fit each other.
    """
    golden = bundle.golden
    expected = {
        "logits": golden.logits,
        "embedding": golden.embedding,
        "activation_maps": golden.activation_maps,
    }
    if golden.distance is not None:
        expected["distance"] = golden.distance
    try:
        prepared = np.stack(
            [prepare(Radiograph(film, "", "png", 8), bundle.card.preprocessing).pixels for film in golden.films]
        )
        moved = _distance(prepared, golden.prepared)
        answers = session.run(golden.prepared)
        differences = {
            name: _distance(answers[name], values) / max(1.0, float(np.abs(values).max()))
            for name, values in expected.items()
        }
        if golden.logits.shape[1] != len(bundle.card.classes):
            raise ValueError(f"{len(bundle.card.classes)} classes, but {golden.logits.shape[1]} logits")
    except (ValueError, KeyError) as error:
        raise BundleError(f"The card, the graph and the golden vectors do not fit each other: {error}.") from error
    # Pillow's fixed-point resize may round the other way on another processor, never further.
    if moved > 1:
        raise BundleError("The golden films are prepared otherwise here than where the bundle was made. Check Pillow.")
    return differences


def _distance(came: UInt8 | Float32, golden: UInt8 | Float32) -> float:
    """Return the largest difference of two arrays of one shape."""
    if came.shape != golden.shape:
        raise ValueError(f"expected {golden.shape}, but got {came.shape}")
    return float(np.abs(came.astype(np.float64) - golden).max())


def _refuse(item: _Opened) -> Prediction:
    return Prediction(path=item.name, status=Status.ERROR, label=None, probabilities={}, reasons=item.reasons)


def _batches(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    batch: list[Source] = []
    for source in sources:
        batch.append(source)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
