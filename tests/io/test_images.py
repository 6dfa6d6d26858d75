"""Micrographs in pictures' formats: the first pixel stored is pixel (0, 0)."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from halfmap.errors import FormatError, InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.images import read_micrograph, write_png
from support.shared_data import shared_data


def ramp(shape=(5, 7)):
    """Every pixel another value, no symmetry."""
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) * 3


@pytest.mark.parametrize("shape", [(5, 7), (8, 6)])
def test_formats_without_loss_give_the_same_pixels_in_the_same_places(tmp_path, shape):
    write_png(tmp_path / "a.png", ramp(shape))
    tifffile.imwrite(tmp_path / "a.tif", ramp(shape))
    tifffile.imwrite(tmp_path / "b.tiff", ramp(shape), compression="lzw")
    mrc.write_image(tmp_path / "a.mrc", ramp(shape), ImageGrid(shape=shape, pixel_size_angstrom=1.0))
    for name in ("a.png", "a.tif", "b.tiff", "a.mrc"):
        image = read_micrograph(tmp_path / name)
        assert image.dtype == np.float32
        assert np.array_equal(image, ramp(shape))


def test_png_keeps_the_first_row_on_top(tmp_path):
    write_png(tmp_path / "a.png", ramp())
    assert Image.open(tmp_path / "a.png").getpixel((6, 0)) == ramp()[0, 6]


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    smooth = (np.add.outer(np.arange(40), 2 * np.arange(30))).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpeg", quality=95)
    assert np.abs(read_micrograph(tmp_path / "a.jpeg") - smooth).max() <= 4  # grey values, JPEG at quality 95


def test_orientation_noted_in_the_file_does_not_turn_the_pixels(tmp_path):
    picture = Image.fromarray(ramp((8, 16)))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", quality=100, exif=exif)
    assert read_micrograph(tmp_path / "a.jpg").shape == (8, 16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_colour_alpha_palette_and_depth_become_grey_values(tmp_path, mode):
    grey = ramp() // 128 * 255 if mode == "1" else ramp()
    picture = Image.fromarray(grey.astype(np.uint16) * 100) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_micrograph(tmp_path / "a.png"), grey.astype(float) * (100 if mode == "I;16" else 1))


def test_colours_become_their_luminance(tmp_path):
    write_png(tmp_path / "a.png", np.full((2, 2, 3), (200, 100, 50), np.uint8))
    expected = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # ITU-R BT.601
    assert read_micrograph(tmp_path / "a.png") == pytest.approx(expected, abs=1e-3)


def test_large_micrograph_is_no_attack(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    write_png(tmp_path / "a.png", ramp())
    assert read_micrograph(tmp_path / "a.png").shape == (5, 7)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("keep", [0, 20, 600])
def test_broken_picture_is_named(tmp_path, suffix, keep):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(1).integers(0, 255, (60, 50), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=rf"a\.{suffix}: expected a .* found a broken file"):
        read_micrograph(path)


def test_text_foreign_suffix_missing_file_and_frames_are_refused(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(FormatError, match="a PNG image"):
        read_micrograph(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"one of .*\.mrc.*; got a\.dm4"):
        read_micrograph(tmp_path / "a.dm4")
    with pytest.raises(InputError, match="no such file"):
        read_micrograph(tmp_path / "none.png")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 5, 7), np.uint8), photometric="minisblack")
    with pytest.raises(FormatError, match="3 frames"):
        read_micrograph(tmp_path / "a.tif")
    with pytest.raises(ShapeError, match="uint8"):
        write_png(tmp_path / "b.png", ramp().astype(float))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("betagal_lowpassed/Falcon_2012_06_12-14_33_35_0.jpg", (4096, 4096)),
        ("difficult/klh.png", None),
        ("difficult/ice_contaminated.mrc", (927, 959)),
        ("apoferritin/micrographs/May08_03.05.02.mrc", (1200, 1240)),
    ],
)
def test_real_micrographs_are_read(name, shape):
    image = read_micrograph(shared_data(name))
    assert shape in (None, image.shape)
    assert np.isfinite(image).all()
    assert image.std() > 0
