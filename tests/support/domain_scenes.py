"""Micrographs of particles whose small domain lies in one of two states, or is not there."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.geometry.rotations import matrix_from_rotation_vector, random_rotations
from halfmap.grid import ImageGrid
from halfmap.template_matching.boxes import Candidates
from halfmap.template_matching.search import Statistics
from halfmap.template_matching.template import Template, prepare_template
from support.template_particles import BOX, PIXEL, SIDE, density, model, optics

CENTRE = (9.0, 27.0, -18.0)
"""Middle of the domain, Å, in the particle's template."""

AXIS = (0.0, 0.6, 0.8)
"""About which it turns."""

STATES_DEGREES = (14.0, -10.0)
"""Turns of the two states."""


def domain_density() -> Tensor:
    """Sixty beads in a ball of some 15 Å about the centre."""
    position = ImageGrid.cubic(SIDE, PIXEL).positions()
    beads = torch.from_numpy(keyed_random.normal(8, "domain", np.arange(60), size=3)) * 9 + torch.tensor(CENTRE)
    values = torch.zeros(position.shape[:-1], dtype=torch.float64)
    for bead in beads:
        values += torch.exp(-(position - bead).square().sum(-1) / 5)
    return values.to(torch.float32)


def body_template() -> Template:
    """The particle without the domain."""
    return prepare_template(density(), ImageGrid.cubic(SIDE, PIXEL), padding=2)


def domain_template() -> Template:
    """The domain alone, in the frame of the particle."""
    return prepare_template(domain_density(), ImageGrid.cubic(SIDE, PIXEL), padding=2)


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainScene:
    """Particles and the truth.

    Parameters
    ----------
    micrograph : as recorded.
    candidates : the particles at their true poses.
    state : int64, shape (N,): 0 or 1, the domain's turn; 2 where there is no domain.
    position : float64, shape (N, 2): the true position.
    """

    micrograph: Tensor
    candidates: Candidates
    state: Tensor
    position: Tensor


def turns_of(state: Tensor) -> Tensor:
    """Return the rotations of domains in their particles, those that are missing unturned."""
    axis = torch.tensor(AXIS, dtype=torch.float64)
    angle = torch.deg2rad(torch.tensor([*STATES_DEGREES, 0.0], dtype=torch.float64))[state]
    return matrix_from_rotation_vector(angle[:, None] * axis)


def scene(n_side: int = 5, *, body_snr: float = 25.0, domain_snr: float = 11.0, number: int = 1) -> DomainScene:
    """Return n_side² particles on a lattice, about two fifths in each state and a fifth without the domain."""
    n = n_side**2
    uids = np.arange(n) + 1000 * number
    apart = BOX + 34
    shape = (n_side * apart, n_side * apart)
    box_model = model()
    rotations = random_rotations(1, "domain scene", uids)
    shifts = torch.from_numpy(keyed_random.normal(1, "domain shift", uids, size=2)) * 1.5
    state = torch.tensor([0, 1, 0, 1, 2])[torch.arange(n) % 5]
    lenses = optics(4).take(torch.arange(n) % 4)
    depth = rotations[:, 2] @ torch.tensor(CENTRE, dtype=torch.float64)
    views = []
    for template, pose, snr, deeper in (
        (body_template(), rotations, body_snr, torch.zeros(n)),
        (domain_template(), rotations @ turns_of(state), domain_snr * (state < 2), depth),
    ):
        seen = box_model.with_template(template).projections(lenses.with_defocus_added(deeper), pose, shifts)
        views.append(seen * (snr / seen.abs().square().sum(-1).sqrt())[:, None])
    images = ImageGrid.square(BOX, PIXEL).irfft(box_model.band.scatter((views[0] + views[1]) / (BOX * math.sqrt(2))))
    values = torch.from_numpy(keyed_random.normal(6, "domain noise", number, size=shape)).to(torch.float32)
    centre = torch.tensor([[apart // 2 + apart * (i % n_side), apart // 2 + apart * (i // n_side)] for i in range(n)])
    for (x, y), image in zip((centre - BOX // 2).tolist(), images, strict=True):
        values[y : y + BOX, x : x + BOX] += image
    position = centre + shifts / PIXEL
    return DomainScene(
        micrograph=-values * 7 + 100,
        candidates=Candidates(position_pixel=position, rotations=rotations, optics=lenses,
                              statistics=Statistics.neutral(n, 17)),
        state=state,
        position=position,
    )  # fmt: skip
