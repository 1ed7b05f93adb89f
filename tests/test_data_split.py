from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rentgen.data.split import (
    certify,
    check_split,
    count_shared_patients,
    find_leak,
    keep_together,
    select,
    split,
)
from rentgen.errors import DataError, LeakError, SettingError
from rentgen.records import (
    Audit,
    DuplicatePair,
    ImageRecord,
    Listing,
    PatientSource,
    Split,
    SplitCertificate,
)

SALT = "0123456789abcdef" * 2
TRAIN, VALIDATION, TEST = Split


def make(
    patients: list[tuple[str, int]],
    *,
    source: PatientSource = PatientSource.CSV,
    part: Split | None = None,
) -> Listing:
    """Return a listing with one patient for each (class, number of films)."""
    records = tuple(
        ImageRecord(Path(f"{part or ''}{index}-{film}.png"), label, f"{part or ''}p{index}", part)
        for index, (label, films) in enumerate(patients)
        for film in range(films)
    )
    return Listing(Path("set"), records, tuple(sorted({label for label, _ in patients})), source)


def join(*listings: Listing) -> Listing:
    return replace(listings[0], records=tuple(record for listing in listings for record in listing.records))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def empty_audit() -> Audit:
    return Audit(0, {}, (), {}, {}, PatientSource.NONE, 0, (0, 0, 0), (0, 0, 0), {}, {}, ())


SETS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5)), min_size=0, max_size=60).map(
    lambda more: make([("a", 1), ("b", 2), ("a", 3), ("b", 1), ("a", 1), ("b", 4), *more])
)


@settings(deadline=None, max_examples=60)
@given(SETS, st.integers(0, 2**32 - 1))
def test_no_patient_stands_on_two_sides_and_no_film_is_lost(listing: Listing, seed: int) -> None:
    divided = split(listing, rng=rng(seed))
    assert count_shared_patients(divided) == 0
    assert [(r.path, r.label, r.patient) for r in divided.records] == [
        (r.path, r.label, r.patient) for r in listing.records
    ]
    assert sum(len(select(divided, part)) for part in Split) == len(listing)
    assert all({r.label for r in select(divided, part).records} == {"a", "b"} for part in Split)
    assert divided == split(listing, rng=rng(seed))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.3), st.floats(0.1, 0.3))
def test_parts_have_their_share_of_films_and_of_patients_in_each_class(
    seed: int, validation: float, test: float
) -> None:
    numbers = rng(seed)
    listing = make([("ab"[int(numbers.random() < 0.3)], int(numbers.geometric(0.5))) for _ in range(600)])
    divided = split(listing, validation=validation, test=test, rng=numbers)
    for label in "ab":
        members = [r for r in divided.records if r.label == label]
        for part, share in ((VALIDATION, validation), (TEST, test)):
            inside = [r for r in members if r.split is part]
            assert len(inside) / len(members) == pytest.approx(share, abs=0.02)
            patients = len({r.patient for r in inside}) / len({r.patient for r in members})
            assert patients == pytest.approx(share, abs=0.02)


def test_another_seed_gives_another_split() -> None:
    listing = make([("a", 1), ("b", 2)] * 30)
    assert split(listing, rng=rng(0)) != split(listing, rng=rng(1))


def test_a_patient_with_two_classes_stays_whole() -> None:
    listing = make([("a", 1), ("b", 1)] * 12)
    both = replace(listing, records=tuple(replace(r, patient=f"p{i // 2}") for i, r in enumerate(listing.records)))
    divided = split(both, rng=rng())
    assert count_shared_patients(divided) == 0
    assert all(Counter(r.label for r in select(divided, p).records).total() for p in Split)


def test_zero_test_share_makes_no_test_part() -> None:
    divided = split(make([("a", 1), ("b", 1)] * 10), test=0, rng=rng())
    assert {r.split for r in divided.records} == {TRAIN, VALIDATION}


def test_given_parts_are_kept() -> None:
    pair = [("a", 2), ("b", 1)]
    whole = join(make(pair * 9, part=TRAIN), make(pair, part=VALIDATION), make(pair, part=TEST))
    assert split(whole, rng=rng()) == whole
    without_test = join(make(pair * 9, part=TRAIN), make(pair, part=VALIDATION))
    assert split(without_test, rng=rng()) == without_test


def test_validation_comes_out_of_train_where_only_test_is_given() -> None:
    pair = [("a", 1), ("b", 1)]
    given_test = make(pair * 10, part=TEST)
    divided = split(join(make(pair * 50, part=TRAIN), given_test), validation=0.2, rng=rng())
    assert select(divided, TEST).records == given_test.records
    assert (len(select(divided, TRAIN)), len(select(divided, VALIDATION))) == (80, 20)


def test_train_alone_is_divided_like_a_set_without_parts() -> None:
    divided = split(make([("a", 1), ("b", 1)] * 50, part=TRAIN), rng=rng())
    assert [len(select(divided, part)) for part in Split] == [70, 16, 14]


def test_parts_on_some_films_only_are_refused() -> None:
    pair = [("a", 1), ("b", 1)]
    with pytest.raises(DataError, match="2 of 4 films have no part while the others have one"):
        split(join(make(pair, part=TRAIN), make(pair)), rng=rng())


def test_parts_without_train_are_refused() -> None:
    with pytest.raises(DataError, match="Expected training films, but the source gives only: test"):
        split(make([("a", 1), ("b", 1)], part=TEST), rng=rng())


