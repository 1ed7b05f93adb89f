"""Augmentation for fine-tuning: what another room, machine, operator or archive would have made of the same film.

It runs on whole batches, where the network runs, so that the network stays the limit. Each change is drawn for each
film; the numbers come from one generator, so that a step of a training that was interrupted is drawn again as it was.
"""

from __future__ import annotations

import io
import math

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


def shift_batch(images: Tensor, settings: ShiftSettings, generator: torch.Generator) -> Tensor:
    """Return the films as another acquisition would show them.

    In the order of the light: the patient lies otherwise (geometry), the beam is cut and marked (borders, markers),
    the detector and its software answer otherwise (tones, sharpness, noise), and the archive compresses (JPEG).

    Args:
        images: (N, H, W) uint8.
        settings: the largest change of each kind, and how often.
        generator: on the CPU; all randomness comes from here.

    Returns:
        (N, H, W) float32 grey levels in [0, 255], on the device of `images`.
    """
    films = images.to(torch.float32).unsqueeze(1) / 255  # (N, 1, H, W)
    films = _move(films, settings, generator)
    films = _collimate(films, settings, generator)
    films = _mark(films, settings, generator)
    films = _tones(films, settings, generator)
    films = _sharpness(films, settings, generator)
    if settings.noise > 0:
        amount = _draw(len(films), generator, films.device).view(-1, 1, 1, 1) * settings.noise
        grain = torch.randn(films.shape, generator=generator).to(films.device)
        films = films + amount * grain
    films = films.clamp(0, 1)
    return _compress(films, settings, generator).squeeze(1) * 255


def smooth_batch(films: Tensor, smooth_px: float) -> Tensor:
    """Return films (N, H, W) after the low-pass of the preprocessing (`images.prepare.smooth`), on their own device."""
    if smooth_px == 0:
        return films
    sigma = torch.full((len(films),), smooth_px, device=films.device)
    return _blur(films.unsqueeze(1), sigma, max(1, math.ceil(3 * smooth_px))).squeeze(1)


