"""Which way round a gain lies, told by what pixels counted."""

from dataclasses import replace

import numpy as np
import pytest

from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.detector import Detector
from halfmap.io.gain_orientation import fit_gain

SHAPE = (96, 128)


@pytest.fixture
def gain(tmp_path):
    values = np.random.default_rng(1).normal(1, 0.05, SHAPE).astype(np.float32)
    path = tmp_path / "gain.mrc"
    mrc.write_image(path, values, ImageGrid(shape=SHAPE, pixel_size_angstrom=1.0))
    return path


def raw_total(detector: Detector, counts: float = 400.0) -> np.ndarray:
    """Counts under a specimen, by the gain as a detector has it turned."""
    correction = detector.correction(SHAPE, is_eer=False)
    light = counts * (1 + 0.2 * np.sin(np.arange(SHAPE[1]) / 9))
    return np.random.default_rng(2).poisson(light / correction.gain).astype(np.float32)


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, False), (False, True), (True, True)])
def test_a_gain_the_wrong_way_round_is_said_with_its_remedy(gain, flip_x, flip_y):
    true = Detector(gain_path=gain, gain_flip_x=flip_x, gain_flip_y=flip_y)
    fitted = fit_gain(raw_total(true), Detector(gain_path=gain), is_eer=False)
    assert fitted.is_turned
    assert (fitted.best_detector.gain_flip_x, fitted.best_detector.gain_flip_y) == (flip_x, flip_y)
    words = fitted.said().split()
    assert ("--gain-flip-x" in words) == flip_x
    assert ("--no-gain-flip-x" in words) != flip_x
    assert not fit_gain(raw_total(true), true, is_eer=False).said()


def test_nothing_is_said_of_a_good_gain_even_where_light_is_too_low_to_tell(gain):
    detector = Detector(gain_path=gain)
    for counts in (400.0, 0.5):
        assert not fit_gain(raw_total(detector, counts), detector, is_eer=False).said()


def test_a_reciprocal_is_told_from_a_turn(gain, tmp_path):
    values = 1 / mrc.read_image(gain)
    reciprocal = tmp_path / "reciprocal.mrc"
    mrc.write_image(reciprocal, values, ImageGrid(shape=SHAPE, pixel_size_angstrom=1.0))
    true = Detector(gain_path=gain)
    fitted = fit_gain(raw_total(true), replace(true, gain_path=reciprocal), is_eer=False)
    assert fitted.is_reciprocal
    assert "reciprocal" in fitted.said()


def test_no_gain_no_fit():
    assert fit_gain(np.ones(SHAPE, dtype=np.float32), Detector(), is_eer=False) is None
