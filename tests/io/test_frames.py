"""Raw movies: every kind gives the same frames, corrected, and what is wrong with one is said."""

import pickle
import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
import tifffile

from halfmap.data.image_source import ImageSource
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.io.detector import Detector
from halfmap.io.eer import EerGrouping
from halfmap.io.frames import open_movie
from support.movies import counts_of, random_electrons, write_eer

SHAPE = (12, 14)


def counts(n_frames=5, seed=1):
    return np.random.default_rng(seed).integers(0, 9, (n_frames, *SHAPE))


def write_mrc(path, frames):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(frames.reshape(-1, *frames.shape[-2:]))
        file.set_image_stack()


@pytest.mark.parametrize("kind", ["i1", "i2", "f4", "u2", "f2"])
def test_mrc_movies_of_every_mode_give_their_frames(tmp_path, kind):
    write_mrc(tmp_path / "a.mrcs", counts().astype(kind))
    movie = open_movie(tmp_path / "a.mrcs", pixel_size_angstrom=1.5)
    assert isinstance(movie, ImageSource)
    assert (len(movie), movie.grid.shape) == (5, SHAPE)
    assert movie.read([3, 0]).dtype == np.float32
    assert np.array_equal(movie.read([3, 0]), counts()[[3, 0]])


def test_four_bit_movies_give_their_frames(tmp_path):
    write_mrc(tmp_path / "a.mrc", counts().astype("i1"))
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    raw[12:16] = (101).to_bytes(4, "little")
    flat = counts().astype(np.uint8).reshape(-1, 2)
    (tmp_path / "a.mrc").write_bytes(bytes(raw[:1024]) + (flat[:, 0] | flat[:, 1] << 4).tobytes())
    assert np.array_equal(open_movie(tmp_path / "a.mrc", pixel_size_angstrom=1).read(range(5)), counts())


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd"])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4"])
def test_tiff_movies_give_their_frames_from_the_last_row(tmp_path, compression, kind):
    tifffile.imwrite(tmp_path / "a.tif", counts().astype(kind), compression=compression, photometric="minisblack")
    movie = open_movie(tmp_path / "a.tif", pixel_size_angstrom=1.0)
    assert np.array_equal(movie.read([4, 1]), counts()[[4, 1], ::-1])


@pytest.mark.parametrize("skip_bits", [7, 8])
@pytest.mark.parametrize("upsampling", [1, 2, 4])
def test_eer_fractions_are_sums_of_raw_frames(tmp_path, skip_bits, upsampling):
    shape = (32, 32)
    raw = [random_electrons(shape, 60, seed) for seed in range(7)]
    write_eer(tmp_path / "a.eer", raw, shape, skip_bits=skip_bits)
    grouping = EerGrouping(frames_per_fraction=3, upsampling=upsampling)
    movie = open_movie(tmp_path / "a.eer", pixel_size_angstrom=0.7, eer=grouping)
    expected = [sum(counts_of(frame, shape, upsampling) for frame in raw[i : i + 3]) for i in (0, 3)]
    assert len(movie) == 2  # the seventh raw frame fills no fraction
    assert np.array_equal(movie.read([1, 0]), np.array(expected)[[1, 0]])
    assert EerGrouping.into_fractions(7, 2, upsampling) == grouping


def test_bright_pixels_of_many_raw_frames_do_not_overflow(tmp_path):
    one = np.array([[3, 4, 0, 0]])
    write_eer(tmp_path / "a.eer", [one] * 300, (8, 8))
    movie = open_movie(tmp_path / "a.eer", pixel_size_angstrom=1.0, eer=EerGrouping(frames_per_fraction=300))
    assert movie.read([0])[0, 3, 4] == 300


def test_movies_travel_and_hold_no_open_file(tmp_path):
    write_eer(tmp_path / "a.eer", [random_electrons((8, 8), 9, seed) for seed in range(2)], (8, 8))
    movie = open_movie(tmp_path / "a.eer", pixel_size_angstrom=1.0, eer=EerGrouping(frames_per_fraction=1))
    assert np.array_equal(pickle.loads(pickle.dumps(movie)).read([1]), movie.read([1]))


