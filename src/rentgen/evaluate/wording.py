"""Figures in words: what a physician reads before, or instead of, the tables.

All functions take the plain JSON values of `Evaluation.to_dict()`, so that a bundle's card and a fresh measurement read
the same; None stands for what could not be measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rentgen.records import Card, PatientSource, Task

NO_BREAK = "\N{NO-BREAK SPACE}"
UNKNOWN = "not measurable"
NOTHING = "Nothing has been measured with this model."
METRICS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("Accuracy", "share of films named rightly"),
    "balanced_accuracy": (
        "Balanced accuracy",
        "mean of the classes' recalls: rare classes count as much as common ones",
    ),
    "recall": ("Recall (sensitivity)", "of the films with the finding, the share it found"),
    "specificity": ("Specificity", "of the films without the finding, the share it passed over"),
    "precision": (
        "Precision (PPV)",
        "of the films it named so, the share that were; depends on how common the finding is",
    ),
    "f1": ("F1", "harmonic mean of precision and recall"),
    "macro_recall": ("Recall, macro", "mean over the classes"),
    "macro_specificity": ("Specificity, macro", "mean over the classes"),
    "macro_precision": ("Precision, macro", "mean over the classes"),
    "macro_f1": ("F1, macro", "mean over the classes"),
    "auroc": ("AUROC", "chance that a film with the finding scores above one without; 0.5 is guessing"),
    "average_precision": ("Average precision", "area under the precision-recall curve"),
    "loss": ("Log loss", "cross-entropy in nats; smaller is better"),
    "brier": ("Brier score", "mean squared error of the probabilities; smaller is better"),
    "ece": ("Calibration error (ECE)", "mean gap between stated confidence and share right; smaller is better"),
}
"""Metric to its name and meaning, in the order of the report's table."""
SEVERAL: Mapping[str, tuple[str, str]] = {
    "accuracy": (
        "Accuracy",
        "share of all known pairs of film and finding called rightly; easy where findings are rare",
    ),
    "balanced_accuracy": ("Balanced accuracy", "mean of sensitivity and specificity, over the findings"),
    "auroc": ("AUROC", "mean over the findings; chance that a film with one scores above a film without"),
    "average_precision": ("Average precision", "mean over the findings"),
    "loss": ("Log loss", "cross-entropy in nats, of a known pair of film and finding; smaller is better"),
    "brier": ("Brier score", "mean squared error of the probabilities, of a known pair; smaller is better"),
    "ece": ("Calibration error (ECE)", "mean over the findings of the gap between probability and share present"),
}
"""What stands in the place of `METRICS` where films have several findings, each at its own operating point."""
CLASS_COLUMNS: Mapping[str, str] = {
    "recall": "Recall",
    "precision": "Precision",
    "specificity": "Specificity",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "ece": "ECE",
    "brier": "Brier score",
}
"""What is measured for each class, as the report's table has it."""
IN_PERCENT = frozenset(
    {"accuracy", "balanced_accuracy", "recall", "specificity", "precision", "f1", "ece"}
    | {"macro_recall", "macro_specificity", "macro_precision", "macro_f1"}
)
"""Metrics that are shares and are written in percent."""
POINT_NAMES = {
    "youden": "Balanced (Youden)",
    "sensitivity_0.95": "95 % sensitivity",
    "specificity_0.95": "95 % specificity",
}
PATIENTS_KNOWN = {
    PatientSource.CSV: "Patients are known from the CSV.",
    PatientSource.DICOM: "Patients are known from the DICOM headers.",
    PatientSource.NAME: "Patients were read from the files' names.",
    PatientSource.NONE: "Who the patients are is not known for all: such a film counts as a patient of its own.",
}
LIMITS = (
    "The figures hold for films like the ones measured. Other machines, views, ages and hospitals may change them: "
    "measure on your own films before use.",
    "Precision and the worth of a positive answer change with how common the finding is.",
    "The model knows its own classes only. It does not see any other disease, and names one of its classes regardless.",
    "A heat map shows where evidence was found, not why, and not the border of a lesion.",
)
"""What every report says."""
PREVALENCES = (0.02, 0.10, 0.30)
"""Shares of patients with the finding for which a positive answer's worth is shown."""


def value_text(name: str, value: float | None) -> str:
    """Return one metric's value: percent for shares, three digits for the rest."""
    if value is None or np.isnan(value):
        return UNKNOWN
    return f"{value * 100:.1f}{NO_BREAK}%" if name in IN_PERCENT else f"{value:.3f}"


