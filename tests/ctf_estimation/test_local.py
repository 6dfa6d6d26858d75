import numpy as np
import pytest

from halfmap.ctf_estimation.local import local_defocus, patches_of
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.periodogram import windows_of
from support.thon_rings import TITAN, lens, thon_spectra


def test_plane_of_a_tilted_sample_is_found_beside_a_wrong_patch():
    x, y = np.meshgrid([-1500.0, 0.0, 1500.0], [-1500.0, 0.0, 1500.0])
    position = np.stack([x.ravel(), y.ravel()], axis=-1)
    offsets = 0.2 * position[:, 0] - 0.1 * position[:, 1]
    wrong = offsets.copy()
    wrong[4] += 300
    spectra = thon_spectra(lens(16_000), box=256, offsets=tuple(wrong))
    found = local_defocus(spectra, position, TITAN, lens(16_000), CtfEstimationParams(), max_resolution_angstrom=5.0)
    assert found.slope == pytest.approx((0.2, -0.1), abs=0.02)  # 30 Å over 1500 Å
    assert found.centre_angstrom == pytest.approx(16_000, abs=50)  # Å
    assert found.defocus_angstrom[4] == pytest.approx(16_300, abs=60)  # Å


def test_every_patch_has_windows_of_its_own():
    windows = windows_of((1000, 1200), 1.5, 256)
    patches = patches_of(windows, (1000, 1200), (3, 2))
    assert set(patches.tolist()) == set(range(6))
    centres = windows.centres_pixel
    assert centres[patches == 0].max() < centres[patches == 5].max()
    assert centres[patches == 1][:, 0].min() > centres[patches == 0][:, 0].max()
