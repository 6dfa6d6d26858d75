"""Images with every aberration of ours, reconstructed by Debian's RELION (3.1.3): does it undo what we did?"""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.fourier import shells
from halfmap.fourier.slices import prepare
from halfmap.geometry.rotations import random_rotations
from halfmap.grid import ImageGrid
from halfmap.imaging.image_model import predict_images
from halfmap.io import mrc, relion

pytestmark = pytest.mark.oracle

SIDE, PIXEL_SIZE, VIEWS = 48, 3.5, 300
ODD = np.array([[20.0, -10.0, 500.0, 300.0, 150.0, -200.0]])


@pytest.mark.parametrize(
    "optics",
    [
        {"odd_zernike": ODD},
        {"odd_zernike": ODD, "ctf_premultiplied": np.array([True])},
        {"odd_zernike": ODD, "beam_tilt_mrad": np.array([[3.0, -2.0]])},
        {"even_zernike": np.array([[0.5, 100.0, -80.0, 60.0, 2000.0, -1500.0, 900.0, 700.0, 800.0]])},
        {"magnification_matrix": np.array([[[1.03, 0.06], [-0.02, 0.98]]])},
    ],
    ids=["odd", "odd-premultiplied", "tilt-in-place-of-coma", "even", "magnification"],
)
def test_relion_reconstructs_the_map_from_predicted_images(optics, tmp_path):
    if shutil.which("relion_reconstruct") is None:
        pytest.skip("RELION is not installed: apt-get install relion")
    grid = ImageGrid.cubic(SIDE, PIXEL_SIZE)
    centres = 45 * (2 * keyed_random.uniform(1, "blobs", np.arange(60), size=3) - 1)
    positions = grid.positions()
    volume = sum(torch.exp(-(positions - centre).square().sum(-1) / 18) for centre in torch.from_numpy(centres))
    defocus = 6000 + 8000 * keyed_random.uniform(1, "defocus", np.arange(VIEWS))
    particles = ParticleSet(
        columns={
            "image_name": np.array([f"{i:06d}@images.mrcs" for i in range(1, VIEWS + 1)], dtype=object),
            "micrograph_name": np.full(VIEWS, "micrograph.mrc", dtype=object),
            "optics_group": np.ones(VIEWS, dtype=np.int64),
            "rotation": random_rotations(1, "views", range(VIEWS)).numpy(),
            "origin_angstrom": 10 * keyed_random.uniform(1, "origins", np.arange(VIEWS), size=2),
            "defocus_u_angstrom": defocus,
            "defocus_v_angstrom": defocus - 1500,
            "defocus_angle_degrees": np.full(VIEWS, 25.0),
        },
        optics=OpticsGroups(
            columns={
                "optics_group": [1],
                "voltage_kv": [300.0],
                "spherical_aberration_mm": [2.7],
                "amplitude_contrast": [0.1],
                "pixel_size_angstrom": [PIXEL_SIZE],
                "image_size_pixel": [SIDE],
                "image_dimensionality": [2],
                **optics,
            }
        ),
    )
    image_grid = ImageGrid.square(SIDE, PIXEL_SIZE)
    images = predict_images(particles, prepare(volume.float(), grid), image_grid).float().numpy()
    relion.write_particles(tmp_path / "particles.star", particles)
    with mrc.StackWriter(tmp_path / "images.mrcs", image_grid, VIEWS, float16=False) as writer:
        writer.write(images)
    words = ("relion_reconstruct", "--i", "particles.star", "--o", "map.mrc", "--ctf", "--pad", "1")
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    found = mrc.read_volume(tmp_path / "map.mrc").values
    curve = shells.fsc(grid.rfft(found.double()), grid.rfft(volume), grid)
    # Below shell 4 the CTF is near zero. A wrong sign, a phase applied twice or a transposed matrix takes it below 0.9.
    assert curve[4 : SIDE // 2 - 4].min() > 0.9