@pytest.mark.parametrize("turn", range(4))
def test_gain_is_turned_onto_the_frames_by_the_flips_that_stand_for_relions_rotations(tmp_path, turn):
    gain = np.random.default_rng(0).uniform(0.5, 2, SHAPE).astype("f4")
    write_mrc(tmp_path / "a.mrcs", counts().astype("u2"))
    write_mrc(tmp_path / "gain.mrc", np.rot90(gain, turn).copy())  # RELION's turn by -gain_rot brings it back
    flags = {
        0: {},
        1: {"gain_flip_y": True, "gain_transpose": True},
        2: {"gain_flip_x": True, "gain_flip_y": True},
        3: {"gain_flip_x": True, "gain_transpose": True},
    }[turn]
    detector = Detector(gain_path=tmp_path / "gain.mrc", **flags)
    movie = open_movie(tmp_path / "a.mrcs", pixel_size_angstrom=1.0, detector=detector)
    assert np.array_equal(movie.read([2])[0], counts()[2].astype("f4") * gain)


def test_gain_in_tiff_is_read_from_the_last_row_as_its_movie_is(tmp_path):
    gain = np.random.default_rng(0).uniform(0.5, 2, SHAPE).astype("f4")
    tifffile.imwrite(tmp_path / "a.tif", counts().astype("u1"), photometric="minisblack")
    tifffile.imwrite(tmp_path / "gain.tif", gain)
    movie = open_movie(tmp_path / "a.tif", pixel_size_angstrom=1.0, detector=Detector(gain_path=tmp_path / "gain.tif"))
    assert np.array_equal(movie.read([2])[0], (counts()[2] * gain).astype("f4")[::-1])


@pytest.mark.parametrize(("suffix", "upsampling"), [(".mrc", 1), (".mrc", 2), (".gain", 1), (".gain", 2)])
def test_gain_of_eer_divides_unless_it_is_epus(tmp_path, suffix, upsampling):
    shape = (16, 16)
    gain = np.random.default_rng(0).uniform(0.5, 2, shape).astype("f4")
    electrons = random_electrons(shape, 200)
    write_eer(tmp_path / "a.eer", [electrons], shape)
    path = tmp_path / f"gain{suffix}"
    tifffile.imwrite(path, gain) if suffix == ".gain" else write_mrc(path, gain)
    movie = open_movie(
        tmp_path / "a.eer",
        pixel_size_angstrom=1.0,
        detector=Detector(gain_path=path),
        eer=EerGrouping(frames_per_fraction=1, upsampling=upsampling),
    )
    factor = (gain if suffix == ".gain" else gain.mean() / gain).repeat(upsampling, 0).repeat(upsampling, 1)
    assert np.allclose(movie.read([0])[0], counts_of(electrons, shape, upsampling) * factor, rtol=1e-6)


def test_gain_of_other_sides_is_refused_with_both_names_before_a_frame_is_read(tmp_path):
    write_mrc(tmp_path / "a.mrcs", counts().astype("u2"))
    write_mrc(tmp_path / "gain.mrc", np.ones(SHAPE[::-1], "f4"))
    with pytest.raises(InconsistentDataError, match=r"gain\.mrc .* 14 × 12 .*a\.mrcs; got 12 × 14; transpose it"):
        open_movie(tmp_path / "a.mrcs", pixel_size_angstrom=1.0, detector=Detector(gain_path=tmp_path / "gain.mrc"))


def corrected(tmp_path, frames, *, defects=None, gain=None):
    write_mrc(tmp_path / "a.mrcs", frames.astype("f4"))
    paths = {}
    if gain is not None:
        write_mrc(tmp_path / "gain.mrc", gain.astype("f4"))
        paths["gain_path"] = tmp_path / "gain.mrc"
    if defects is not None:
        paths["defects_path"] = tmp_path / "defects.txt"
        paths["defects_path"].write_text(defects)
    return open_movie(tmp_path / "a.mrcs", pixel_size_angstrom=1.0, detector=Detector(**paths))


SERIALEM = """CameraSizeX 14
CameraSizeY 12
RotationAndFlip 0
BadColumns 3
BadRows 11
PartialBadColumn 6 2 1 4
PartialBadRow 8 1 9 13
BadPixels 0 0 13 2
"""


