"""Augmentation for fine-tuning: what another room, machine, operator or archive would have made of the same film.

It runs on whole batches, where the network runs, so that the network stays the limit. Each change is drawn for each
film, from a source of the film's own, so that a step of a training that was interrupted is drawn again as it was,
whoever computes which of its films.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rentgen.errors import MissingExtraError
from rentgen.learn.settings import ShiftSettings

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "train", "training") from error

MARKER_SIDE = (0.03, 0.10)
"""Side of a painted marker, as a share of the film's."""
LETTERS = ("10010 11010 10110 10010 10010", "11110 10010 11110 10100 10010", "10000 10000 10000 10000 11110")
"""N, R and L as 5 x 5 places: what stands on films."""


def film_sources(seed: int, batch: int, rows: Iterable[int]) -> list[torch.Generator]:
    """Return the source of randomness of each film of a batch.

    Args:
        seed: of the training.
        batch: its number.
        rows: the films' places in the batch, of all or some of them.
    """
    states = (np.random.SeedSequence((seed, batch, row)).generate_state(1, np.uint64)[0] for row in rows)
    return [torch.Generator().manual_seed(int(state)) for state in states]


def shift_batch(images: Tensor, settings: ShiftSettings, sources: Sequence[torch.Generator]) -> Tensor:
    """Return the films as another acquisition would show them.

    In the order of the light: the patient lies otherwise (geometry), the beam is cut and marked (borders, markers),
    the detector and its software answer otherwise (tones, sharpness, noise), and the archive compresses (JPEG).

    Args:
        images: (N, H, W) uint8.
        settings: the largest change of each kind, and how often.
        sources: N, on the CPU; all randomness of a film comes from its own.

    Returns:
        (N, H, W) float32 grey levels in [0, 255], on the device of `images`.
    """
    films = images.to(torch.float32).unsqueeze(1) / 255  # (N, 1, H, W)
    films = _move(films, settings, sources)
    films = _collimate(films, settings, sources)
    films = _mark(films, settings, sources)
    films = _tones(films, settings, sources)
    films = _sharpness(films, settings, sources)
    if settings.noise > 0:
        amount = _draw(sources, films.device).view(-1, 1, 1, 1) * settings.noise
        grain = torch.stack([torch.randn(films.shape[1:], generator=source) for source in sources]).to(films.device)
        films = films + amount * grain
    films = films.clamp(0, 1)
    return _compress(films, settings, sources).squeeze(1) * 255