def mix_batch(
    films: Tensor, targets: tuple[Tensor, ...], settings: ShiftSettings, generator: torch.Generator
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return films mixed with one another, and their targets mixed alike.

    MixUp (Zhang et al. 2018) blends two films; CutMix (Yun et al. 2019) puts a box of one into another. Where both are
    on, each batch takes one of them.

    Args:
        films: (N, H, W) float32.
        targets: whatever a loss is linear in, one row a film.
        settings: `mixup` and `cutmix` are the parameters of the Beta distributions; 0 is off.
        generator: on the CPU.
    """
    kinds = [name for name in ("mixup", "cutmix") if getattr(settings, name) > 0]
    if not kinds:
        return films, targets
    kind = kinds[int(torch.randint(len(kinds), (1,), generator=generator))]
    alpha = float(getattr(settings, kind))
    seed = int(torch.randint(2**31, (1,), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    order = torch.randperm(len(films), generator=generator).to(films.device)
    if kind == "mixup":
        mixed = films * share + films[order] * (1 - share)
    else:
        height, width = films.shape[1:]
        side = math.sqrt(1 - share)
        rows, columns = round(height * side), round(width * side)
        top = int(torch.randint(height - rows + 1, (1,), generator=generator))
        left = int(torch.randint(width - columns + 1, (1,), generator=generator))
        mixed = films.clone()
        mixed[:, top : top + rows, left : left + columns] = films[order][:, top : top + rows, left : left + columns]
        share = 1 - rows * columns / (height * width)
    return mixed, tuple(target * share + target[order] * (1 - share) for target in targets)


def _draw(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(count, generator=generator).to(device)


def _either(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return numbers in [-1, 1]."""
    return _draw(count, generator, device) * 2 - 1


def _move(films: Tensor, settings: ShiftSettings, generator: torch.Generator) -> Tensor:
    count, place = len(films), films.device
    angle = _either(count, generator, place) * math.radians(settings.rotation_degrees)
    zoom = 1 + _either(count, generator, place) * settings.zoom
    aspect = torch.exp(_either(count, generator, place) * settings.aspect)
    shear = _either(count, generator, place) * settings.shear
    shift_x = _either(count, generator, place) * 2 * settings.shift
    shift_y = _either(count, generator, place) * 2 * settings.shift
    mirror = torch.ones(count, device=place)
    if settings.flip:
        mirror = torch.where(_draw(count, generator, place) < 0.5, -mirror, mirror)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = (
        torch.stack([mirror * cos * aspect, mirror * (sin + shear * cos), shift_x], 1),
        torch.stack([-sin, cos / aspect, shift_y], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(films.shape), align_corners=False)
    return functional.grid_sample(films, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _collimate(films: Tensor, settings: ShiftSettings, generator: torch.Generator) -> Tensor:
    """Cut edges away to black, or rarely to white, as collimators, cassettes and digitisers do."""
    if settings.borders == 0:
        return films
    count, _, height, width = films.shape
    place = films.device
    rows = torch.arange(height, device=place).view(1, -1, 1) / height
    columns = torch.arange(width, device=place).view(1, 1, -1) / width
    edges = _draw(4 * count, generator, place).view(4, count, 1, 1) * settings.borders
    edges = edges * (_draw(4 * count, generator, place).view(4, count, 1, 1) < settings.borders_share)
    outside = (rows < edges[0]) | (rows >= 1 - edges[1]) | (columns < edges[2]) | (columns >= 1 - edges[3])
    grey = torch.where(_draw(count, generator, place) < 0.8, 0.0, 1.0) * _draw(count, generator, place)
    return torch.where(outside.unsqueeze(1), grey.view(-1, 1, 1, 1), films)


def _mark(films: Tensor, settings: ShiftSettings, generator: torch.Generator) -> Tensor:
    """Paint letters in near the edges, and paint what stands there out."""
    count, _, height, width = films.shape
    chosen = torch.rand(count, 2, generator=generator) < settings.markers
    if not bool(chosen.any()):
        return films
    films = films.clone()
    for number, (paint_in, paint_out) in enumerate(chosen.tolist()):
        film = films[number, 0]
        if paint_out:
            top, left, side = _edge_place(height, width, generator)
            patch = film[top : top + side, left : left + side]
            patch.fill_(float(patch.median()))
        if paint_in:
            top, left, side = _edge_place(height, width, generator)
            text = LETTERS[int(torch.randint(len(LETTERS), (1,), generator=generator))]
            letter = torch.tensor([[float(place) for place in row] for row in text.split()], device=films.device)
            mask = functional.interpolate(letter[None, None], (side, side), mode="nearest")[0, 0]
            level = 0.6 + 0.4 * float(torch.rand(1, generator=generator))
            patch = film[top : top + side, left : left + side]
            patch.copy_(torch.maximum(patch, mask * level))
    return films


def _edge_place(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int]:
    """Return top, left and side of a square in the outer fifth of the film."""
    low, high = MARKER_SIDE
    a, b, c, d = torch.rand(4, generator=generator).tolist()
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


def _tones(films: Tensor, settings: ShiftSettings, generator: torch.Generator) -> Tensor:
    count, place = len(films), films.device

    def drawn(amount: float) -> Tensor:
        return (_either(count, generator, place) * amount).view(-1, 1, 1, 1)

    low = _draw(count, generator, place).view(-1, 1, 1, 1) * settings.window
    high = 1 - _draw(count, generator, place).view(-1, 1, 1, 1) * settings.window
    films = ((films - low) / (high - low)).clamp(0, 1)
    films = films.clamp(min=1e-4) ** torch.exp(drawn(settings.gamma))
    return (films - 0.5) * torch.exp(drawn(settings.contrast)) + 0.5 + drawn(settings.brightness)


def _sharpness(films: Tensor, settings: ShiftSettings, generator: torch.Generator) -> Tensor:
    """Blur a film, or sharpen it by what a blur takes away; by one kernel for each film."""
    if settings.blur_px == 0:
        return films
    count, place = len(films), films.device
    sigma = 0.3 + _draw(count, generator, place) * settings.blur_px
    blurred = _blur(films, sigma, max(1, math.ceil(2.5 * (0.3 + settings.blur_px))))
    kind = _draw(count, generator, place).view(-1, 1, 1, 1)
    strength = _draw(count, generator, place).view(-1, 1, 1, 1) * settings.sharpen
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


def _compress(films: Tensor, settings: ShiftSettings, generator: torch.Generator) -> Tensor:
    """Pack some of the films as JPEG and unpack them, now and then at another size on the way."""
    count = len(films)
    chosen = torch.rand(count, generator=generator) < settings.jpeg
    quality = torch.randint(settings.jpeg_quality, 96, (count,), generator=generator)
    scale = 0.5 + torch.rand(count, generator=generator)
    resized = torch.rand(count, generator=generator) < 0.5
    if not bool(chosen.any()):
        return films
    films = films.clone()
    for number in chosen.nonzero().flatten().tolist():
        image = Image.fromarray((films[number, 0] * 255).round().to(torch.uint8).cpu().numpy())
        size = image.size
        if bool(resized[number]):
            sides = (max(16, round(size[0] * float(scale[number]))), max(16, round(size[1] * float(scale[number]))))
            image = image.resize(sides, Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(quality[number]))
        with Image.open(buffer) as packed:
            unpacked = packed if packed.size == size else packed.resize(size, Image.Resampling.BILINEAR)
            films[number, 0] = torch.from_numpy(np.asarray(unpacked, np.float32) / 255).to(films.device)
    return films
