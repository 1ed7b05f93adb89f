from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from rentgen.data.audit import audit, examine
from rentgen.data.audit_words import describe
from rentgen.data.duplicates import SAME, find_duplicates
from rentgen.data.listing import list_images
from rentgen.data.shortcuts import find_shortcut
from rentgen.data.split import split
from rentgen.records import Float64, Listing, PatientSource, Split, UInt8


def draw(seed: int, height: int = 200, width: int = 240) -> UInt8:
    """Return a picture with structure at all scales, as films have, on a ground that all pictures share."""
    ground = _noise(np.random.default_rng(10_000), height, width)
    own = _noise(np.random.default_rng(seed), height, width)
    mixed = ground + own
    return np.asarray(30 + 195 * (mixed - mixed.min()) / np.ptp(mixed), np.uint8)


def _noise(rng: np.random.Generator, height: int, width: int) -> Float64:
    total = np.zeros((height, width))
    for cells in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / cells
    return total


def save(path: Path, pixels: UInt8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_set(root: Path, n: int = 4) -> Listing:
    for label in ("NORMAL", "PNEUMONIA"):
        for index in range(n):
            save(root / label / f"{index}.png", draw(index + 100 * (label == "NORMAL")))
    return list_images(root)


def recode(picture: UInt8, name: str) -> UInt8:
    image = Image.fromarray(picture)
    height, width = picture.shape
    if name == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=60)
        return np.asarray(Image.open(buffer))
    if name == "resized":
        return np.asarray(image.resize((width * 4 // 5, height * 4 // 5), Image.Resampling.BICUBIC))
    if name == "brightened":
        return np.asarray(np.clip(picture * 1.1 + 12.0, 0, 255), np.uint8)
    if name == "flattened":
        return np.asarray(picture * 0.7 + 10, np.uint8)
    down, across = round(0.02 * height), round(0.02 * width)
    if name == "bordered":
        return np.pad(picture, ((down, down), (across, across)))
    return picture[down:, across:]


@pytest.mark.parametrize("name", ["jpeg", "resized", "brightened", "flattened", "cropped", "bordered"])
def test_a_film_saved_another_way_is_found(tmp_path: Path, name: str) -> None:
    make_set(tmp_path)
    for index in range(4):
        save(tmp_path / "NORMAL" / f"copy{index}.png", recode(draw(index), name))
    listing = list_images(tmp_path)
    pairs = audit(listing, examine(listing)).pairs
    found = {(Path(pair.first).name, Path(pair.second).name) for pair in pairs}
    assert found == {(f"copy{index}.png", f"{index}.png") for index in range(4)}
    assert all(not pair.exact and not pair.same_label and SAME <= pair.correlation <= 1 for pair in pairs)


def test_a_16_bit_copy_is_found(tmp_path: Path) -> None:
    make_set(tmp_path)
    Image.fromarray(draw(0).astype(np.uint16) * 257).save(tmp_path / "PNEUMONIA" / "deep.png")
    listing = list_images(tmp_path)
    (pair,) = audit(listing, examine(listing)).pairs
    assert (Path(pair.first).name, Path(pair.second).name, pair.exact) == ("0.png", "deep.png", False)
    assert pair.correlation == pytest.approx(1, abs=1e-3)


def test_near_copies_are_for_a_human_to_judge(tmp_path: Path) -> None:
    make_set(tmp_path)
    shutil.copy(tmp_path / "NORMAL" / "0.png", tmp_path / "PNEUMONIA" / "exact.png")
    save(tmp_path / "PNEUMONIA" / "near.png", recode(draw(101), "jpeg"))
    save(tmp_path / "NORMAL" / "near.png", recode(draw(2), "jpeg"))
    listing = list_images(tmp_path)
    findings = [finding for finding in audit(listing, examine(listing)).findings if "different labels" in finding]
    assert findings == [
        "1 pair of the same film with different labels: one of the two is wrong.",
        "2 pairs of what looks like the same film with different labels: look at both; if it is one, one of the two is "
        "wrong.",
    ]


def test_exact_copies_are_paired_with_the_first(tmp_path: Path) -> None:
    make_set(tmp_path)
    for copy in ("x", "y"):
        shutil.copy(tmp_path / "NORMAL" / "0.png", tmp_path / "PNEUMONIA" / f"{copy}.png")
    listing = list_images(tmp_path)
    examination = examine(listing)
    report = audit(listing, examination)
    assert [(Path(p.first).name, Path(p.second).name, p.exact, p.correlation) for p in report.pairs] == [
        ("0.png", "x.png", True, 1.0),
        ("0.png", "y.png", True, 1.0),
    ]
    assert len(set(examination.hashes.values())) == len(listing) - 2
    assert any("2 pairs of the same film with different labels" in finding for finding in report.findings)
    assert any("2 pairs of the same film under two patients" in finding for finding in report.findings)


def test_strangers_and_blank_films_are_no_duplicates() -> None:
    pictures = [np.asarray(Image.fromarray(draw(seed)).resize((64, 64)), np.uint8) for seed in range(60)]
    blank = [np.full((64, 64), grey, np.uint8) for grey in (0, 0, 128)]
    thumbnails = np.stack([*pictures, *blank])
    assert find_duplicates([str(index) for index in range(63)], thumbnails) == ()
    assert find_duplicates([], np.zeros((0, 64, 64), np.uint8)) == ()


@pytest.mark.parametrize("group", [1, 2, 100])
def test_blocks_do_not_change_the_answer(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [np.asarray(Image.fromarray(draw(seed % 20)).resize((64, 64)), np.uint8) for seed in range(40)]
    noisy = np.stack([picture + np.uint8(index >= 20) for index, picture in enumerate(pictures)])
    hashes = [str(index) for index in range(40)]
    whole = find_duplicates(hashes, noisy)
    assert [(match.first, match.second) for match in whole] == [(index, index + 20) for index in range(20)]
    monkeypatch.setattr("rentgen.data.duplicates._BLOCK", 7)
    monkeypatch.setattr("rentgen.data.duplicates._CHUNK", 3)
    monkeypatch.setattr("rentgen.data.duplicates._GROUP", group)
    parted = find_duplicates(hashes, noisy)
    assert [(match.first, match.second) for match in parted] == [(match.first, match.second) for match in whole]


def test_unreadable_files_are_named_with_a_reason(tmp_path: Path) -> None:
    make_set(tmp_path)
    broken = tmp_path / "NORMAL" / "broken.png"
    broken.write_bytes(b"not a picture")
    listing = list_images(tmp_path)
    seen: list[tuple[int, int]] = []
    examination = examine(listing, progress=lambda done, total: seen.append((done, total)), workers=2)
    report = audit(listing, examination)
    assert seen == [(done, 9) for done in range(1, 10)]
    assert list(report.unreadable) == [str(broken)]
    assert broken not in examination.hashes
    assert (report.n, len(examination.films), sum(report.formats.values())) == (9, 8, 8)
    assert any(finding.startswith("1 of 9 files cannot be read; the first is") for finding in report.findings)


def test_a_set_without_a_readable_file_is_described_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    listing = list_images(tmp_path)
    report = audit(listing, examine(listing))
    assert (report.heights, report.widths, report.shortcuts, report.pairs) == ((0, 0, 0), (0, 0, 0), {}, ())
    assert "Formats: none" in describe(report)


def test_counts_patients_and_sizes(tmp_path: Path) -> None:
    for index in range(6):
        save(tmp_path / "a" / f"person{index // 2}_virus_{index}.png", draw(index, 100 + index, 120))
        save(tmp_path / "b" / f"person{9 + index}_virus_{index}.png", draw(50 + index, 100, 120 + index))
    listing = list_images(tmp_path)
    examination = examine(listing)
    report = audit(listing, examination)
    assert report.counts == {"all": {"a": 6, "b": 6}}
    assert (report.patients, report.patient_source) == ({"all": 9}, PatientSource.NAME)
    assert (report.heights, report.widths) == ((100, 100, 105), (120, 120, 125))
    divided = audit(split(listing, rng=np.random.default_rng(0)), examination)
    assert set(divided.counts) == {"train", "validation", "test"}
    assert sum(divided.patients.values()) == 9
    assert set(report.shortcuts) == {"width", "height", "aspect", "bytes", "mean", "contrast", "sharpness"}
    assert "| part | a | b | films | patients |" in describe(report)
    assert report.summary()["counts"] == {"all": {"a": 6, "b": 6}}


def test_leaks_between_parts_come_first(tmp_path: Path) -> None:
    for part, numbers in (("train", range(4)), ("test", range(3, 6))):
        for index in numbers:
            save(tmp_path / part / "a" / f"person{index}_virus_{index}.png", draw(index))
            save(tmp_path / part / "b" / f"IM-{index}-1.png", draw(100 + index))
    listing = list_images(tmp_path)
    report = audit(listing, examine(listing))
    assert report.shared_patients == 2
    assert report.findings[0].startswith("2 patients with films in more than one part")
    assert report.findings[1].startswith("2 pairs of the same film in different parts")
    assert all(pair.exact and not pair.same_split and pair.same_patient for pair in report.pairs)


def test_size_that_goes_with_the_class_is_a_shortcut(tmp_path: Path) -> None:
    for index in range(30):
        save(tmp_path / "NORMAL" / f"{index}.png", draw(index, 80, 100))
        save(tmp_path / "PNEUMONIA" / f"{index}.png", draw(100 + index, 64, 64 + index))
    listing = list_images(tmp_path)
    report = audit(listing, examine(listing))
    assert report.shortcuts["width"] == report.shortcuts["height"] == 1
    assert "width alone tells NORMAL from the rest with AUROC 1.00: a model may learn the scanner" in describe(report)
    assert report.findings[-1].startswith("Nobody knows whom the films show")


def test_films_of_unknown_patients_are_counted(tmp_path: Path) -> None:
    for index in range(20):
        save(tmp_path / f"person{index}_virus_1.png", draw(index, 64, 64))
    listing = list_images(tmp_path)
    assert not any("Nobody knows" in finding for finding in audit(listing, examine(listing)).findings)
    for name, n, source in (("x", 21, PatientSource.NAME), ("y", 22, PatientSource.NONE)):
        save(tmp_path / f"{name}.png", draw(n, 64, 64))
        listing = list_images(tmp_path)
        assert listing.patient_source is source
        finding = audit(listing, examine(listing)).findings[-1]
        assert finding.startswith(f"Nobody knows whom {n - 20} of {n} films show, so each of those counts as its own")
    mixed = replace(listing, records=listing.records[:20], patient_source=PatientSource.NONE)
    report = audit(mixed, examine(mixed))
    assert report.findings[-1].startswith("No single source names the patients")


def test_few_and_unequal_films_are_findings(tmp_path: Path) -> None:
    for index in range(13):
        save(tmp_path / "a" / f"{index}.png", draw(index, 64, 64))
    for index in range(2):
        save(tmp_path / "b" / f"{index}.png", draw(100 + index, 64, 64))
    listing = list_images(tmp_path)
    findings = audit(listing, examine(listing)).findings
    assert any(finding.startswith("a has 13 films and b 2, 6 times fewer") for finding in findings)
    assert any(finding.startswith("The set has only 13 films of a, 2 films of b") for finding in findings)


def test_examination_outlives_a_change_of_parts(tmp_path: Path) -> None:
    listing = make_set(tmp_path)
    shutil.copy(tmp_path / "NORMAL" / "0.png", tmp_path / "NORMAL" / "x.png")
    listing = list_images(tmp_path)
    examination = examine(listing)
    parted = replace(
        listing,
        records=tuple(replace(r, split=Split.TEST if r.path.name == "x.png" else Split.TRAIN) for r in listing.records),
    )
    assert audit(listing, examination).pairs[0].same_split
    assert not audit(parted, examination).pairs[0].same_split


@pytest.mark.parametrize(
    "make", [lambda rng, n: rng.normal(size=n), lambda rng, n: rng.integers(0, 4, n).astype(float)]
)
def test_shortcut_agrees_with_scikit_learn(make: Callable[[np.random.Generator, int], Float64]) -> None:
    rng = np.random.default_rng(3)
    labels = [str(label) for label in rng.choice(["a", "b", "c"], 200)]
    values = make(rng, 200) + np.array([label == "b" for label in labels])
    found = find_shortcut(list(values), labels)
    expected = {c: roc_auc_score([label == c for label in labels], values) for c in "abc"}
    best = max(expected, key=lambda c: abs(expected[c] - 0.5))
    assert found is not None
    assert found.label == best
    assert found.auroc == pytest.approx(0.5 + abs(expected[best] - 0.5))


def test_one_class_has_no_shortcut() -> None:
    assert find_shortcut([1.0, 2.0, 3.0], ["a", "a", None]) is None