@pytest.mark.parametrize(("validation", "test"), [(0, 0.1), (0.5, 0.5), (0.1, -0.1), (1.2, 0), (float("nan"), 0.1)])
def test_shares_out_of_range_are_refused(validation: float, test: float) -> None:
    with pytest.raises(SettingError, match=r"Expected validation in \(0, 1\), test in \[0, 1\)"):
        split(make([("a", 1), ("b", 1)] * 10), validation=validation, test=test, rng=rng())


def test_films_without_a_class_are_refused() -> None:
    listing = make([("a", 1), ("b", 1)])
    bare = replace(listing, records=(replace(listing.records[0], label=None), *listing.records[1:]))
    with pytest.raises(DataError, match="Expected a class for every film, but 1 of 2 have none"):
        split(bare, rng=rng())
    with pytest.raises(DataError, match="0 of 0 have none"):
        split(replace(listing, records=()), rng=rng())


def test_a_class_with_too_few_patients_is_refused_with_numbers() -> None:
    listing = make([("a", 1)] * 10 + [("b", 7), ("b", 2)])
    with pytest.raises(
        DataError, match=r"no film of 'b': the set has 9 films of it from 2 patients, and each of 3 parts"
    ):
        split(listing, rng=rng())


def test_a_given_patient_in_two_parts_is_a_leak() -> None:
    pair = [("a", 1), ("b", 1)]
    whole = join(make(pair, part=TRAIN), make(pair, part=VALIDATION))
    leaky = replace(whole, records=tuple(replace(r, patient="secret") for r in whole.records))
    with pytest.raises(LeakError, match="Patients with films in more than one part: 1") as caught:
        split(leaky, rng=rng())
    assert "secret" not in str(caught.value)
    check_split(replace(leaky, patient_source=PatientSource.NONE))


def test_copies_under_two_patients_are_kept_together() -> None:
    listing = make([("a", 1), ("b", 1)] * 20)
    names = [str(r.path) for r in listing.records]
    pairs = [
        DuplicatePair(names[a], names[b], False, 0.99, True, True, False) for a, b in ((0, 4), (8, 4), (30, 0), (2, 6))
    ]
    for seed in range(5):
        divided = split(keep_together(listing, pairs), rng=rng(seed))
        parts = [r.split for r in divided.records]
        assert parts[0] == parts[4] == parts[8] == parts[30]
        assert parts[2] == parts[6]
    assert keep_together(listing, []) == listing


def certified(listing: Listing) -> tuple[SplitCertificate, dict[Path, str]]:
    hashes = {r.path: f"{i:064x}" for i, r in enumerate(listing.records)}
    return certify(listing, hashes, empty_audit(), SALT), hashes


def test_certificate_names_no_patient_and_survives_json() -> None:
    listing = split(make([("a", 2), ("b", 1)] * 10), rng=rng())
    certificate, hashes = certified(listing)
    assert certificate.images[TRAIN] == tuple(sorted(hashes[r.path] for r in select(listing, TRAIN).records))
    assert len(certificate.patients[TEST]) == len({r.patient for r in select(listing, TEST).records})
    assert not {r.patient for r in listing.records} & {p for part in certificate.patients.values() for p in part}
    assert SplitCertificate.from_dict(certificate.to_dict()) == certificate


def test_train_and_validation_leak_but_test_does_not() -> None:
    listing = split(make([("a", 2), ("b", 1)] * 10), rng=rng())
    certificate, hashes = certified(listing)
    for part in Split:
        members = select(listing, part).records
        found = find_leak(
            certificate, [hashes[r.path] for r in members], [r.patient for r in members], PatientSource.CSV
        )
        seen = part is not TEST
        assert (found.images, found.patients) == (seen * len(members), seen * len({r.patient for r in members}))
        assert found.leaky == seen
    found = find_leak(certificate, ["f" * 64], ["stranger"], PatientSource.CSV)
    assert (found.images, found.patients, found.leaky) == (0, 0, False)


@pytest.mark.parametrize(
    ("taught", "measured", "weakest", "patients"),
    [
        (PatientSource.CSV, PatientSource.DICOM, PatientSource.DICOM, 2),
        (PatientSource.NAME, PatientSource.CSV, PatientSource.NAME, 2),
        (PatientSource.NONE, PatientSource.CSV, PatientSource.NONE, 0),
        (PatientSource.CSV, PatientSource.NONE, PatientSource.NONE, 0),
    ],
)
def test_patients_are_compared_where_both_sides_know_theirs(
    taught: PatientSource, measured: PatientSource, weakest: PatientSource, patients: int
) -> None:
    certificate, _ = certified(make([("a", 1), ("b", 1)], source=taught, part=TRAIN))
    found = find_leak(certificate, [], ["trainp0", "trainp1", "trainp1"], measured)
    assert (found.patient_source, found.patients) == (weakest, patients)


def test_certificate_without_patients_lists_none() -> None:
    certificate, _ = certified(make([("a", 1), ("b", 1)], source=PatientSource.NONE, part=TRAIN))
    assert certificate.patients[TRAIN] == ()
    assert len(certificate.images[TRAIN]) == 2


def test_certificate_wants_parts_hashes_and_a_salt() -> None:
    listing = make([("a", 1), ("b", 1)], part=TRAIN)
    hashes = {r.path: "0" * 64 for r in listing.records}
    with pytest.raises(DataError, match="2 films have no part or were not read"):
        certify(listing, {}, empty_audit(), SALT)
    with pytest.raises(DataError, match="2 films have no part or were not read"):
        certify(make([("a", 1), ("b", 1)]), hashes, empty_audit(), SALT)
    for salt in ("", "abcd", "not hexadecimal at all, but thirty-two"):
        with pytest.raises(SettingError, match="Expected the salt to be at least 32 hexadecimal digits"):
            certify(listing, hashes, empty_audit(), salt)
