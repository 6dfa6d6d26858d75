"""Small projects on disk: micrographs with their CTF table and coordinates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap import keyed_random
from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.picks import Picks
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion
from halfmap.io.relion_picks import write_coordinates

PIXEL_SIZE = 2.0
SHAPE = (200, 240)


@dataclass(frozen=True, kw_only=True)
class SmallProject:
    """A project of dark blobs on noise.

    Parameters
    ----------
    root : the project folder.
    micrographs : its micrograph table.
    coordinates : folder of coordinate files.
    positions : of the blobs in each micrograph, shape (n, 2), (x, y), not whole numbers.
    """

    root: Path
    micrographs: Path
    coordinates: Path
    positions: dict[str, np.ndarray]


def a_small_project(
    root: Path, *, n_micrographs: int = 3, n_particles: int = 6, sigma_pixel: float = 6.0
) -> SmallProject:
    """Write micrographs of Gaussian blobs, contrast as recorded, with noise, and where the blobs lie."""
    (root / ".halfmap").mkdir(parents=True)
    names, positions = [], {}
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for index in range(n_micrographs):
        name = f"Micrographs/mic{index + 1}.mrc"
        uid = np.arange(n_particles) + 1000 * index
        where = 30 + keyed_random.uniform(5, "positions", uid, size=2) * (np.array(SHAPE[::-1]) - 60)
        image = 200 + 4 * keyed_random.normal(5, "noise", np.array([index]), size=SHAPE)[0]
        for px, py in where:
            image -= 30 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma_pixel**2))
        mrc.write_image(root / name, image.astype(np.float32), ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE))
        names.append(name)
        positions[name] = where
        write_coordinates(
            root / f"Coordinates/mic{index + 1}_pick.star", Picks.of_micrograph(name, where, source="truth")
        )
    optics = OpticsGroups(
        columns={
            "voltage_kv": [300.0],
            "spherical_aberration_mm": [2.7],
            "amplitude_contrast": [0.1],
            "micrograph_pixel_size_angstrom": [PIXEL_SIZE],
            "original_pixel_size_angstrom": [PIXEL_SIZE],
        }
    )
    table = MicrographSet(
        columns={
            "micrograph_name": np.array(names, dtype=object),
            "optics_group": np.ones(n_micrographs, dtype=np.int64),
            "defocus_u_angstrom": 15000.0 + 500 * np.arange(n_micrographs),
            "defocus_v_angstrom": 14800.0 + 500 * np.arange(n_micrographs),
            "defocus_angle_degrees": np.full(n_micrographs, 30.0),
        },
        optics=optics,
    )
    relion.write_micrographs(root / "micrographs_ctf.star", table)
    return SmallProject(
        root=root, micrographs=root / "micrographs_ctf.star", coordinates=root / "Coordinates", positions=positions
    )
