from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from reason_runtime.errors import ConfigurationError, DataError, ImageError
from reason_runtime.image import (
    InputFormat,
    as_image,
    list_images,
    load_image,
    read_image,
    reads_alike,
    resize_image,
    square_format,
)
from tests.runtime.images import png_bytes, write_16_bit_png

RGB = square_format(32)
MONO = square_format(32, channels=1)
GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess_seed1.npz"


def noise(shape: tuple[int, ...], *, seed: int = 0, high: int = 256) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, high, shape)


@pytest.mark.parametrize("case", ["down", "up", "gray_line"])
def test_resize_equals_the_golden_arrays_exactly(case: str) -> None:
    with np.load(GOLDEN) as golden:
        resized = resize_image(golden[f"{case}_in"], input_format=square_format(256))
        np.testing.assert_array_equal(resized, golden[f"{case}_out"])


def test_crop_takes_the_centre_of_the_resized_image() -> None:
    image = noise((300, 200, 3)).astype(np.uint8)
    whole = resize_image(image, input_format=square_format(256))
    cropped = resize_image(image, input_format=square_format(224, resize_px=256))
    np.testing.assert_array_equal(cropped, whole[16:240, 16:240])


def test_mono_is_resized_as_each_channel_of_rgb() -> None:
    image = noise((70, 50, 1)).astype(np.uint8)
    mono = resize_image(image, input_format=MONO)
    rgb = resize_image(np.repeat(image, 3, axis=2), input_format=RGB)
    np.testing.assert_array_equal(np.repeat(mono, 3, axis=2), rgb)


@pytest.mark.parametrize("shape", [(70, 50), (256, 256), (70, 50, 1)])
def test_a_mono_frame_taken_as_rgb_is_never_copied_three_times(shape: tuple[int, ...]) -> None:
    frame = noise(shape).astype(np.uint8)
    image = as_image(frame, input_format=RGB)
    assert np.shares_memory(image, frame)
    expanded = np.repeat(frame.reshape(*shape[:2], 1), 3, axis=2)
    np.testing.assert_array_equal(image, expanded)
    resized = resize_image(image, input_format=RGB)
    np.testing.assert_array_equal(resized, resize_image(expanded, input_format=RGB))
    assert resized.flags.c_contiguous
    height, width = shape[:2]
    camera = InputFormat(
        height_px=height, width_px=width, resize_height_px=height, resize_width_px=width, resize_filter="in-graph"
    )
    whole = resize_image(as_image(frame, input_format=camera), input_format=camera)
    np.testing.assert_array_equal(whole, expanded)
    assert whole.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_eight_bit_files_come_back_as_they_are(tmp_path: Path, suffix: str) -> None:
    pixels = noise((20, 30, 3)).astype(np.uint8)
    path = tmp_path / f"image{suffix}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(read_image(path, input_format=RGB), pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_decoded_as_pillow_decodes_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(noise((20, 30, 3)).astype(np.uint8)).save(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path, input_format=RGB), np.asarray(image))


