"""Synthetic films: the same from the same seed, and different between classes in nothing but the finding."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import UID
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from rentgen.errors import SettingError
from rentgen.images.phantom import Finding, Phantom, draw, golden_films, to_dicom, to_png, write_set
from rentgen.images.phantom_dicom import Photometric
from rentgen.images.prepare import to_uint8
from rentgen.images.read import read
from rentgen.records import Float64

DISEASED = (Finding.CONSOLIDATION, Finding.EFFUSION, Finding.NODULE)
DCIODVFY = shutil.which("dciodvfy")


@cache
def film(finding: Finding, seed: int) -> Phantom:
    """A film; the same seed is the same patient and exposure."""
    return draw(finding, np.random.default_rng(seed), height=256, width=288)


def small(finding: Finding, seed: int = 1) -> Phantom:
    return draw(finding, np.random.default_rng(seed), height=200, width=240)


def grey(phantom: Phantom) -> Float64:
    return phantom.pixels / 65535


def test_the_same_seed_is_the_same_film() -> None:
    first, second = small(Finding.EFFUSION), small(Finding.EFFUSION)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert to_png(first) == to_png(second)
    assert (small(Finding.EFFUSION, 2).pixels != first.pixels).any()


def test_the_generator_moves_on_alike_for_every_finding() -> None:
    states = []
    for finding in Finding:
        rng = np.random.default_rng(5)
        draw(finding, rng, height=64, width=64)
        states.append(int(rng.integers(2**60)))
    assert len(set(states)) == 1


def test_films_have_native_sizes_of_their_own_whatever_they_show() -> None:
    shapes = [
        [draw(finding, np.random.default_rng(seed)).pixels.shape for seed in range(3)]
        for finding in (Finding.NORMAL, Finding.EFFUSION)
    ]
    assert shapes[0] == shapes[1]
    assert len(set(shapes[0])) == 3
    assert all(330 <= side <= 700 for shape in shapes[0] for side in shape)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (300, 64), (64, 300), (257, 333)])
def test_films_have_the_size_asked_for(height: int, width: int) -> None:
    for finding in Finding:
        phantom = draw(finding, np.random.default_rng(0), height=height, width=width)
        assert phantom.pixels.shape == phantom.mask.shape == (height, width)
        assert phantom.pixels.dtype == np.uint16
    assert draw(finding, np.random.default_rng(0), height=height).pixels.shape[0] == height
    assert draw(finding, np.random.default_rng(0), width=width).pixels.shape[1] == width


@pytest.mark.parametrize("seed", range(4))
def test_grey_levels_are_those_of_a_chest_film(seed: int) -> None:
    phantom = film(Finding.NORMAL, seed)
    levels = grey(phantom)
    height, width = levels.shape
    assert levels.std() > 0.12
    assert np.percentile(levels, 99) > 0.65
    rows = slice(round(0.4 * height), round(0.6 * height))
    spine = levels[rows, round(0.46 * width) : round(0.54 * width)].mean()
    lungs = [levels[rows, round(at * width) : round((at + 0.08) * width)].mean() for at in (0.26, 0.66)]
    assert spine > max(lungs) + 0.1


def test_the_heart_lies_on_the_image_right() -> None:
    def asymmetry(seed: int) -> float:
        levels = grey(film(Finding.NORMAL, seed))
        height, width = levels.shape
        rows = slice(round(0.55 * height), round(0.75 * height))
        right, left = (
            levels[rows, round(0.56 * width) : round(0.7 * width)],
            levels[rows, round(0.3 * width) : round(0.44 * width)],
        )
        return float(right.mean() - left.mean())

    assert np.mean([asymmetry(seed) for seed in range(8)]) > 0.02


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("finding", DISEASED)
def test_a_finding_is_brighter_than_the_same_lung_without_it(finding: Finding, seed: int) -> None:
    with_it, without = film(finding, seed), film(Finding.NORMAL, seed)
    assert with_it.findings == (finding,)
    assert with_it.mask.any()
    rise = grey(with_it) - grey(without)
    assert rise[with_it.mask].mean() > 0.015
    # Elsewhere only its scatter, and the soft rim of the finding, are missing.
    assert np.abs(rise[~with_it.mask]).mean() < 0.02
    assert np.median(np.abs(rise[~with_it.mask])) < 0.01


@pytest.mark.parametrize("seed", range(12))
def test_a_nodule_can_be_seen(seed: int) -> None:
    with_it, without = film(Finding.NODULE, seed), film(Finding.NORMAL, seed)
    rise = (grey(with_it) - grey(without))[with_it.mask]
    assert rise.mean() > 0.045
    # Its noise is averaged over the spot: Rose's criterion for a sure find is 5.
    grain = grey(without) - ndimage.gaussian_filter(grey(without), 1.5)
    assert rise.mean() * rise.size**0.5 > 5 * grain[with_it.mask].std()


@pytest.mark.parametrize("seed", range(8))
def test_masks_lie_in_the_lungs(seed: int) -> None:
    for finding, least, most in (
        (Finding.CONSOLIDATION, 0.002, 0.15),
        (Finding.EFFUSION, 0.0005, 0.2),
        (Finding.NODULE, 0.0001, 0.005),
    ):
        mask = film(finding, seed).mask
        assert least < mask.mean() < most, finding
        rows, columns = np.nonzero(mask)
        # Nobody's lung reaches the upper edge of the film, and a finding is on one side of the spine.
        assert rows.min() > 0.03 * mask.shape[0]
        middle = mask.shape[1] / 2
        beyond = min((columns < middle).mean(), (columns > middle).mean())
        assert beyond < 0.1, finding


def test_a_normal_film_has_no_mask() -> None:
    phantom = small(Finding.NORMAL)
    assert phantom.findings == (Finding.NORMAL,)
    assert not phantom.mask.any()


def test_findings_can_be_together() -> None:
    both = small(Finding.CONSOLIDATION).mask.sum()
    phantom = draw((Finding.CONSOLIDATION, Finding.EFFUSION), np.random.default_rng(1), height=200, width=240)
    assert phantom.findings == (Finding.CONSOLIDATION, Finding.EFFUSION)
    assert phantom.mask.sum() > both


def test_nothing_but_the_finding_tells_the_class() -> None:
    seeds = range(16)
    truth = [0] * len(seeds) + [1] * len(seeds)
    normal = [film(Finding.NORMAL, seed) for seed in seeds]
    for finding in DISEASED:
        other = [film(finding, seed) for seed in seeds]
        for one, two in zip(normal, other, strict=True):
            assert one.pixels.shape == two.pixels.shape
            assert (one.age, one.spacing_mm, one.marker, one.marker_at) == (
                two.age,
                two.spacing_mm,
                two.marker,
                two.marker_at,
            )
        for number in (np.mean, np.std):
            alone = roc_auc_score(truth, [float(number(each.pixels)) for each in (*normal, *other)])
            assert abs(alone - 0.5) < 0.15, (finding, number)


def test_lead_letters_stand_on_their_side() -> None:
    markers = [film(Finding.NORMAL, seed) for seed in range(20)]
    assert {phantom.marker for phantom in markers} == {"", "L", "R"}
    for phantom in markers:
        if phantom.marker_at is None:
            assert phantom.marker == ""
            continue
        row, column = phantom.marker_at
        height, width = phantom.pixels.shape
        # The patient's right is on the image's left.
        assert (column < width / 2) == (phantom.marker == "R")
        around = grey(phantom)[max(0, row - height // 25) : row + height // 25, max(0, column - width // 25) :][
            :, : width // 12
        ]
        assert around.max() > 0.9


@pytest.mark.parametrize("findings", [(), (Finding.NORMAL, Finding.NODULE)])
def test_impossible_findings_are_refused(findings: tuple[Finding, ...]) -> None:
    with pytest.raises(SettingError, match="Expected one finding or several without `normal`"):
        draw(findings, np.random.default_rng(0))


@pytest.mark.parametrize("side", [63, 4097])
def test_impossible_sizes_are_refused(side: int) -> None:
    with pytest.raises(SettingError, match=f"Expected `height` to be 64 to 4096 pixels, but got {side}"):
        draw(Finding.NORMAL, np.random.default_rng(0), height=side)
    with pytest.raises(SettingError, match="Expected `width`"):
        draw(Finding.NORMAL, np.random.default_rng(0), width=side)


def test_png_holds_8_or_16_bits() -> None:
    phantom = small(Finding.NORMAL)
    eight, sixteen = (Image.open(io.BytesIO(to_png(phantom, bits=bits))) for bits in (8, 16))
    np.testing.assert_array_equal(np.asarray(eight), to_uint8(phantom.pixels))
    np.testing.assert_array_equal(np.asarray(sixteen), phantom.pixels)
    with pytest.raises(SettingError, match="Expected `bits` to be 8 or 16, but got 12"):
        to_png(phantom, bits=12)


@pytest.mark.parametrize("bits", [12, 14])
@pytest.mark.parametrize("photometric", Photometric)
def test_dicom_says_the_same_film(photometric: Photometric, bits: int) -> None:
    phantom = small(Finding.CONSOLIDATION)
    data = to_dicom(phantom, patient_id="P1", photometric_interpretation=photometric, bits_stored=bits)
    ds = pydicom.dcmread(io.BytesIO(data))
    top = 2**bits - 1
    expected = grey(phantom) * top
    inverse = photometric is Photometric.MONOCHROME1
    assert ds.PresentationLUTShape == ("INVERSE" if inverse else "IDENTITY")
    assert np.abs(ds.pixel_array - (top - expected if inverse else expected)).max() <= 0.5 + 1e-6
    back = read(data)
    assert back.modality == "DX"
    assert back.patient_id == "P1"
    assert np.abs(back.pixels / np.iinfo(back.pixels.dtype).max - grey(phantom)).max() < 0.005
    assert back.spacing_mm == pytest.approx((phantom.spacing_mm, phantom.spacing_mm), abs=1e-5)


@pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("shape", [(200, 240), (65, 67)])
@pytest.mark.parametrize("photometric", Photometric)
def test_dicom_is_valid(photometric: Photometric, shape: tuple[int, int], tmp_path: Path) -> None:
    phantom = draw(Finding.NODULE, np.random.default_rng(4), height=shape[0], width=shape[1])
    path = tmp_path / "film.dcm"
    path.write_bytes(to_dicom(phantom, patient_id="P1", photometric_interpretation=photometric, bits_stored=14))
    done = subprocess.run([str(DCIODVFY), "-new", str(path)], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "DXImageForPresentation" in said
    assert "Error" not in said
    assert "Warning" not in said


def test_dicom_is_the_same_bytes_and_its_uids_follow_its_content() -> None:
    phantom, other = small(Finding.NORMAL), small(Finding.NORMAL, 2)
    assert to_dicom(phantom, patient_id="P1") == to_dicom(phantom, patient_id="P1")
    uids = [
        str(pydicom.dcmread(io.BytesIO(to_dicom(film, patient_id=patient)))[keyword].value)
        for film, patient in ((phantom, "P1"), (phantom, "P2"), (other, "P1"))
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    ]
    assert len(set(uids)) == 9
    assert all(uid.startswith("2.25.") and UID(uid).is_valid for uid in uids)


def test_dicom_takes_uids() -> None:
    data = to_dicom(
        small(Finding.NORMAL),
        patient_id="P1",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.4",
        sop_instance_uid="1.2.5",
    )
    back = read(data)
    assert (back.study_instance_uid, back.series_instance_uid, back.sop_instance_uid) == ("1.2.3", "1.2.4", "1.2.5")


def test_dicom_refuses_what_would_not_be_valid() -> None:
    phantom = small(Finding.NORMAL)
    with pytest.raises(SettingError, match="Expected `patient_id` to have 1 to 64 characters"):
        to_dicom(phantom, patient_id="")
    with pytest.raises(SettingError, match="Expected `bits_stored` to be 12 or 14, but got 16"):
        to_dicom(phantom, patient_id="P1", bits_stored=16)
    with pytest.raises(SettingError, match=re.escape("Expected `sop_instance_uid` to be a DICOM UID, but got '1.02'")):
        to_dicom(phantom, patient_id="P1", sop_instance_uid="1.02")


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_a_set_has_a_folder_for_each_finding_and_patients_of_its_own(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_set(
        tmp_path / "a", films=3, rng=np.random.default_rng(1), progress=lambda done, total: told.append((done, total))
    )
    assert names(tmp_path / "a") == [
        "consolidation/person3_consolidation_1.png",
        "consolidation/person3_consolidation_2.png",
        "consolidation/person4_consolidation_1.png",
        "effusion/person5_effusion_1.png",
        "effusion/person5_effusion_2.png",
        "effusion/person6_effusion_1.png",
        "normal/person1_normal_1.png",
        "normal/person1_normal_2.png",
        "normal/person2_normal_1.png",
    ]
    assert told == [(number, 9) for number in range(1, 10)]
    write_set(tmp_path / "b", films=3, rng=np.random.default_rng(1), findings=[Finding.NORMAL])
    digests = [
        {name: hashlib.sha256((tmp_path / folder / name).read_bytes()).hexdigest() for name in names(tmp_path / folder)}
        for folder in "ab"
    ]
    assert digests[1].items() <= digests[0].items()
    assert len(set(digests[0].values())) == 9


def test_a_set_can_be_dicom(tmp_path: Path) -> None:
    write_set(
        tmp_path,
        films=3,
        rng=np.random.default_rng(2),
        findings=[Finding.NODULE],
        films_per_patient=3,
        dicom=True,
    )
    paths = sorted(tmp_path.rglob("*.dcm"))
    assert names(tmp_path) == [f"nodule/person1_nodule_{number}.dcm" for number in (1, 2, 3)]
    films = [pydicom.dcmread(path) for path in paths]
    assert {film.PatientID for film in films} == {"person1"}
    # One patient, so one age; another exposure each time.
    assert len({film.PatientAge for film in films}) == 1
    assert len({film.SOPInstanceUID for film in films}) == 3


@pytest.mark.parametrize(("films", "per_patient"), [(0, 1), (1, 0)])
def test_an_empty_set_is_refused(films: int, per_patient: int, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Expected at least 1 film and 1 per patient"):
        write_set(tmp_path, films=films, rng=np.random.default_rng(0), films_per_patient=per_patient)
    assert names(tmp_path) == []


def test_golden_films_are_the_same_each_time_and_of_several_aspects() -> None:
    films, again = golden_films(), golden_films(5)
    assert len(films) == 4
    assert len(again) == 5
    for first, second in zip(films, again, strict=False):
        np.testing.assert_array_equal(first, second)
        assert first.dtype == np.uint8
    assert len({film.shape[0] / film.shape[1] for film in films}) == 4
