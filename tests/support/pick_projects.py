"""Projects with small micrographs of blobs, for tests of picking jobs."""

import numpy as np

from halfmap.data.picks import Picks
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.relion_picks import write_autopick
from support.blob_micrographs import PIXEL_SIZE, micrograph, spread_positions

SHAPE = (220, 260)
DIAMETER = 130.0


class PickProject:
    """Micrographs ``Micrographs/mic1.mrc`` and on, their table, and where their particles are."""

    def __init__(self, root, n=2):
        (root / ".halfmap").mkdir(parents=True)
        self.root = root
        self.names = [f"Micrographs/mic{i + 1}.mrc" for i in range(n)]
        self.positions = {name: spread_positions(SHAPE, 15, 32.0, seed=i) for i, name in enumerate(self.names)}
        grid = ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE)
        for i, name in enumerate(self.names):
            image = micrograph(SHAPE, self.positions[name], DIAMETER / PIXEL_SIZE, contrast=1.5, seed=i)
            mrc.write_image(root / name, image.astype(np.float32), grid)
        self.micrographs = root / "micrographs.star"
        rows = "\n".join(f"{name} 1" for name in self.names)
        self.micrographs.write_text(
            "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnMicrographPixelSize\n_rlnVoltage\n"
            f"_rlnSphericalAberration\n_rlnAmplitudeContrast\n1 one {PIXEL_SIZE} 300 2.7 0.1\n\n"
            f"data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n{rows}\n"
        )

    def write_picks(self, folder, positions, merits=None):
        """Write positions by micrograph as a picking job would, and return the path of its autopick.star."""
        parts = [
            Picks.of_micrograph(
                name,
                place,
                source="test",
                figure_of_merit=np.zeros(len(place)) if merits is None else merits[name],
            )
            for name, place in positions.items()
        ]
        (self.root / folder).mkdir(parents=True)
        return write_autopick(self.root / folder, Picks.concatenate(parts), project_root=self.root)