def test_mono_file_is_three_equal_channels_for_an_rgb_graph_and_itself_for_a_mono_graph(tmp_path: Path) -> None:
    pixels = noise((20, 30)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mono.png")
    np.testing.assert_array_equal(read_image(tmp_path / "mono.png", input_format=RGB), np.stack([pixels] * 3, axis=2))
    np.testing.assert_array_equal(read_image(tmp_path / "mono.png", input_format=MONO), pixels[:, :, None])


def test_colour_becomes_luma_for_a_mono_graph() -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:] = (200, 100, 50)
    assert (as_image(pixels, input_format=MONO) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()


def test_one_bit_becomes_0_and_255(tmp_path: Path) -> None:
    bits = noise((20, 30), high=2).astype(bool)
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png", input_format=MONO)[:, :, 0], 255 * bits)


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(noise((20, 30), high=3).astype(np.uint8), mode=None)
    indexed = image.convert("P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    indexed.save(tmp_path / "palette.png")
    found = read_image(tmp_path / "palette.png", input_format=RGB)
    np.testing.assert_array_equal(found, np.asarray(indexed.convert("RGB")))
    assert {tuple(colour) for colour in found.reshape(-1, 3)} == {(255, 0, 0), (0, 255, 0), (0, 0, 255)}


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 30), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert (read_image(tmp_path / "cmyk.tif", input_format=RGB) == (255, 0, 0)).all()


def test_what_a_transparent_pixel_hides_does_not_show(tmp_path: Path) -> None:
    pixels = np.full((20, 30, 4), 200, dtype=np.uint8)
    pixels[:, :10, 3] = 255
    pixels[:, 10:20, 3] = 0
    pixels[:, 20:, 3] = 51
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    found = read_image(tmp_path / "alpha.png", input_format=RGB)
    assert (found[:, :10] == 200).all()
    assert (found[:, 10:20] == 0).all()
    assert (found[:, 20:] == 40).all()  # 200 * 51 / 255


def test_palette_with_a_transparent_entry_is_composited_over_black(tmp_path: Path) -> None:
    indexed = Image.new("P", (20, 30), 1)
    indexed.putpalette([255, 255, 255, 9, 9, 9] + [0] * 762)
    indexed.paste(0, (0, 0, 10, 30))
    indexed.save(tmp_path / "key.png", transparency=0)
    found = read_image(tmp_path / "key.png", input_format=RGB)
    assert (found[:, :10] == 0).all()
    assert (found[:, 10:] == 9).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise((20, 30, 3)).astype(np.uint8)).save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert upright.shape == ((20, 30, 3) if orientation < 5 else (30, 20, 3))
    np.testing.assert_array_equal(read_image(path, input_format=RGB), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_orientation_is_applied_to_16_bit_images(tmp_path: Path, orientation: int, channels: int) -> None:
    pixels = noise((20, 30, channels)).astype(np.uint8)
    write_16_bit_png(tmp_path / "deep.png", np.squeeze(pixels.astype(np.uint16) * 257), orientation=orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.squeeze(pixels)).save(tmp_path / "flat.png", exif=exif)
    deep = read_image(tmp_path / "deep.png", input_format=RGB)
    np.testing.assert_array_equal(deep, read_image(tmp_path / "flat.png", input_format=RGB))


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_become_8_by_the_formats_levels_and_nothing_else(tmp_path: Path, channels: int) -> None:
    pixels = noise((40, 60, channels), high=65536).astype(np.uint16)
    pixels[0, :6, 0] = (0, 1000, 1001, 5000, 5001, 65535)
    levels = InputFormat(
        height_px=32, width_px=32, resize_height_px=32, resize_width_px=32, black_level=1000, white_level=5000
    )
    write_16_bit_png(tmp_path / "deep.png", np.squeeze(pixels))
    exact = (np.clip(pixels.astype(np.float64), 1000, 5000) - 1000) * 255 / 4000
    expected = np.floor(exact + 0.5).astype(np.uint8)
    found = read_image(tmp_path / "deep.png", input_format=levels)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (40, 60, 3)))
    np.testing.assert_array_equal(as_image(pixels, input_format=levels), found)


