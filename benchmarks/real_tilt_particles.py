"""40 real ribosomes of tilt series reconstructed at their given poses, and under conventions turned round.

    python benchmarks/real_tilt_particles.py [--orientations 900]

EMPIAR-10499, exported by WarpTools: four tilt series, ten particles of each, 37 tilts, 32 pixels of 12 Å. For each
convention: the FSC between maps of even and odd particles, mean over 128 to 32 Å and the resolution at 0.143, and how
well the map of all agrees with one of a 70S ribosome from 192 to 48 Å, at the best of random orientations, as it is and
mirrored.
"""

import argparse
import sys
from pathlib import Path

import torch
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from halfmap.fourier.shells import resolution_at_threshold
from support import real_tilt_particles as real
from support.shared_data import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orientations", type=int, default=900)
    number = parser.parse_args().orientations
    torch.set_num_threads(1)
    found = real.read(ROOT)
    rotations = torch.from_numpy(Rotation.random(number, random_state=0).as_matrix())
    rotations = torch.cat([real.POSE_OF_MODEL[None], rotations])
    print("| turned round | FSC of halves, 128 to 32 Å | resolution, Å | agreement, as it is | mirrored |")
    print("|---|---|---|---|---|")
    for change in real.CHANGES:
        particles = real.changed(found, change)
        fsc = real.half_map_fsc(particles)
        values = real.reconstruct(particles)
        same, mirrored = (
            real.best_agreement(values, real.ribosome(ROOT, mirrored=mirror), rotations)[0] for mirror in (False, True)
        )
        resolution = resolution_at_threshold(fsc, real.GRID)
        print(
            f"| {change} | {float(fsc[3:12].mean()):.2f} | {resolution:.0f} | {same:.2f} | {mirrored:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
