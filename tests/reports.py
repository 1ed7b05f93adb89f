"""A small report with all that one may hold, and a reader of its page."""

from __future__ import annotations

import dataclasses
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np

from rentgen.evaluate.measure import evaluate
from rentgen.evaluate.metrics import choose_operating_points
from rentgen.evaluate.report import Report
from rentgen.records import (
    Audit,
    Card,
    Epoch,
    Evaluation,
    History,
    Leak,
    Mistake,
    PatientSource,
    Preprocessing,
)

HOSTILE = '<script>alert("x")</script>|`**a**`\n# b.png'
EPOCHS = tuple(Epoch(1 / i, 1 - 0.3 / i, 1 - 0.4 / i, 1 - 0.35 / i) for i in range(1, 6))
HISTORY = History(dict.fromkeys(("train", "validation", "test"), EPOCHS), 4, 12.5)
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001e221bc33"
    "0000000049454e44ae426082"
)


@cache
def make_evaluation(count: int = 2, n: int = 150) -> Evaluation:
    rng = np.random.default_rng(count)
    classes = ("normal", "covid", "tuberculosis")[:count]
    labels = rng.integers(count, size=n)
    odds = np.exp(rng.normal(size=(n, count)) + 2 * np.eye(count)[labels])
    scores = odds / odds.sum(axis=1, keepdims=True)
    patients = [str(i // 2) for i in range(n)]
    points = choose_operating_points(scores, labels, classes, rng=rng, patients=patients, resamples=50)
    leak = Leak(0, 0, PatientSource.CSV)
    return evaluate(scores, labels, patients, classes, rng=rng, operating_points=points, resamples=50, leak=leak)


def make_card(count: int = 2, **changes: Any) -> Card:  # noqa: ANN401
    found = make_evaluation(count)
    counts = {part: dict.fromkeys(found.classes, 40) for part in ("train", "validation", "test")}
    card = Card(
        name="little-model",
        created="2025-06-01T10:00:00Z",
        classes=found.classes,
        positive=found.positive,
        preprocessing=Preprocessing(),
        backbone={"name": "resnet50", "weights": "ImageNet", "features": 2048},
        recipe={"seed": 7, "head": {"hidden": 256, "dropout": 0.5}},
        history=History({}, 0, 0.0),
        operating_points=found.operating_points,
        validation=found.to_dict(),
        test=found.to_dict(),
        counts=counts,
        audit=make_audit().summary(),
        intended_use="Research on chest films.",
        licences=("Images: CC BY 4.0",),
        software={"rentgen": "0.1.0"},
        command="rentgen train films --out little.rentgen",
    )
    return dataclasses.replace(card, **changes)


def make_audit() -> Audit:
    counts = {"all": {"normal": 80, "covid": 70}}
    return Audit(
        n=150,
        unreadable={},
        pairs=(),
        counts=counts,
        patients={"all": 75},
        patient_source=PatientSource.CSV,
        shared_patients=0,
        heights=(100, 200, 300),
        widths=(110, 210, 310),
        formats={"png": 150},
        shortcuts={"width": 0.91, "mean": 0.55, "height": 0.7},
        findings=("Width alone tells the classes apart.",),
    )


def make_report(count: int = 2, **changes: Any) -> Report:  # noqa: ANN401
    mistake = Mistake("films/a.png", "normal", "covid", 0.987, PIXEL, PIXEL)
    report = Report(
        card=make_card(count),
        evaluation=make_evaluation(count),
        title="Little report",
        data_path="films/test",
        command="rentgen evaluate little.rentgen films/test",
        created="2025-06-02T08:00:00Z",
        audit=make_audit(),
        mistakes=(mistake,),
    )
    return dataclasses.replace(report, **changes)


def with_evaluation(count: int = 2, **changes: Any) -> Report:  # noqa: ANN401
    return make_report(count, evaluation=dataclasses.replace(make_evaluation(count), **changes))


class Page(HTMLParser):
    """Collects tags, identifiers, links and text, and checks that tags close."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