def range_text(name: str, interval: Mapping[str, float | None]) -> str:
    """Return the 95 % interval as `95.8-98.2`, with an en dash; empty where there is none."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return ""
    return f"{low * 100:.1f}–{high * 100:.1f}" if name in IN_PERCENT else f"{low:.3f}–{high:.3f}"  # noqa: RUF001


def of_hundred(share: float | None) -> str:
    """Return how many of 100; a digit more where a whole number would claim none or all."""
    if share is None or np.isnan(share):
        return UNKNOWN
    number = share * 100
    whole = round(number)
    return f"{number:.1f}" if whole in (0, 100) and whole != number else str(whole)


def plural(number: int, noun: str) -> str:
    """Return the number, with a thousands separator, and its noun.

    Example:
        >>> plural(1, "film"), plural(5216, "film")
        ('1 film', '5,216 films')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def is_several(found: Mapping[str, Any]) -> bool:
    """Return whether a measurement is of several findings a film."""
    return found.get("task") == Task.MULTILABEL


def headline(found: Mapping[str, Any], seen: str) -> str:
    """Return the one sentence that the report begins with.

    Args:
        found: `Evaluation.to_dict()`.
        seen: one of the values of `seen_before`.
    """
    clause = {
        "unseen": " it had not seen",
        "names": "",
        "leaky": ", some of which had made or chosen the model",
        "unknown": " (whether it had seen them is not known)",
        "validation": " of the validation part, which had chosen the model",
    }[seen]
    accuracy = found["accuracy"]
    spread = range_text("accuracy", accuracy)
    interval = f" (95{NO_BREAK}% interval {spread})" if spread else ""
    of_patients = f" of {plural(found['patients'], 'patient')}" if found["patients"] < found["n"] else ""
    if seen == "names":
        # The films are new; of the patients nobody can be sure.
        of_patients = f" it had not seen{',' if of_patients else ''}{of_patients}"
    if is_several(found):
        area = found["auroc"]
        spread = range_text("auroc", area)
        interval = f" (95{NO_BREAK}% interval {spread})" if spread else ""
        return (
            f"On {plural(found['n'], 'film')}{of_patients}{clause}, the model told "
            f"{plural(len(found['classes']), 'finding')} with a mean AUROC of "
            f"{value_text('auroc', area['value'])}{interval}."
        )
    return (
        f"On {plural(found['n'], 'film')}{of_patients}{clause}, the model was right in "
        f"{value_text('accuracy', accuracy['value'])}{interval}."
    )


def seen_before(found: Mapping[str, Any], basis: str) -> str:
    """Return `unseen`, `names`, `leaky`, `unknown` or `validation`: the set's part in the making of the model.

    With `names` the films are new, but the files' names hint that some patients are not.
    """
    if basis == "validation":
        return "validation"
    if found["leak"] is None:
        # A test part was split off by patient when the model was made.
        return "unseen" if basis == "test" else "unknown"
    if found["leak"]["leaky"]:
        return "leaky"
    return "names" if found["leak"]["patients"] else "unseen"


def detail(found: Mapping[str, Any]) -> list[str]:
    """Return the sentences that follow the headline: sensitivity and specificity, ranking, calibration."""
    if is_several(found):
        return _of_findings(found)
    sentences = []
    recall, specificity, area, gap = (found[name]["value"] for name in ("recall", "specificity", "auroc", "ece"))
    if found["positive"] is not None and recall is not None and specificity is not None:
        sentences.append(
            f"Of 100 films with {found['positive']} it named {of_hundred(recall)}; of 100 without, it raised a false "
            f"alarm in {of_hundred(1 - specificity)}."
        )
    elif found["positive"] is None:
        known = [
            (values["recall"]["value"], label)
            for label, values in found["per_class"].items()
            if values["recall"]["value"] is not None
        ]
        worst, best = min(known), max(known)
        if worst[0] < best[0]:
            sentences.append(
                f"It was best at {best[1]} ({of_hundred(best[0])} of 100 found) and weakest at {worst[1]} "
                f"({of_hundred(worst[0])} of 100)."
            )
    if area is not None:
        sentences.append(
            f"Its scores rank the films with an AUROC of {area:.3f} ({range_text('auroc', found['auroc'])})."
        )
    if gap is not None:
        sentences.append(f"Its stated confidence is off by {gap * 100:.1f} percentage points on average.")
    return sentences


