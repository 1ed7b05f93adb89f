"""Reading a file: what it is, PNG, JPEG and TIFF films, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import struct
import warnings
import zlib
from time import perf_counter

import made
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.limits import Limits, orient
from rentgen.images.prepare import prepare
from rentgen.images.read import read
from rentgen.records import Preprocessing

MAKERS = {"png": made.png, "tiff": made.tiff}


# Where a film comes from


def test_path_text_and_bytes_are_the_same_film(tmp_path: pathlib.Path) -> None:
    data = made.png(made.film8())
    # The name says something else on purpose.
    path = tmp_path / "film.jpeg"
    path.write_bytes(data)
    films = [read(path), read(str(path)), read(data)]
    assert {film.content_hash for film in films} == {hashlib.sha256(data).hexdigest()}
    assert {film.source_format for film in films} == {"png"}


def test_name_stands_in_messages() -> None:
    with pytest.raises(InputError, match=r"^upload 7: the file is empty") as caught:
        read(b"", name="upload 7")
    assert (caught.value.source, caught.value.reason) == ("upload 7", "the file is empty")


def test_paths_that_are_not_a_film(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "missing.png")
    with pytest.raises(InputError, match="this is a folder"):
        read(tmp_path)
    with pytest.raises(InputError, match="cannot be opened"):
        read("a\0b")
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="the file is empty"):
        read(tmp_path / "empty")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not an ordinary file"):
        read(tmp_path / "pipe")


def test_too_large_a_file(tmp_path: pathlib.Path) -> None:
    limits = Limits(max_bytes=1000)
    (tmp_path / "big").write_bytes(b"x" * 1001)
    with pytest.raises(InputError, match="too large: 1001 bytes"):
        read(tmp_path / "big", limits=limits)
    with pytest.raises(InputError, match="too large: 1001 bytes"):
        read(b"x" * 1001, limits=limits)
    # Sparse: its size is known without reading it.
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(300_000_000)
    with pytest.raises(InputError, match="at most 200 MB are read"):
        read(tmp_path / "sparse")


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="Expected limit `max_pixels` to be at least 1, but got 0"):
        Limits(max_pixels=0)


@pytest.mark.parametrize(
    ("data", "kind", "sound"),
    [
        (b"GIF89a....", "a GIF image", True),
        (b"BM.......", "a BMP image", True),
        (b"RIFF....WEBPVP8 ", "a WebP image", True),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 image", True),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 codestream", True),
        (b"II+\0\x08\0\0\0", "a BigTIFF image", True),
        (b"MM\0+\0\x08\0\0", "a BigTIFF image", True),
        (b"\0\0\0\x18ftypheic", "a HEIF image or a video", True),
        (b"%PDF-1.7\n", "a PDF document", False),
        (b"PK\x03\x04....", "a ZIP archive; unpack it first", False),
        (b"PK\x05\x06....", "an empty ZIP archive", False),
        (b"\x1f\x8b\x08\0", "a gzip archive", False),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", False),
        (b"  <!doctype html><html>", "a web page or XML", False),
        (b"The findings are", "text", False),
        (b"\0\1\2\3\4\5", "something else, or a damaged one", False),
    ],
)
def test_other_files_are_named(data: bytes, kind: str, sound: bool) -> None:
    with pytest.raises(InputError, match=f"expected a DICOM, PNG, JPEG or TIFF file, but got {kind}") as caught:
        read(data)
    assert isinstance(caught.value, UnsupportedImageError) is sound


# Depths


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_8_bit_films_are_read_as_they_are(kind: str) -> None:
    pixels = made.film8()
    film = read(MAKERS[kind](pixels))
    np.testing.assert_array_equal(film.pixels, pixels)
    assert (film.bits, film.source_format, film.orientation, film.notes) == (8, kind, 1, ())


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bits_in_use_are_inferred_and_fill_the_range(kind: str, bits: int) -> None:
    pixels = made.film(bits=bits)
    film = read(MAKERS[kind](pixels))
    assert film.bits == bits
    assert film.pixels.dtype == np.uint16
    np.testing.assert_allclose(film.pixels, pixels * (65535 / ((1 << bits) - 1)), atol=0.51)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_16_bit_copy_of_an_8_bit_film_prepares_to_the_same(kind: str) -> None:
    pixels = made.film8(90, 70)
    small = prepare(read(MAKERS[kind](pixels)), Preprocessing(32, 32)).pixels
    large = prepare(read(MAKERS[kind](pixels.astype(np.uint16) * 257)), Preprocessing(32, 32)).pixels
    assert np.abs(small.astype(int) - large).max() <= 1


def test_big_endian_and_signed_and_deep_tiffs() -> None:
    pixels = made.film()
    big = made.tiff(Image.frombytes("I;16B", (40, 48), pixels.astype(">u2").tobytes()))
    expected = read(made.tiff(pixels)).pixels
    assert big[:2] == b"MM"
    np.testing.assert_array_equal(read(big).pixels, expected)
    np.testing.assert_array_equal(read(made.tiff(pixels.astype(np.int32))).pixels, expected)
    for wrong in (-1, 70000):
        deep = pixels.astype(np.int32)
        deep[0, 0] = wrong
        with pytest.raises(UnsupportedImageError, match="negative or more than 16-bit pixels"):
            read(made.tiff(deep))
    with pytest.raises(UnsupportedImageError, match="the TIFF file holds fractions"):
        read(made.tiff(pixels.astype(np.float32)))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiffs(compression: str) -> None:
    for pixels in (made.film8(), made.film()):
        np.testing.assert_array_equal(
            read(made.tiff(pixels, compression=compression)).pixels, read(made.png(pixels)).pixels
        )


@pytest.mark.parametrize("pixels", [made.film8(), made.film()], ids=["8", "16"])
def test_white_is_zero(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint16]]) -> None:
    data = made.tiff(pixels)
    entry = struct.pack("<HHLHH", 262, 3, 1, 1, 0)
    assert entry in data
    inverse = read(data.replace(entry, struct.pack("<HHLHH", 262, 3, 1, 0, 0))).pixels
    plain = read(data).pixels
    np.testing.assert_array_equal(inverse, np.iinfo(plain.dtype).max - plain)


# Colours


def test_black_and_white() -> None:
    picture = Image.fromarray(made.film8()).convert("1")
    for data in (made.png(picture), made.tiff(picture)):
        film = read(data)
        assert set(np.unique(film.pixels)) == {0, 255}
        assert film.bits == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_turns_grey(mode: str) -> None:
    rgb = np.random.default_rng(1).integers(0, 255, (30, 40, 3), np.uint8)
    picture = Image.fromarray(rgb).convert(mode)
    data = made.tiff(picture)
    film = read(data)
    np.testing.assert_allclose(film.pixels, np.asarray(picture.convert("RGB").convert("L")), atol=1)
    assert "colour turned grey" in film.notes
    if mode == "RGB":
        np.testing.assert_allclose(film.pixels, rgb @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_is_black(mode: str) -> None:
    picture = Image.new(mode, (20, 10), (200,) * (len(mode) - 1) + (255,))
    picture.paste((200,) * (len(mode) - 1) + (0,), (0, 0, 10, 10))
    for data in (made.png(picture), made.tiff(picture)):
        film = read(data)
        assert not film.pixels[:, :10].any()
        assert (film.pixels[:, 10:] == 200).all()


def test_palette_with_transparency_and_grey_level_with_transparency() -> None:
    picture = Image.fromarray(made.film8()).convert("P")
    assert read(made.png(picture, transparency=0)).pixels.shape == (48, 40)
    np.testing.assert_array_equal(read(made.png(made.film8(), transparency=7)).pixels, made.film8())


def test_16_bit_colour_png() -> None:
    header = made.png_chunk(b"IHDR", struct.pack(">LLBBBBB", 4, 3, 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + struct.pack(">12H", *[0x8000] * 12) for _ in range(3))
    data = b"\x89PNG\r\n\x1a\n" + header + made.png_chunk(b"IDAT", zlib.compress(rows)) + made.png_chunk(b"IEND", b"")
    film = read(data)
    assert film.bits == 8
    assert (film.pixels == 128).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs(mode: str) -> None:
    picture = Image.fromarray(made.film8()).convert(mode)
    film = read(made.jpeg(picture, quality=98))
    assert film.source_format == "jpeg"
    assert "lossy compression" in film.notes
    assert np.abs(film.pixels.astype(int) - np.asarray(picture.convert("RGB").convert("L"))).max() < 12
    assert read(made.jpeg(picture, progressive=True)).pixels.shape == (48, 40)


# Orientation


@pytest.mark.parametrize("code", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff"])
def test_exif_orientation(kind: str, code: int) -> None:
    pixels = made.film8(16, 24)
    with Image.open(io.BytesIO(made.png(pixels, exif=made.exif(code)))) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(orient(pixels, code), expected)
    if kind == "jpeg":
        film = read(made.jpeg(pixels, exif=made.exif(code)))
        expected = orient(read(made.jpeg(pixels)).pixels, code)
    elif kind == "png":
        film = read(made.png(pixels, exif=made.exif(code)))
    else:
        film = read(made.tiff(pixels, tiffinfo={274: code}))
    assert film.orientation == code
    np.testing.assert_array_equal(film.pixels, expected)


@pytest.mark.parametrize(
    ("exif", "note"),
    [
        (b"Exif\0\0junk", "damaged EXIF ignored"),
        (made.exif(6)[:-12], "damaged EXIF ignored"),
        (made.exif(9), "unknown EXIF"),
    ],
)
def test_damaged_exif_is_ignored_and_noted(exif: bytes, note: str) -> None:
    film = read(made.jpeg(made.film8(), exif=exif))
    assert film.orientation == 1
    assert any(text.startswith(note) for text in film.notes)


# Refused


def test_several_pages_and_animations() -> None:
    pages = [Image.fromarray(made.film8(seed=seed)) for seed in range(3)]
    with pytest.raises(UnsupportedImageError, match="several pages; send a single film"):
        read(made.tiff(pages[0], save_all=True, append_images=pages[1:]))
    with pytest.raises(UnsupportedImageError, match="is an animation"):
        read(made.png(pages[0], save_all=True, append_images=pages[1:]))


def test_an_image_that_is_too_large_is_refused_by_its_header() -> None:
    png = made.png(made.film8())
    huge = made.png_chunk(b"IHDR", struct.pack(">LLBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    with pytest.raises(InputError, match="too large: 60000 rows x 60000 columns; at most 20000 a side"):
        read(png[:8] + huge + png[33:])
    flat = made.png_chunk(b"IHDR", struct.pack(">LLBBBBB", 10000, 10001, 8, 0, 0, 0, 0))
    with pytest.raises(InputError, match="too large: 10001 rows x 10000 columns"):
        read(png[:8] + flat + png[33:])
    jpeg = made.jpeg(made.film8())
    at = jpeg.index(b"\xff\xc0")
    with pytest.raises(InputError, match="too large: 65535 rows"):
        read(jpeg[: at + 5] + b"\xff\xff\xff\xff" + jpeg[at + 9 :])
    with pytest.raises(InputError, match="no pixels: 0 rows"):
        read(jpeg[: at + 5] + b"\0\0" + jpeg[at + 7 :])
    tiff = made.tiff(made.film8())
    entry = struct.pack("<HHLHH", 256, 4, 1, 40, 0)
    assert entry in tiff
    with pytest.raises(InputError, match="too large"):
        read(tiff.replace(entry, struct.pack("<HHLL", 256, 4, 1, 1_000_000)))
    # More than Pillow would take without a warning.
    large = tiff.replace(entry, struct.pack("<HHLL", 256, 4, 1, 9500))
    large = large.replace(struct.pack("<HHLL", 257, 4, 1, 48), struct.pack("<HHLL", 257, 4, 1, 9500))
    with pytest.raises(InputError, match="TIFF image is too large: at most"):
        read(large)
    with pytest.raises(InputError, match="too large: 48 rows"):
        read(png, limits=Limits(max_pixels=100))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_cut_short(kind: str) -> None:
    data = made.encoded(made.film8(64, 64), kind)
    for part in (0.2, 0.5, 0.8, 0.98):
        with pytest.raises(InputError, match=r"cut short|damaged"):
            read(data[: int(len(data) * part)])


def test_damaged_containers() -> None:
    png, jpeg, tiff = made.png(made.film8()), made.jpeg(made.film8()), made.tiff(made.film8())
    with pytest.raises(InputError, match="does not begin with its header"):
        read(png[:8] + png[33:])
    with pytest.raises(InputError, match="the PNG file is cut short"):
        read(png[:-12])
    wrong = bytearray(png)
    wrong[60] ^= 0xFF
    with pytest.raises(InputError, match="PNG file is damaged or cut short: its pixels cannot be decoded"):
        read(bytes(wrong))
    with pytest.raises(InputError, match="the JPEG file's header is damaged"):
        read(jpeg[:3] + b"\xe0\0\2junk" + jpeg[20:])
    lossless = bytearray(jpeg)
    lossless[jpeg.index(b"\xff\xc0") + 1] = 0xC3
    with pytest.raises(UnsupportedImageError, match="lossless or has 12 bits"):
        read(bytes(lossless))
    with pytest.raises(InputError, match="TIFF file is damaged or cut short: its tags cannot be read"):
        read(tiff[:12])
    for tag, values in ((256, struct.pack("<HHLL", 256, 4, 2, 8)), (256, struct.pack("<HHLL", 256, 2, 1, 8))):
        with pytest.raises(InputError, match="its tags cannot be read"):
            read(tiff.replace(struct.pack("<HHLHH", tag, 4, 1, 40, 0), values))
    strip = tiff.index(struct.pack("<HHL", 273, 4, 1))
    with pytest.raises(InputError, match="its tags cannot be read"):
        read(tiff[:strip] + struct.pack("<HHLL", 273, 4, 0x7FFFFFFF, 8) + tiff[strip + 12 :])


def test_text_and_profiles_are_never_unfolded() -> None:
    png = made.png(made.film8())
    bomb = made.png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(50_000_000)))
    profile = made.png_chunk(b"iCCP", b"grey\0\0" + zlib.compress(bytes(50_000_000)))
    animation = made.png_chunk(b"caBX", b"x" * 100)
    began = perf_counter()
    film = read(png[:33] + bomb * 3 + profile + animation + png[33:])
    assert perf_counter() - began < 1
    np.testing.assert_array_equal(film.pixels, made.film8())


def test_damaged_metadata_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jpeg = made.jpeg(
            made.film8(), exif=made.exif(1).replace(b"\x12\x01\x03\0\1\0\0\0", b"\x12\x01\x05\0\xff\xff\xff\0")
        )
        assert read(jpeg).orientation == 1
        tiff = made.tiff(made.film8(), tiffinfo={270: "x" * 100})
        at = tiff.index(struct.pack("<HHL", 270, 2, 101))
        film = read(tiff[:at] + struct.pack("<HHLL", 270, 2, 0x7FFFFFFF, 8) + tiff[at + 12 :])
        np.testing.assert_array_equal(film.pixels, made.film8())


# Whatever comes


SOUND = {
    "png": made.png(made.film8(24, 20)),
    "png16": made.png(made.film(24, 20)),
    "jpeg": made.jpeg(made.film8(24, 20), exif=made.exif(6)),
    "tiff": made.tiff(made.film8(24, 20), compression="tiff_lzw"),
    "tiff16": made.tiff(made.film(24, 20)),
    **{
        f"dicom-{syntax[17:]}": made.dicom(made.film(33, 34), syntax=syntax)
        for syntax in (*made.NATIVE, *made.CODED_LOSSLESS)
    },
    "dicom-jpeg": made.dicom(made.film8(), bits=8, syntax="1.2.840.10008.1.2.4.50"),
}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refused_or_read(data: bytes) -> None:
    began = perf_counter()
    try:
        film = read(data)
    except InputError:
        pass
    else:
        assert film.pixels.size > 0
    assert perf_counter() - began < 2


@QUICK
@given(st.binary(max_size=2000))
def test_arbitrary_bytes(data: bytes) -> None:
    refused_or_read(data)


@QUICK
@given(
    st.sampled_from([SOUND["png"][:8], b"\xff\xd8\xff", b"II*\0", b"MM\0*", made.part10(b"")]), st.binary(max_size=500)
)
def test_arbitrary_bytes_after_a_magic_number(magic: bytes, data: bytes) -> None:
    refused_or_read(magic + data)


@pytest.mark.parametrize("name", SOUND)
@QUICK
@given(st.data())
def test_truncated_files(name: str, data: st.DataObject) -> None:
    sound = SOUND[name]
    refused_or_read(sound[: data.draw(st.integers(0, len(sound) - 1))])


@pytest.mark.parametrize("name", SOUND)
@QUICK
@given(st.data())
def test_flipped_bytes(name: str, data: st.DataObject) -> None:
    changed = bytearray(SOUND[name])
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    ):
        changed[at] = value
    refused_or_read(bytes(changed))
