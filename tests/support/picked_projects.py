"""Projects of small micrographs with dark balls on noise, as picking jobs take them."""

import numpy as np

from halfmap.grid import ImageGrid
from halfmap.io import mrc
from support.blob_micrographs import PIXEL_SIZE, micrograph, spread_positions

SHAPE = (300, 340)
DIAMETER_PIXEL = 26.0


class PickedProject:
    """Micrographs of pixels of 5 Å, particles 130 Å wide, and where these lie."""

    def __init__(self, root, n=3, *, n_particles=35, contrast=1.5):
        (root / ".halfmap").mkdir(parents=True)
        self.root = root
        self.names = [f"Micrographs/mic{i + 1}.mrc" for i in range(n)]
        self.positions = {}
        for index, name in enumerate(self.names):
            self.positions[name] = spread_positions(SHAPE, n_particles, DIAMETER_PIXEL + 2, seed=index)
            self.write(
                name, micrograph(SHAPE, self.positions[name], DIAMETER_PIXEL, contrast=contrast, seed=100 + index)
            )
        self.micrographs = self.list("micrographs.star", self.names)
        self.coordinates = root / "coordinates"
        self.coordinates.mkdir()
        for name, positions in self.positions.items():
            self.label(name, positions)

    def write(self, name, image):
        """Write a micrograph."""
        grid = ImageGrid(shape=image.shape, pixel_size_angstrom=PIXEL_SIZE)
        mrc.write_image(self.root / name, image.astype(np.float32), grid)

    def list(self, file, names):
        """Write a table of micrographs and return its path."""
        rows = "\n".join(f"{name} 1" for name in names)
        (self.root / file).write_text(
            "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnMicrographPixelSize\n_rlnVoltage\n"
            f"_rlnSphericalAberration\n_rlnAmplitudeContrast\n1 one {PIXEL_SIZE} 300 2.7 0.1\n\n"
            f"data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n{rows}\n"
        )
        return self.root / file

    def label(self, name, positions):
        """Write a micrograph's coordinate file."""
        rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in positions)
        stem = name.removeprefix("Micrographs/").removesuffix(".mrc")
        (self.coordinates / f"{stem}.star").write_text(f"data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{rows}\n")
