"""What bundles must have in common to answer as one, and what is said where they have not."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ensembles import divided, run, write_member

from rentgen import bundle as bundles
from rentgen.bundle import Bundle
from rentgen.data.listing import list_images
from rentgen.data.split import select
from rentgen.errors import SettingError
from rentgen.learn.ensemble.agree import Seat, agree, parse_weights
from rentgen.learn.ensemble.make import answer_settings
from rentgen.records import Card, Conformal, Domain, Listing, PatientSource, Scope, Split, SplitCertificate, Task


@dataclass(frozen=True)
class Members:
    """Two bundles of one split."""

    folder: Path
    listing: Listing
    first: Bundle
    second: Bundle

    def part(self, part: Split) -> Listing:
        return select(self.listing, part)


@pytest.fixture(scope="module")
def made(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Members:
    folder = tmp_path_factory.mktemp("members")
    listing = divided(list_images(films))
    scoped = Scope(modalities=("CR", "DX"))
    return Members(
        folder,
        listing,
        write_member(folder / "a.rentgen", listing, 0, change=lambda card: replace(card, scope=scoped)),
        write_member(folder / "b.rentgen", listing, 1),
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda card: replace(card, preprocessing=replace(card.preprocessing, smooth_px=1.0, crop_borders=True)),
            r"a.rentgen and odd.rentgen differ in crop_borders \(False and True\); smooth_px \(.* and 1.0\)",
        ),
        (lambda card: replace(card, classes=("covid", "normal", "x")), "Expected members of the same classes"),
        (lambda card: replace(card, task=Task.MULTILABEL), "have multiclass and multilabel"),
        (
            lambda card: replace(card, scope=Scope(modalities=("MG",))),
            r"modalities in common .* none \(a.rentgen: CR, DX; odd.rentgen: MG\)",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(
    made: Members,
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Card], Card],
    told: str,
) -> None:
    odd = tmp_path / "odd.rentgen"
    bundles.write(odd, replace(made.first, card=change(made.first.card)))
    members = [made.folder / "a.rentgen", odd]
    assert run(monkeypatch, "ensemble", *members, "--data", films, "--out", tmp_path / "c.rentgen") == 1
    assert re.search(told, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "c.rentgen").exists()


@pytest.mark.parametrize(
    ("members", "more", "told"),
    [
        (["a"], [], "Expected 2 to 32 bundles to answer together, but got 1"),
        (["a", "a"], [], "a.rentgen and a.rentgen are the same bundle"),
        (["a", "none"], [], "There is no file"),
        (["a", "b"], ["--weights", "1,2,3"], "Expected weights: `equal`, or a positive number for each of the 2"),
        (["a", "b"], ["--weights", "1,-1"], "Expected weights"),
        (["a", "b"], ["--calibration", "magic"], "answer.calibration"),
        (["a", "b"], ["--coverage", "0.95"], "a coverage of 0.95 needs|are needed|Expected enough films"),
    ],
)
def test_wrong_use_is_explained(
    made: Members,
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    members: list[str],
    more: list[str],
    told: str,
) -> None:
    paths = [made.folder / f"{name}.rentgen" for name in members]
    data = tmp_path / "few" if "--coverage" in more else films
    for record in made.part(Split.TEST).records[:4] if data is not films else ():
        (data / str(record.label)).mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path, data / str(record.label))
    assert run(monkeypatch, "ensemble", *paths, "--data", data, "--out", tmp_path / "c.rentgen", *more) == 1
    assert re.search(told, " ".join(capsys.readouterr().err.split()))


def test_films_that_all_were_seen_are_refused_with_what_to_give(
    made: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "seen.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label"])
        for part in (Split.TRAIN, Split.VALIDATION):
            rows.writerows([str(record.path), record.label] for record in made.part(part).records)
    members = [made.folder / "a.rentgen", made.folder / "b.rentgen"]
    assert run(monkeypatch, "ensemble", *members, "--data", table, "--out", tmp_path / "c.rentgen") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "Expected films that no member has seen" in said
    assert "or train the members on one split" in said


def test_a_member_that_does_not_say_what_it_learned_from_is_refused(
    made: Members, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.rentgen"
    bundles.write(empty, replace(made.first, split=SplitCertificate("33" * 16, {}, {}, {}, PatientSource.NONE, {})))
    members = [made.folder / "b.rentgen", empty]
    assert run(monkeypatch, "ensemble", *members, "--data", films, "--out", tmp_path / "c.rentgen") == 1
    assert "its certificate names no film that it was trained on" in " ".join(capsys.readouterr().err.split())


def test_weights_are_shares() -> None:
    assert parse_weights("equal", 4) == (0.25,) * 4
    assert parse_weights("0.6, 0.4", 2) == pytest.approx((0.6, 0.4))
    for wrong in ("1", "1,nan", "1,inf", "1,x", "0,1", ""):
        with pytest.raises(SettingError, match="Expected weights"):
            parse_weights(wrong, 2)


def seats(made: Members, *changes: Callable[[Card], Card]) -> list[Seat]:
    pairs = zip((made.first, made.second), changes, strict=True)
    return [Seat(f"{n}.rentgen", replace(one, card=change(one.card)), 0.5) for n, (one, change) in enumerate(pairs)]


def test_ages_that_no_patient_has_are_refused(made: Members) -> None:
    old, young = Scope(min_age_years=18.0), Scope(max_age_years=5.0)
    with pytest.raises(SettingError, match="begins at 18 years and another ends at 5"):
        agree(seats(made, lambda card: replace(card, scope=old), lambda card: replace(card, scope=young)))
    common = agree(seats(made, lambda card: replace(card, scope=old), lambda card: replace(card, scope=None)))
    assert common.scope == old


def test_distances_need_a_unit(made: Members) -> None:
    with pytest.raises(SettingError, match=r"0.rentgen: expected a positive threshold of its domain.* but got -0.1"):
        agree(seats(made, lambda card: replace(card, domain=Domain(-0.1, 0.6, 9)), lambda card: card))


def test_it_promises_what_its_members_promise(made: Members) -> None:
    def careful(card: Card) -> Card:
        recipe = {"answer": {"stressed": 0.3, "balanced": True}}
        return replace(card, recipe=recipe, domain=Domain(1.0, 0.96, 9), conformal=Conformal(0.9, 0.5, 9))

    both = answer_settings(
        seats(made, careful, lambda card: replace(careful(card), domain=Domain(1, 0.99, 9))), "auto", None
    )
    assert (both.stressed, both.balanced, both.coverage, both.kept) == (0.3, True, 0.9, 0.96)
    one = answer_settings(seats(made, careful, lambda card: card), "none", 0.0)
    assert (one.calibration, one.stressed, one.balanced, one.coverage, one.kept) == ("none", 0.3, False, 0.0, 0.96)