@pytest.mark.parametrize("text", [SERIALEM, "3 0 1 12\n0 11 14 1\n6 1 2 4\n9 8 5 1\n0 0 1 1\n13 2 1 1\n"])
def test_bad_pixels_of_lists_get_the_mean_of_the_nearest_good_ones(tmp_path, text):
    is_bad = np.zeros(SHAPE, dtype=bool)
    is_bad[:, 3] = is_bad[11] = is_bad[1:5, 6:8] = is_bad[8, 9:14] = is_bad[0, 0] = is_bad[2, 13] = True
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = np.where(is_bad, 1e6, x + 100.0 * y)[None]
    read = corrected(tmp_path, frames, defects=text).read([0])[0]
    assert np.array_equal(read[~is_bad], frames[0][~is_bad])
    assert read[5, 3] == 503  # between 502 and 504
    assert (read[3, 6], read[3, 7]) == (305, 308)  # each from its own side
    assert read[11, 5] == 1005  # nothing below
    assert read[0, 0] == (1 + 100) / 2


def test_defects_of_a_camera_fit_frames_that_are_sampled_finer(tmp_path):
    text = "CameraSizeX 7\nCameraSizeY 6\nBadPixels 2 3\n"
    frames = np.ones((1, *SHAPE))
    frames[0, 6:8, 4:6] = 50
    assert (corrected(tmp_path, frames, defects=text).read([0]) == 1).all()


@pytest.mark.parametrize("text", ["BadPixels 14 0\n", "5 10 1 3\n", "PartialBadColumn 3 1 5 12\n"])
def test_defects_outside_the_image_are_refused(tmp_path, text):
    with pytest.raises(InconsistentDataError, match=r"defects\.txt must lie in frames of 14 × 12"):
        corrected(tmp_path, counts(), defects=text)


@pytest.mark.parametrize("text", ["hello\n", "1 2 3\n", "BadPixels 1\n"])
def test_lists_that_hold_no_defects_are_refused_with_their_line(tmp_path, text):
    with pytest.raises(FormatError, match="line 1"):
        corrected(tmp_path, counts(), defects=text)


def test_map_of_defects_is_turned_as_the_gain_is(tmp_path):
    bad = np.zeros(SHAPE, "i1")
    bad[2, 3] = 1
    frames = np.ones((1, *SHAPE))
    frames[0, 2, 3] = 1e6
    write_mrc(tmp_path / "a.mrcs", frames.astype("f4"))
    write_mrc(tmp_path / "bad.mrc", bad[:, ::-1].copy())
    detector = Detector(defects_path=tmp_path / "bad.mrc", gain_flip_x=True)
    assert (open_movie(tmp_path / "a.mrcs", pixel_size_angstrom=1.0, detector=detector).read([0]) == 1).all()


def test_pixels_without_gain_are_filled(tmp_path):
    gain = np.full(SHAPE, 2.0)
    gain[4, 4] = 0
    frames = np.ones((1, *SHAPE))
    frames[0, 4, 4] = 70
    assert (corrected(tmp_path, frames, gain=gain).read([0]) == 2).all()


def test_gain_that_is_mostly_nothing_is_refused(tmp_path):
    with pytest.raises(InconsistentDataError, match="At most half"):
        corrected(tmp_path, counts(), gain=np.zeros(SHAPE))


def test_hot_pixels_are_found_in_the_sum_and_filled(tmp_path):
    frames = np.random.default_rng(3).poisson(1.0, (20, 40, 40)).astype("f4")
    frames[:, 5, 6] = 12
    frames[:, 30, 2] = 4000  # hides the other from a deviation taken with it
    write_mrc(tmp_path / "a.mrcs", frames)
    movie = open_movie(tmp_path / "a.mrcs", pixel_size_angstrom=1.0)
    cool = movie.with_hot_pixels()
    assert sorted(cool.hot_pixels) == [5 * 40 + 6, 30 * 40 + 2]
    around = frames[0][[4, 6, 5, 5], [6, 6, 5, 7]].mean()
    assert cool.read([0])[0, 5, 6] == around
    assert np.array_equal(movie.total(), frames.sum(axis=0))


