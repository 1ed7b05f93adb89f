from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from made import film8

from rentgen.errors import SettingError
from rentgen.images.prepare import smooth
from rentgen.learn.settings import ShiftSettings
from rentgen.learn.shift import draw_mix, film_sources, shift_batch, smooth_batch


def still(**changes: Any) -> ShiftSettings:  # noqa: ANN401 - settings are of several types
    """Return settings that change nothing but what is named."""
    nothing: dict[str, Any] = {
        item.name: False if item.name == "flip" else 0.0
        for item in fields(ShiftSettings)
        if item.name != "jpeg_quality"
    }
    return ShiftSettings(**(nothing | changes))


CHANGES = [item.name for item in fields(ShiftSettings) if item.name not in ("jpeg_quality", "mixup", "cutmix", "flip")]


def batch(count: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.stack([film8(64, 80, seed=seed) for seed in range(count)]))


def drawn(settings: ShiftSettings, seed: int = 0) -> torch.Tensor:
    return shift_batch(batch(), settings, film_sources(seed, 0, range(6)))


def test_nothing_changes_where_nothing_may() -> None:
    torch.testing.assert_close(drawn(still()), batch().float(), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_changes_films_within_the_grey_levels(name: str) -> None:
    amount = {"rotation_degrees": 10.0, "blur_px": 1.5, "markers": 1.0, "jpeg": 1.0, "borders_share": 1.0}.get(
        name, 0.2
    )
    settings = still(**{name: amount})
    if name in ("borders", "borders_share"):
        settings = still(borders=0.2, borders_share=1.0)
    if name == "sharpen":
        settings = still(blur_px=1.0, sharpen=2.0)
    changed = drawn(settings)
    assert changed.shape == batch().shape
    assert float((changed - batch()).abs().max()) > 2
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 255


def test_mirrored_films_are_mirrored() -> None:
    changed = drawn(still(flip=True))
    same = [(changed[number] - batch()[number]).abs().max() < 1 for number in range(6)]
    turned = [(changed[number] - batch()[number].flip(1)).abs().max() < 1 for number in range(6)]
    assert any(same)
    assert any(turned)
    assert all(a != b for a, b in zip(same, turned, strict=True))


def test_the_same_numbers_draw_the_same_films() -> None:
    torch.testing.assert_close(drawn(ShiftSettings(), 3), drawn(ShiftSettings(), 3), atol=0, rtol=0)
    assert not torch.equal(drawn(ShiftSettings(), 3), drawn(ShiftSettings(), 4))


def test_a_film_is_changed_alike_whoever_else_is_changed_with_it() -> None:
    together = drawn(ShiftSettings(markers=0.5, jpeg=0.5), 3)
    for rows in ([0], [1, 4], [5, 2, 3]):
        some = shift_batch(batch()[rows], ShiftSettings(markers=0.5, jpeg=0.5), film_sources(3, 0, rows))
        torch.testing.assert_close(some, together[rows], atol=1e-3, rtol=0)


def test_the_films_that_came_in_stay_as_they_were() -> None:
    films = batch()
    before = films.clone()
    shift_batch(films, ShiftSettings(markers=1.0, jpeg=1.0), film_sources(0, 0, range(6)))
    assert torch.equal(films, before)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_targets_are_the_shares_of_the_films(kind: str) -> None:
    films = torch.zeros(4, 32, 32)
    films[2:] = 200.0
    targets = torch.eye(2)[[0, 0, 1, 1]]
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        mix = draw_mix(4, (32, 32), still(**{kind: 1.0}), generator)
        assert mix is not None
        mixed, (shares,) = mix.films(films, films[mix.partners]), mix.targets((targets,))
        torch.testing.assert_close(shares.sum(1), torch.ones(4))
        # A film's mean grey level tells how much of the bright kind is in it.
        torch.testing.assert_close(mixed.mean((1, 2)) / 200, shares[:, 1], atol=1e-5, rtol=0)


def test_films_are_not_mixed_unless_asked() -> None:
    assert draw_mix(6, (64, 80), still(), torch.Generator()) is None


@pytest.mark.parametrize("sigma", [0.8, 2.0])
def test_the_low_pass_is_that_of_the_preprocessing(sigma: float) -> None:
    ours = smooth_batch(batch().float(), sigma).numpy()
    theirs = np.stack([smooth(film, sigma) for film in batch().numpy()])
    # Pillow draws its Gaussian from box filters.
    assert np.abs(ours - theirs)[:, 8:-8, 8:-8].mean() < 1.5


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match=r"Expected shift.zoom to be in \[0.0, 0.5\], but got 0.9"):
        ShiftSettings(zoom=0.9)
    with pytest.raises(SettingError, match=r"Expected shift\.jpeg_quality"):
        ShiftSettings(jpeg_quality=0)
