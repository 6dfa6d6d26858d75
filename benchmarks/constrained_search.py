"""How often a constrained search finds a domain that is there, and one that is not.

    python benchmarks/constrained_search.py

The template of ../shared/data/oracles/leopard12, a particle like a ribosome (128³ at 2 Å), is cut in two by a soft ball
of 36 Å radius, 50 Å from the middle: the domain, and the body. Micrographs of white noise hold 196 particles at known
poses, with a signal-to-noise ratio of 14 for the body. The domain turns by up to 10° about an axis and tilts by up to
2.5°; its own signal-to-noise ratio is named in each line. Without the domain, and with the body taken off or not, the
share of particles above the cutoff is beside the share that the cutoff is meant for.
"""

import math
import time

import numpy as np
import torch
from template_refinement import CASE, PIXEL_SIZE, SIDE
from torch import Tensor

from halfmap import keyed_random
from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_rotation_vector, random_rotations
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.template_matching.boxes import Candidates
from halfmap.template_matching.constrained import number_of_trials, search_domains
from halfmap.template_matching.constrained_params import ConstrainedSearchParams
from halfmap.template_matching.filters import FilterParams, filter_micrograph
from halfmap.template_matching.global_search.peaks import cutoff_of
from halfmap.template_matching.model import BoxModel, ParticleOptics
from halfmap.template_matching.search import Statistics
from halfmap.template_matching.template import Template, prepare_template

N_SIDE, BOX = 14, 144
CENTRE, RADIUS, EDGE = (30.0, 40.0, 0.0), 36.0, 6.0
AXIS = (1.0, 0.0, 0.0)
PARAMS = ConstrainedSearchParams(
    axis=AXIS, centre_angstrom=CENTRE, turn_min_degrees=-10, turn_max_degrees=10, turn_step_degrees=2.5,
    tilt_max_degrees=2.5, tilt_step_degrees=2.5, reach_pixel=2, whitening=False,
)  # fmt: skip


def templates() -> tuple[Template, Template]:
    """Return body and domain."""
    values = mrc.read_volume(CASE / "template.mrc", PIXEL_SIZE).values
    grid = ImageGrid.cubic(SIDE, PIXEL_SIZE)
    away = (grid.positions() - torch.tensor(CENTRE)).norm(dim=-1)
    ball = 0.5 + 0.5 * torch.cos(((away - RADIUS) / EDGE).clamp(0, 1) * math.pi)
    both = (values * (1 - ball)).float(), (values * ball).float()
    return prepare_template(both[0], grid), prepare_template(both[1], grid)


class Scene:
    """A micrograph of particles on a lattice, and their truth."""

    def __init__(self, body: Template, domain: Template, domain_snr: float, number: int) -> None:
        n, apart = N_SIDE**2, BOX + 20
        uids = np.arange(n) + 1000 * number
        white = torch.from_numpy(keyed_random.normal(1, "white", 1, size=(256, 256))).to(torch.float32)
        curves = filter_micrograph(white, FilterParams(whitening=False)).curves
        model = BoxModel.of(body, curves, ImageGrid.square(BOX, PIXEL_SIZE))
        rotations = random_rotations(1, "constrained", uids)
        draws = torch.from_numpy(keyed_random.uniform(1, "turns", uids, size=2))
        turn = torch.deg2rad(20 * draws[:, :1] - 10) * torch.tensor(AXIS, dtype=torch.float64)
        tilt = torch.deg2rad(2.5 * draws[:, 1:]) * torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
        self.turned = matrix_from_rotation_vector(turn) @ matrix_from_rotation_vector(tilt)
        defocus = torch.full((n,), 9000.0, dtype=torch.float64)
        same = (torch.full_like(defocus, value) for value in (30.0, 300.0, 2.7, 0.07, 0.0, 0.0))
        optics = ParticleOptics(
            **dict(zip(ParticleOptics.__dataclass_fields__, (defocus, defocus - 400, *same), strict=True))
        )
        depth = rotations[:, 2] @ torch.tensor(CENTRE, dtype=torch.float64)
        shifts = torch.zeros(n, 2, dtype=torch.float64)
        signal = self._scaled(model, optics, rotations, shifts, 14.0)
        if domain_snr:
            lower = optics.with_defocus_added(depth)
            pose = rotations @ self.turned
            signal = signal + self._scaled(model.with_template(domain), lower, pose, shifts, domain_snr)
        images = model.band.grid.irfft(model.band.scatter(signal / (BOX * math.sqrt(2))))
        shape = (N_SIDE * apart, N_SIDE * apart)
        values = torch.from_numpy(keyed_random.normal(6, "noise", number, size=shape)).to(torch.float32)
        centre = torch.tensor(
            [[apart // 2 + apart * (i % N_SIDE), apart // 2 + apart * (i // N_SIDE)] for i in range(n)]
        )
        for (x, y), image in zip((centre - BOX // 2).tolist(), images, strict=True):
            values[y : y + BOX, x : x + BOX] += image
        self.micrograph, self.rotations = -values, rotations
        self.candidates = Candidates(
            position_pixel=centre.to(torch.float64), rotations=rotations, optics=optics,
            statistics=Statistics.neutral(n, BOX - SIDE + 1),
        )  # fmt: skip

    @staticmethod
    def _scaled(model: BoxModel, optics: ParticleOptics, rotations: Tensor, shifts: Tensor, snr: float) -> Tensor:
        parts = []
        for rows in torch.arange(len(rotations)).split(32):
            seen = model.projections(optics.take(rows), rotations[rows], shifts[rows])
            parts.append(seen * (snr / seen.abs().square().sum(-1).sqrt())[:, None])
        return torch.cat(parts)


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    body, domain = templates()
    n_trials = number_of_trials(PARAMS)
    cutoffs = {share: cutoff_of(share, n_places=1, n_correlations=n_trials) for share in (0.005, 0.05, 0.2)}
    print(f"{n_trials} trials; cutoffs " + ", ".join(f"{cut:.2f} for {share:g}" for share, cut in cutoffs.items()))
    for name, taken_off in (("no domain, body taken off", body), ("no domain, body left", None)):
        z = []
        for number in (1, 2):
            scene = Scene(body, domain, 0.0, number)
            z.append(
                search_domains(
                    scene.micrograph, PIXEL_SIZE, scene.candidates, domain, BOX, PARAMS, particle_template=taken_off
                ).z
            )
        found = torch.cat(z)
        shares = ", ".join(
            f"{float((found > cut).double().mean()):.4f} for {share:g}" for share, cut in cutoffs.items()
        )
        print(f"{name:28s} mean z {float(found.mean()):6.2f}; above the cutoff {shares}")
    print("\nwith the domain: signal to noise, mean z, share above the cutoffs, angle before and after, ms a particle")
    for snr in (5.0, 6.0, 7.0, 8.0, 10.0):
        scene = Scene(body, domain, snr, 3)
        began = time.process_time()
        found = search_domains(
            scene.micrograph, PIXEL_SIZE, scene.candidates, domain, BOX, PARAMS, particle_template=body
        )
        spent = 1e3 * (time.process_time() - began) / len(found)
        true = scene.rotations @ scene.turned
        before, after = (angular_distance_degrees(one, true).median() for one in (scene.rotations, found.rotations))
        shares = " ".join(f"{float((found.z > cut).double().mean()):.3f}" for cut in cutoffs.values())
        print(
            f"{snr:4.0f} {float(found.z.mean()):6.2f} {shares} {float(before):6.2f}° {float(after):5.2f}° {spent:6.0f}"
        )


if __name__ == "__main__":
    main()