def _of_findings(found: Mapping[str, Any]) -> list[str]:
    sentences = []
    known = [
        (values["auroc"]["value"], label)
        for label, values in found["per_class"].items()
        if values["auroc"]["value"] is not None
    ]
    if len(known) > 1:
        worst, best = min(known), max(known)
        sentences.append(f"It told {best[1]} best (AUROC {best[0]:.3f}) and {worst[1]} worst ({worst[0]:.3f}).")
    recall, specificity, gap = (found[name]["value"] for name in ("recall", "specificity", "ece"))
    if recall is not None and specificity is not None:
        sentences.append(
            f"At each finding's own operating point it found, on average, {of_hundred(recall)} of 100 films with it, "
            f"and raised a false alarm in {of_hundred(1 - specificity)} of 100 without."
        )
    if gap is not None:
        sentences.append(
            f"Its probabilities are off by {gap * 100:.1f} percentage points on average over the findings."
        )
    return sentences


def operating_point(point: Mapping[str, Any], positive: str | None, *, several: bool = False) -> dict[str, Any]:
    """Return one operating point as the report shows it: name, threshold, sentence, values, worth of an answer.

    Args:
        point: `OperatingPoint.to_dict()`.
        positive: the class of two that it speaks of.
        several: whether films have several findings.
    """
    found, passed = point["sensitivity"]["value"], point["specificity"]["value"]
    name = point["name"]
    having, lacking = (
        (f"with {point['label']}", "without")
        if positive is not None or several
        else (f"of {point['label']}", "of other classes")
    )
    if found is None or passed is None:
        sentence = "Could not be measured: the set lacks films of one kind."
    else:
        sentence = (
            f"Of 100 films {having} it finds {of_hundred(found)}; of 100 {lacking}, it raises a false alarm in "
            f"{of_hundred(1 - passed)}."
        )
    return {
        "name": POINT_NAMES.get(name, name),
        "label": point["label"],
        "threshold": f"{point['threshold']:.4f}",
        "sentence": sentence,
        "sensitivity": value_text("recall", found),
        "sensitivity_range": range_text("recall", point["sensitivity"]),
        "specificity": value_text("recall", passed),
        "specificity_range": range_text("recall", point["specificity"]),
        "worth": [predictive_value(found, passed, share) for share in PREVALENCES] if positive is not None else [],
    }


def predictive_value(sensitivity: float | None, specificity: float | None, prevalence: float) -> str:
    """Return, of 100 positive answers, how many would be right where the finding has this prevalence."""
    if sensitivity is None or specificity is None:
        return UNKNOWN
    right = sensitivity * prevalence
    called = right + (1 - specificity) * (1 - prevalence)
    return of_hundred(right / called if called else None)


def shortcut(name: str, area: float) -> dict[str, Any]:
    """Return how well a number that needs no radiologist tells the classes apart."""
    word = "strong" if area >= 0.8 else "noticeable" if area >= 0.65 else "weak"
    return {"name": name, "value": f"{area:.3f}", "word": word, "share": round((area - 0.5) * 200, 1)}


def leak_words(found: Mapping[str, Any]) -> str:
    """Return why the figures cannot be trusted; empty where nothing leaked."""
    leak = found["leak"]
    if leak is None or not leak["leaky"]:
        return ""
    shared = [plural(leak["images"], "film")] if leak["images"] else []
    shared += [plural(leak["patients"], "patient")] if leak["patients"] else []
    return (
        f"{' and '.join(shared)} of this set had also trained or chosen the model. It has seen the answers: the "
        "figures below are too good, and say nothing of films it has never seen. Measure on others."
    )


def cautions(found: Mapping[str, Any], basis: str, patient_source: str | None) -> list[str]:
    """Return what a careful reader should know before believing the figures.

    Args:
        found: `Evaluation.to_dict()`; empty where nothing was measured.
        basis: `asked`, `test` or `validation`.
        patient_source: how patients became known; None where that is unknown.
    """
    if not found:
        return []
    notes = []
    if basis == "validation":
        notes.append("The model has no test part and no other set was measured: these figures flatter.")
    elif basis == "test":
        notes.append("No other set was measured: these are the figures of the test part, from when the model was made.")
    leak = found["leak"]
    if leak is not None and not leak["leaky"] and leak["patients"]:
        notes.append(
            f"{plural(leak['patients'], 'patient')} may also have made the model, going by the files' names. Names are "
            "weak evidence across sources; look at them."
        )
    if patient_source == PatientSource.NONE:
        notes.append(
            "Who the patients are is not known, so each film counts as a patient of its own: intervals may be too "
            "narrow, and one patient may stand on both sides."
        )
    missing = [label for label, number in found["support"].items() if not number]
    if missing:
        notes.append(f"The set has no film of {', '.join(missing)}: what speaks of them cannot be measured.")
    if found["n"] < 100:
        notes.append(f"With {plural(found['n'], 'film')}, chance is large: look at the intervals, not at the values.")
    if found["failed"]:
        notes.append(f"{plural(len(found['failed']), 'file')} could not be read and did not count.")
    return notes


