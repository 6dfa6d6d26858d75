"""Simulated movies corrected: the motion that is left, and how far rings go in the sums."""

from pathlib import Path

import numpy as np
import pytest
import torch

import halfmap
from halfmap.ctf_estimation.estimate import CtfEstimate, estimate
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.periodogram import power_spectra, windows_of
from halfmap.ctf_estimation.rings import Microscope
from halfmap.data.image_series import FrameSeries
from halfmap.imaging.frame_average import frame_average
from halfmap.io import mrc
from halfmap.io.detector import Detector
from halfmap.io.frames import open_movie
from halfmap.io.warp_series import SeriesSizes, read_series
from halfmap.jobs.demo_ctf_report import motion_against_truth

PIXEL, SIDE, FRAMES, DOSE = 1.5, 800, 10, 4.0


def ctf_of(image: np.ndarray) -> CtfEstimate:
    values = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    spectra = power_spectra(values, windows_of((SIDE, SIDE), PIXEL, 512), pixel_size_angstrom=PIXEL)
    microscope = Microscope(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.1)
    return estimate(spectra, microscope, CtfEstimationParams())


@pytest.mark.slow
def test_rings_of_a_corrected_sum_go_as_far_as_those_of_the_sum_by_the_true_motion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    made = halfmap.simulate_frame_series(
        specimen=("ferritin-like-o-130",), number=1, particles_per_series=(80,), size_pixel=(SIDE, SIDE),
        pixel_size_angstrom=PIXEL, frames=FRAMES, dose_e_per_angstrom2=FRAMES * DOSE,
        global_motion_angstrom=6.0, local_motion_angstrom=1.0, workers=1,
    )  # fmt: skip
    movie = next((made.folder / "frames").glob("*.mrc"))
    corrected = halfmap.motion(
        movies=(movie,), gain=made.folder / "gain.mrc", pixel_size_angstrom=PIXEL,
        dose_per_frame_e_per_angstrom2=DOSE, patches=(4, 4), workers=1,
    )  # fmt: skip
    motion = motion_against_truth(corrected.folder, made.folder / "truth/warp_frameseries", DOSE)
    # 0.2 px are asked for of movies of four times the area; local motion is known the better the more there is to see
    assert motion.left_angstrom[0] / PIXEL < 0.35
    assert motion.before_angstrom[0] > 4 * motion.left_angstrom[0]
    sizes = SeriesSizes(n_frames=FRAMES, dose_per_frame_e_per_angstrom2=DOSE)
    true = read_series(made.folder / "truth/warp_frameseries" / f"{movie.stem}.xml", sizes)
    assert isinstance(true, FrameSeries)
    source = open_movie(movie, pixel_size_angstrom=PIXEL, detector=Detector(gain_path=made.folder / "gain.mrc"))
    best = ctf_of(frame_average(source, true))
    found = ctf_of(mrc.read_image(next(corrected.folder.rglob("*_noDW.mrc"))))
    assert found.lens.defocus_angstrom == pytest.approx(float(true.defocus_angstrom.values.flatten()[0]), abs=50)  # Å
    assert found.max_resolution_angstrom < 1.1 * best.max_resolution_angstrom
    assert found.ring_depth > 0.9 * best.ring_depth