def test_a_16_bit_pixel_does_not_depend_on_the_rest_of_its_image(tmp_path: Path) -> None:
    dark = np.full((20, 20), 3000, dtype=np.uint16)
    bright = dark.copy()
    bright[10:] = 60000
    for name, pixels in (("dark", dark), ("bright", bright)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
    first = [read_image(tmp_path / f"{name}.tif", input_format=MONO)[0, 0, 0] for name in ("dark", "bright")]
    assert first == [round(3000 / 257)] * 2


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_a_16_bit_image_is_composited_over_black(tmp_path: Path, channels: int) -> None:
    pixels = np.full((20, 30, channels), 200 * 257, dtype=np.uint16)
    pixels[:, :, -1] = 51 * 257
    write_16_bit_png(tmp_path / "deep.png", pixels)
    assert (read_image(tmp_path / "deep.png", input_format=RGB) == 40).all()


def test_big_endian_16_bit_tiff_reads_like_little_endian(tmp_path: Path) -> None:
    pixels = noise((20, 30), high=65536).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "little.tif")
    Image.frombytes("I;16B", (30, 20), pixels.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    big, little = (read_image(tmp_path / f"{name}.tif", input_format=MONO) for name in ("big", "little"))
    np.testing.assert_array_equal(big, little)


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [(np.zeros((20, 20), dtype=np.float32), "'F'"), (np.zeros((20, 20), dtype=np.int32), "'I'")],
)
def test_float_and_32_bit_tiffs_are_refused(tmp_path: Path, pixels: NDArray[np.generic], kind: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    with pytest.raises(ImageError, match=f"deep.tif: has pixels of the kind {kind}; expected 8 or 16 bits"):
        read_image(tmp_path / "deep.tif", input_format=RGB)


def test_pixels_with_a_sign_and_volumes_are_refused(tmp_path: Path) -> None:
    deep_tiff(tmp_path / "signed.tif", np.full((20, 20), -3, np.int8))
    with pytest.raises(ImageError, match="signed.tif: is a TIFF whose pixels have a sign"):
        read_image(tmp_path / "signed.tif", input_format=MONO)
    deep_tiff(tmp_path / "volume.tif", np.zeros((5, 32, 32), np.uint8), volumetric=True, tile=(5, 32, 32))
    with pytest.raises(ImageError, match="volume.tif: is a TIFF of a volume"):
        read_image(tmp_path / "volume.tif", input_format=MONO)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_value_is_black_or_refused(tmp_path: Path, bits: int) -> None:
    """Upper half grey value 1 of so many bits, which is transparent; lower half 0, or 1 and more besides."""
    rows = np.zeros((20, 32), np.uint16)
    rows[:10] = 1
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        shifts = np.arange(8 // bits)[::-1] * bits
        packed = (rows.reshape(20, -1, 8 // bits) << shifts).sum(axis=2).astype(np.uint8)
    png_of(tmp_path / "grey.png", packed, width=32, bits=bits, transparent=1)
    if bits in (1, 8):
        assert (read_image(tmp_path / "grey.png", input_format=MONO) == 0).all()
    else:
        with pytest.raises(ImageError, match=r"grey\.png: is a mono PNG with a transparent grey value"):
            read_image(tmp_path / "grey.png", input_format=MONO)


def png_of(path: Path, rows: NDArray[np.uint8], *, width: int, bits: int, transparent: int) -> None:
    """A mono PNG, chunk by chunk."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", transparent))
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
        + chunk(b"IEND", b"")
    )


def test_several_pages_are_refused_rather_than_one_of_them_judged(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 20), value) for value in (1, 2, 3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="pages.tif: holds 3 pages or frames; expected one"):
        read_image(tmp_path / "pages.tif", input_format=RGB)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused_with_its_name(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise((100, 120, 3)).astype(np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ImageError, match=f"cut{suffix}: (is not an image|cannot be read|is damaged)"):
        read_image(path, input_format=RGB)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_16_bit_file_that_is_cut_off_is_refused_with_its_name(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "cut.png"
    write_16_bit_png(path, noise((100, 120, 3), high=65536).astype(np.uint16))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ImageError, match=r"cut\.png: (cannot be read|is damaged)"):
        read_image(path, input_format=RGB)


def test_a_changed_byte_of_a_png_never_gives_another_picture(tmp_path: Path) -> None:
    path = tmp_path / "changed.png"
    Image.fromarray(noise((24, 24), high=20).astype(np.uint8)).save(path)
    whole, picture = path.read_bytes(), read_image(path, input_format=RGB)
    given = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(ImageError):
            given.append(read_image(path, input_format=RGB))
    assert all(np.array_equal(each, picture) for each in given), len(given)


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_a_png_whose_end_has_not_been_written_yet_is_refused(tmp_path: Path, left: float) -> None:
    path = tmp_path / "zeros.png"  # as a copy over a network or a power cut leaves it: its full size, and zeros
    Image.fromarray(noise((64, 64, 3), high=20).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    there = int(left * len(whole))
    path.write_bytes(whole[:there] + bytes(len(whole) - there))
    with pytest.raises(ImageError, match=r"zeros\.png: (cannot be read|is damaged)"):
        read_image(path, input_format=RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".jpg", ".webp"])
def test_damaged_bytes_give_an_image_or_an_image_error_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    Image.fromarray(noise((40, 40, 3)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    refused = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        content = bytearray(whole)
        for place in rng.integers(0, min(len(content), 400), 6):
            content[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(content))
        try:
            read_image(path, input_format=RGB)
        except ImageError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_damaged_facts_about_a_picture_give_an_image_or_an_image_error_and_nothing_else(
    tmp_path: Path, suffix: str
) -> None:
    facts = Image.Exif()
    facts[ExifTags.Base.Orientation], facts[ExifTags.Base.ImageDescription] = 6, "turned"
    path = tmp_path / f"damaged{suffix}"
    Image.fromarray(noise((24, 20, 3)).astype(np.uint8)).save(path, exif=facts)
    assert read_image(path, input_format=RGB).shape == (20, 24, 3)
    whole = path.read_bytes()
    at = whole.index(b"turned")
    for seed in range(600):
        rng = np.random.default_rng(seed)
        content = bytearray(whole)
        for place in rng.integers(max(0, at - 60), min(len(content), at + 10), 3):
            content[place] = int(rng.choice([0, 1, 2, 5, 12, 127, 255]))
        path.write_bytes(bytes(content))
        with contextlib.suppress(ImageError):
            read_image(path, input_format=RGB)


def deep_tiff(path: Path, pixels: NDArray[np.generic], **facts: Any) -> Path:
    tifffile.imwrite(path, pixels, **facts)
    return path


def test_16_bit_colour_whose_bits_are_one_number_for_all_samples_keeps_its_16_bits(tmp_path: Path) -> None:
    pixels = np.full((20, 20, 3), (4095, 2048, 0), np.uint16)
    path = deep_tiff(tmp_path / "deep.tif", pixels, photometric="rgb")
    form = dataclasses.replace(RGB, white_level=4095)
    expected = read_image(path, input_format=form)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["BitsPerSample"].overwrite(16)
    with Image.open(path) as picture:
        assert tuple(picture.tag_v2[258]) == (16,)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read_image(path, input_format=form), expected)
    assert expected[0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize(
    ("shape", "facts", "told"),
    [
        ((3, 20, 20), {"photometric": "rgb", "planarconfig": "separate"}, "each colour in a plane of its own"),
        ((20, 20, 4), {"photometric": "separated"}, "colours that are not RGB"),
        ((20, 20, 4), {"photometric": "rgb", "extrasamples": ["assocalpha"]}, "a fourth sample that is no plain alpha"),
        ((20, 20, 4), {"photometric": "rgb", "extrasamples": ["unspecified"]}, "a fourth sample that is no plain"),
        ((20, 20), {"photometric": "miniswhite"}, "highest value is black"),
    ],
)
def test_16_bit_tiffs_that_would_be_read_otherwise_than_those_of_8_bits_are_refused(
    shape: tuple[int, ...], facts: dict[str, object], told: str, tmp_path: Path
) -> None:
    path = deep_tiff(tmp_path / "odd.tif", noise(shape, high=65536).astype(np.uint16), **facts)
    with pytest.raises(ImageError, match=told):
        read_image(path, input_format=RGB)


@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 3)])
def test_a_picture_is_read_from_a_pipe_as_from_a_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    write_16_bit_png(tmp_path / "deep.png", noise(shape, high=65536).astype(np.uint16))
    cat = subprocess.Popen(["cat", tmp_path / "deep.png"], stdout=subprocess.PIPE)
    assert cat.stdout is not None
    piped = read_image(f"/dev/fd/{cat.stdout.fileno()}", input_format=RGB)  # as a shell gives `<(cat deep.png)`
    cat.communicate()
    np.testing.assert_array_equal(piped, read_image(tmp_path / "deep.png", input_format=RGB))


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    command = "import sys; from reason_runtime.image import decode_file; decode_file(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", command, tmp_path / "fifo.png"], stderr=subprocess.PIPE, text=True, timeout=10
    )
    assert done.stderr.splitlines()[-1].startswith("reason_runtime.errors.ImageError: ")
    assert "fifo.png: is not an image in one of the formats" in done.stderr


def test_a_text_file_called_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"note\.png: is not an image in one of the formats PNG, JPEG"):
        read_image(tmp_path / "note.png", input_format=RGB)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere.png: cannot be read"):
        read_image(tmp_path / "nowhere.png", input_format=RGB)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path, input_format=RGB)


@pytest.mark.parametrize("side", [0, 1, 15])
def test_images_that_are_too_small_are_refused(tmp_path: Path, side: int) -> None:
    content = png_bytes(width_px=side, height_px=side, bits=8, colour_type=0, rows=bytes((1 + side) * side))
    (tmp_path / "small.png").write_bytes(content)
    with pytest.raises(ImageError, match="small.png: .*(smallest side allowed is 16 pixels|is not an image)"):
        read_image(tmp_path / "small.png", input_format=RGB)
    with pytest.raises(ImageError, match="smallest side allowed is 16 pixels"):
        as_image(np.zeros((side, side), dtype=np.uint8), input_format=RGB)


def test_a_100_megapixel_image_works(tmp_path: Path) -> None:
    content = png_bytes(width_px=10_000, height_px=10_000, bits=1, colour_type=0, rows=bytes(1251 * 10_000))
    (tmp_path / "large.png").write_bytes(content)
    assert load_image(tmp_path / "large.png", input_format=MONO).shape == (32, 32, 1)


@pytest.mark.parametrize("side", [12_300, 14_000])
def test_a_larger_image_is_refused_before_it_is_decoded_and_the_limit_is_named(tmp_path: Path, side: int) -> None:
    content = png_bytes(width_px=side, height_px=side, bits=8, colour_type=2, rows=b"")
    (tmp_path / "larger.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"larger\.png: .*150 megapixels"):
        read_image(tmp_path / "larger.png", input_format=RGB)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
def test_arrays_follow_the_rules_of_files(shape: tuple[int, ...]) -> None:
    array = noise(shape).astype(np.uint8)
    expected = np.broadcast_to(array.reshape(20, 30, -1), (20, 30, 3))
    np.testing.assert_array_equal(as_image(array, input_format=RGB), expected)


def test_formats_read_alike_exactly_where_they_give_the_same_of_every_array() -> None:
    whole = dataclasses.replace(RGB, resize_filter="in-graph")
    part = dataclasses.replace(whole, crop_px=(0, 0, 32, 32))
    larger = dataclasses.replace(whole, height_px=40, resize_height_px=40)
    levels = dataclasses.replace(RGB, black_level=9), dataclasses.replace(RGB, white_level=4095)
    forms = [RGB, square_format(64), part, MONO, *levels, whole, larger]
    arrays = [noise(shape, high=65536).astype(np.uint16) for shape in ((40, 32, 3), (32, 32), (50, 40))]

    def given(form: InputFormat) -> list[bytes | str]:
        found: list[bytes | str] = []
        for array in arrays:
            try:
                found.append(as_image(array, input_format=form).tobytes())
            except ImageError as error:
                found.append(str(error))
        return found

    for one in forms:
        for other in forms:
            assert reads_alike(one, other) == (given(one) == given(other)), (one, other)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 20, 3), dtype=np.float32), "uint8 or uint16, not float32"),
        (np.zeros((20, 20, 3), dtype=np.int16), "uint8 or uint16, not int16"),
        (np.zeros((20, 20, 4), dtype=np.uint8), r"not \(20, 20, 4\)"),
        (np.zeros((2, 20, 20, 3), dtype=np.uint8), r"not \(2, 20, 20, 3\)"),
        (np.zeros(20, dtype=np.uint8), r"not \(20,\)"),
        ([[1, 2]], "not list"),
    ],
)
def test_other_arrays_are_refused(array: NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        as_image(array, input_format=RGB)


def test_images_are_listed_sorted_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "sub/c.tiff", "sub/.d.png", ".hidden/e.png", "notes.txt", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "sub/c.tiff"]


def test_pipes_and_sockets_are_no_images_of_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")  # said when it is read
    (tmp_path / "a.png").touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "dangling.png"]


def test_linked_folders_are_listed_once_and_never_for_ever(tmp_path: Path) -> None:
    for name in ("here/a.png", "elsewhere/b.png", "elsewhere/sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "twice").symlink_to(tmp_path / "elsewhere" / "sub")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "here")
    listed = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path / "here")]
    assert listed == ["here/a.png", "here/linked/b.png", "here/linked/sub/c.png"]


def test_listing_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert list_images(tmp_path) == []
    with pytest.raises(DataError, match="file: is not a folder"):
        list_images(tmp_path / "file")
    with pytest.raises(DataError, match="nowhere: does not exist"):
        list_images(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        {"height_px": 0},
        {"width_px": 64},
        {"channels": 4},
        {"black_level": -1},
        {"white_level": 65536},
        {"black_level": 100, "white_level": 100},
    ],
)
def test_formats_that_cannot_be_are_refused(change: dict[str, int]) -> None:
    sizes = {"height_px": 32, "width_px": 32, "resize_height_px": 32, "resize_width_px": 32}
    with pytest.raises(ConfigurationError):
        InputFormat(**{**sizes, **change})  # type: ignore[arg-type]