def test_bright_specimen_is_not_taken_for_hot_pixels(tmp_path):
    generator = np.random.default_rng(4)
    y, x = np.indices((120, 120))
    light = 1 + 8 * np.exp(-((y - 60) ** 2 + (x - 60) ** 2) / (2 * 4**2))
    frames = generator.poisson(light, (20, 120, 120)).astype("f4")
    frames[:, 60, 58] += 20  # hot, on the specimen
    frames[:, 20, 30:32] = 12
    write_mrc(tmp_path / "a.mrcs", frames)
    cool = open_movie(tmp_path / "a.mrcs", pixel_size_angstrom=1.0).with_hot_pixels()
    assert sorted(cool.hot_pixels) == [20 * 120 + 30, 20 * 120 + 31, 60 * 120 + 58]


def test_truncated_movies_are_named_when_they_are_opened(tmp_path):
    write_mrc(tmp_path / "a.mrcs", counts().astype("u2"))
    tifffile.imwrite(tmp_path / "a.tif", counts().astype("u2"), photometric="minisblack", compression="zlib")
    write_eer(tmp_path / "a.eer", [random_electrons((16, 16), 40, seed) for seed in range(4)], (16, 16))
    for name in ("a.mrcs", "a.tif", "a.eer"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(len(whole) * 0.8)])
        with pytest.raises(FormatError, match="truncated"):
            open_movie(tmp_path / name, pixel_size_angstrom=1.0, eer=EerGrouping(frames_per_fraction=1))


def test_frame_that_became_missing_is_named_when_it_is_read(tmp_path):
    write_eer(tmp_path / "a.eer", [random_electrons((16, 16), 40, seed) for seed in range(4)], (16, 16))
    movie = open_movie(tmp_path / "a.eer", pixel_size_angstrom=1.0, eer=EerGrouping(frames_per_fraction=2))
    whole = (tmp_path / "a.eer").read_bytes()
    (tmp_path / "a.eer").write_bytes(whole[:-300])
    movie.read([0])
    with pytest.raises(FormatError, match=r"a\.eer: expected frame [34]"):
        movie.read([1])


@pytest.mark.parametrize("frame", [5, -1])
def test_frames_that_a_movie_has_not_are_refused(tmp_path, frame):
    write_mrc(tmp_path / "a.mrcs", counts().astype("u2"))
    with pytest.raises(InputError, match="0 to 4"):
        open_movie(tmp_path / "a.mrcs", pixel_size_angstrom=1.0).read([frame])


def test_movies_of_other_kinds_and_without_pixel_size_are_refused(tmp_path):
    (tmp_path / "a.dm4").write_bytes(b"x")
    with pytest.raises(InputError, match="A movie must be one of"):
        open_movie(tmp_path / "a.dm4", pixel_size_angstrom=1.0)
    tifffile.imwrite(tmp_path / "a.tif", counts().astype("u1"), photometric="minisblack")
    with pytest.raises(InputError, match="--pixel-size"):
        open_movie(tmp_path / "a.tif")
    (tmp_path / "b.eer").write_bytes((tmp_path / "a.tif").read_bytes())
    with pytest.raises(FormatError, match="EER"):
        open_movie(tmp_path / "b.eer", pixel_size_angstrom=1.0)


def test_frames_of_different_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((8, 8), "u1"))
        file.write(np.zeros((8, 9), "u1"))
    with pytest.raises(FormatError, match=r"frame 2 of 9 × 8"):
        open_movie(tmp_path / "a.tif", pixel_size_angstrom=1.0)


@pytest.mark.skipif(shutil.which("relion_image_handler") is None, reason="relion_image_handler is not installed")
def test_tiff_movies_lie_as_relion_reads_them(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", counts().astype("u1"), photometric="minisblack")
    command = ["relion_image_handler", "--i", "a.tif", "--o", "a.mrcs"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    frames = open_movie(tmp_path / "a.tif", pixel_size_angstrom=1.0).read(range(5))
    assert np.array_equal(frames, mrcfile.read(tmp_path / "a.mrcs"))