def smooth_batch(films: Tensor, smooth_px: float) -> Tensor:
    """Return films (N, H, W) after the low-pass of the preprocessing (`images.prepare.smooth`), on their own device."""
    if smooth_px == 0:
        return films
    sigma = torch.full((len(films),), smooth_px, device=films.device)
    return _blur(films.unsqueeze(1), sigma, max(1, math.ceil(3 * smooth_px))).squeeze(1)


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """How the films of a batch are mixed with one another.

    Attributes:
        partners: (N,) the place of the film that each is mixed with.
        share: that a film keeps of itself, in [0, 1].
        box: top, left, bottom and right of what is the partner's alone; None where the whole films are blended.
    """

    partners: Tensor
    share: float
    box: tuple[int, int, int, int] | None

    def films(self, films: Tensor, partners: Tensor) -> Tensor:
        """Return films (n, H, W) float32, some of the batch or all, mixed with their partners (n, H, W)."""
        if self.box is None:
            return films * self.share + partners * (1 - self.share)
        top, left, bottom, right = self.box
        mixed = films.clone()
        mixed[:, top:bottom, left:right] = partners[:, top:bottom, left:right]
        return mixed

    def targets(self, targets: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the whole batch's targets, whatever a loss is linear in, mixed as the films are."""
        order = self.partners.to(targets[0].device)
        return tuple(target * self.share + target[order] * (1 - self.share) for target in targets)


def draw_mix(count: int, size: tuple[int, int], settings: ShiftSettings, generator: torch.Generator) -> Mix | None:
    """Return how a batch is mixed; None where the settings ask for none.

    MixUp (Zhang et al. 2018) blends two films; CutMix (Yun et al. 2019) puts a box of one into another. Where both are
    on, each batch takes one of them.

    Args:
        count: films in the batch.
        size: (height, width) of the films.
        settings: `mixup` and `cutmix` are the parameters of the Beta distributions; 0 is off.
        generator: on the CPU.
    """
    kinds = [name for name in ("mixup", "cutmix") if getattr(settings, name) > 0]
    if not kinds:
        return None
    kind = kinds[int(torch.randint(len(kinds), (1,), generator=generator))]
    alpha = float(getattr(settings, kind))
    seed = int(torch.randint(2**31, (1,), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    order = torch.randperm(count, generator=generator)
    if kind == "mixup":
        return Mix(order, share, None)
    height, width = size
    side = math.sqrt(1 - share)
    rows, columns = round(height * side), round(width * side)
    top = int(torch.randint(height - rows + 1, (1,), generator=generator))
    left = int(torch.randint(width - columns + 1, (1,), generator=generator))
    return Mix(order, 1 - rows * columns / (height * width), (top, left, top + rows, left + columns))


def _draw(sources: Sequence[torch.Generator], device: torch.device, *shape: int) -> Tensor:
    """Return numbers in [0, 1), (N, *shape)."""
    return torch.stack([torch.rand(shape, generator=source) for source in sources]).to(device)


def _either(sources: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Return numbers in [-1, 1), (N,)."""
    return _draw(sources, device) * 2 - 1


def _move(films: Tensor, settings: ShiftSettings, sources: Sequence[torch.Generator]) -> Tensor:
    count, place = len(films), films.device
    angle = _either(sources, place) * math.radians(settings.rotation_degrees)
    zoom = 1 + _either(sources, place) * settings.zoom
    aspect = torch.exp(_either(sources, place) * settings.aspect)
    shear = _either(sources, place) * settings.shear
    shift_x = _either(sources, place) * 2 * settings.shift
    shift_y = _either(sources, place) * 2 * settings.shift
    mirror = torch.ones(count, device=place)
    if settings.flip:
        mirror = torch.where(_draw(sources, place) < 0.5, -mirror, mirror)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = (
        torch.stack([mirror * cos * aspect, mirror * (sin + shear * cos), shift_x], 1),
        torch.stack([-sin, cos / aspect, shift_y], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(films.shape), align_corners=False)
    return functional.grid_sample(films, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _collimate(films: Tensor, settings: ShiftSettings, sources: Sequence[torch.Generator]) -> Tensor:
    """Cut edges away to black, or rarely to white, as collimators, cassettes and digitisers do."""
    if settings.borders == 0:
        return films
    count, _, height, width = films.shape
    place = films.device
    rows = torch.arange(height, device=place).view(1, -1, 1) / height
    columns = torch.arange(width, device=place).view(1, 1, -1) / width
    edges = _draw(sources, place, 4).T.view(4, count, 1, 1) * settings.borders
    edges = edges * (_draw(sources, place, 4).T.view(4, count, 1, 1) < settings.borders_share)
    outside = (rows < edges[0]) | (rows >= 1 - edges[1]) | (columns < edges[2]) | (columns >= 1 - edges[3])
    grey = torch.where(_draw(sources, place) < 0.8, 0.0, 1.0) * _draw(sources, place)
    return torch.where(outside.unsqueeze(1), grey.view(-1, 1, 1, 1), films)


def _mark(films: Tensor, settings: ShiftSettings, sources: Sequence[torch.Generator]) -> Tensor:
    """Paint letters in near the edges, and paint what stands there out."""
    height, width = films.shape[2:]
    chosen = _draw(sources, torch.device("cpu"), 2) < settings.markers
    if not bool(chosen.any()):
        return films
    films = films.clone()
    for film, source, (paint_in, paint_out) in zip(films[:, 0], sources, chosen.tolist(), strict=True):
        if paint_out:
            top, left, side = _edge_place(height, width, source)
            patch = film[top : top + side, left : left + side]
            patch.fill_(float(patch.median()))
        if paint_in:
            top, left, side = _edge_place(height, width, source)
            text = LETTERS[int(torch.randint(len(LETTERS), (1,), generator=source))]
            letter = torch.tensor([[float(place) for place in row] for row in text.split()], device=films.device)
            mask = functional.interpolate(letter[None, None], (side, side), mode="nearest")[0, 0]
            level = 0.6 + 0.4 * float(torch.rand(1, generator=source))
            patch = film[top : top + side, left : left + side]
            patch.copy_(torch.maximum(patch, mask * level))
    return films


def _edge_place(height: int, width: int, source: torch.Generator) -> tuple[int, int, int]:
    """Return top, left and side of a square in the outer fifth of the film."""
    low, high = MARKER_SIDE
    a, b, c, d = torch.rand(4, generator=source).tolist()
    side = max(5, round((low + a * (high - low)) * min(height, width)))
    down, along = b * (height - side), c * (width - side)
    near = 0.2
    if d < 0.25:
        down *= near
    elif d < 0.5:
        down = (height - side) - down * near
    elif d < 0.75:
        along *= near
    else:
        along = (width - side) - along * near
    return int(down), int(along), side


def _tones(films: Tensor, settings: ShiftSettings, sources: Sequence[torch.Generator]) -> Tensor:
    place = films.device

    def drawn(amount: float) -> Tensor:
        return (_either(sources, place) * amount).view(-1, 1, 1, 1)

    low = _draw(sources, place).view(-1, 1, 1, 1) * settings.window
    high = 1 - _draw(sources, place).view(-1, 1, 1, 1) * settings.window
    films = ((films - low) / (high - low)).clamp(0, 1)
    films = films.clamp(min=1e-4) ** torch.exp(drawn(settings.gamma))
    return (films - 0.5) * torch.exp(drawn(settings.contrast)) + 0.5 + drawn(settings.brightness)


def _sharpness(films: Tensor, settings: ShiftSettings, sources: Sequence[torch.Generator]) -> Tensor:
    """Blur a film, or sharpen it by what a blur takes away; by one kernel for each film."""
    if settings.blur_px == 0:
        return films
    place = films.device
    sigma = 0.3 + _draw(sources, place) * settings.blur_px
    blurred = _blur(films, sigma, max(1, math.ceil(2.5 * (0.3 + settings.blur_px))))
    kind = _draw(sources, place).view(-1, 1, 1, 1)
    strength = _draw(sources, place).view(-1, 1, 1, 1) * settings.sharpen
    sharpened = films + strength * (films - blurred)
    return torch.where(kind < 0.4, blurred, torch.where(kind < 0.6, sharpened, films))


def _blur(films: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Return films (N, 1, H, W) after a Gaussian of each film's own standard deviation, cut off at `radius`."""
    count = len(films)
    offsets = torch.arange(-radius, radius + 1, device=films.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma.view(-1, 1)) ** 2)  # (N, taps)
    kernel = kernel / kernel.sum(1, keepdim=True)
    stacked = films.transpose(0, 1)  # (1, N, H, W): one group for each film
    across = functional.conv2d(
        functional.pad(stacked, (radius, radius, 0, 0), mode="replicate"), kernel.view(count, 1, 1, -1), groups=count
    )
    down = functional.conv2d(
        functional.pad(across, (0, 0, radius, radius), mode="replicate"), kernel.view(count, 1, -1, 1), groups=count
    )
    return down.transpose(0, 1)


def _compress(films: Tensor, settings: ShiftSettings, sources: Sequence[torch.Generator]) -> Tensor:
    """Pack some of the films as JPEG and unpack them, now and then at another size on the way."""
    drawn = _draw(sources, torch.device("cpu"), 4)
    if not bool((drawn[:, 0] < settings.jpeg).any()):
        return films
    films = films.clone()
    for film, (chance, grade, zoom, way) in zip(films[:, 0], drawn.tolist(), strict=True):
        if chance >= settings.jpeg:
            continue
        image = Image.fromarray((film * 255).round().to(torch.uint8).cpu().numpy())
        size = image.size
        if way < 0.5:
            sides = (max(16, round(size[0] * (0.5 + zoom))), max(16, round(size[1] * (0.5 + zoom))))
            image = image.resize(sides, Image.Resampling.BILINEAR)
        quality = settings.jpeg_quality + math.floor(grade * (96 - settings.jpeg_quality))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as packed:
            unpacked = packed if packed.size == size else packed.resize(size, Image.Resampling.BILINEAR)
            film.copy_(torch.from_numpy(np.asarray(unpacked, np.float32) / 255))
    return films