def interval_words(found: Mapping[str, Any]) -> str:
    """Return how the intervals came about."""
    if not found.get("resamples"):
        return "No intervals were computed."
    return (
        f"Intervals hold the middle 95 % of {plural(found['resamples'], 'bootstrap resample')} of the "
        f"{plural(found['patients'], 'patient')}; all films of a drawn patient come along, because they are not "
        "independent."
    )


def status_words(found: Mapping[str, Any]) -> str:
    """Return what the input gate said of the films; empty where all were fine or nobody asked."""
    names = {"out_of_scope": "out of the model's scope", "abstain": "undecided", "error": "unreadable"}
    told = [f"{number:,} {names[status]}" for status, number in found["statuses"].items() if number and status in names]
    return f"The input gate called {', '.join(told)}. They count in the figures where they have scores." if told else ""


def audit_words(audit: Mapping[str, Any]) -> list[str]:
    """Return `Audit.summary()` in sentences; what is missing is passed over."""
    if not audit:
        return []
    sentences = [f"{plural(audit['n'], 'film')}."] if "n" in audit else []
    if audit.get("unreadable"):
        sentences.append(f"{plural(audit['unreadable'], 'file')} could not be read.")
    if audit.get("patient_source"):
        sentences.append(PATIENTS_KNOWN[PatientSource(audit["patient_source"])])
    if "shared_patients" in audit:
        number = audit["shared_patients"]
        sentences.append(
            f"{plural(number, 'patient')} {'stands' if number == 1 else 'stand'} in more than one part."
            if number
            else "No patient stands in more than one part."
        )
    if "exact_duplicates" in audit:
        sentences.append(
            f"Duplicates: {audit['exact_duplicates']} exact, {audit['near_duplicates']} near; "
            f"{audit['duplicates_across_parts']} across parts, {audit['duplicates_across_labels']} across labels."
        )
    if audit.get("heights") and audit.get("widths"):
        low, middle, high = zip(audit["widths"], audit["heights"], strict=True)
        sentences.append(
            f"Films measure {low[0]} to {high[0]} by {low[1]} to {high[1]} pixels (median {middle[0]} by {middle[1]})."
        )
    if audit.get("formats"):
        sentences.append(f"Formats: {', '.join(f'{name} {number:,}' for name, number in audit['formats'].items())}.")
    return sentences


def model_words(card: Card) -> list[tuple[str, str]]:
    """Return the model's particulars, as pairs of name and text."""
    backbone, fed = card.backbone, card.preprocessing
    resize = "each axis scaled on its own" if fed.resize == "squash" else "one scale, padded with black"
    borders = ", black borders cut away first" if fed.crop_borders else ""
    return [
        *(
            pair
            for network in (backbone, *backbone.get("also", ()))
            for pair in (
                ("Backbone", f"{network.get('name', 'unknown')}, {network.get('features', 'unknown')} features"),
                ("Starting weights", str(network.get("weights", "unknown"))),
            )
        ),
        *(("Member", f"{one['name']}, weight {one['weight']:.3f}") for one in backbone.get("members", ())),
        ("Input", f"{fed.width} by {fed.height} pixels, {resize}{borders}"),
        ("Classes", ", ".join(card.classes)),
        ("Answers", "several findings a film, a sigmoid each" if card.task is Task.MULTILABEL else "one class a film"),
        ("Speaks of", card.positive or "every class alike"),
        ("Made", card.created),
    ]


def training_words(card: Card) -> str:
    """Return how training went, in words; empty without a history."""
    parts = {part: epochs for part, epochs in card.history.parts.items() if epochs}
    if not parts:
        return ""
    best = card.history.best_epoch
    reached = ", ".join(f"{value_text('accuracy', epochs[best].accuracy)} on {part}" for part, epochs in parts.items())
    test = " The test part was only recorded; nothing looked at it." if "test" in parts else ""
    return (
        f"{plural(max(map(len, parts.values())), 'epoch')} in {card.history.seconds:,.0f} s. The weights of epoch "
        f"{best + 1} were kept, where the validation loss was lowest; there, accuracy was {reached}.{test}"
    )
