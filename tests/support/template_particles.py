"""Particles of a small template, in boxes and in a micrograph, whose truth is known."""

import math

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.geometry.rotations import random_rotations
from halfmap.grid import ImageGrid
from halfmap.template_matching.boxes import Candidates
from halfmap.template_matching.filters import filter_micrograph
from halfmap.template_matching.model import BoxModel, ParticleOptics
from halfmap.template_matching.params import FilterParams
from halfmap.template_matching.polish import ParticleStates
from halfmap.template_matching.search import Statistics
from halfmap.template_matching.template import Template, prepare_template

PIXEL, SIDE, BOX = 3.0, 40, 56


def density() -> torch.Tensor:
    """A particle of many small beads in a ball of 40 Å radius."""
    grid = ImageGrid.cubic(SIDE, PIXEL)
    beads = torch.from_numpy(keyed_random.normal(3, "beads", np.arange(60), size=3)) * 18
    position = grid.positions()
    values = torch.zeros(grid.shape, dtype=torch.float64)
    for bead in beads:
        values += torch.exp(-(position - bead).square().sum(-1) / 10)
    return values.to(torch.float32)


def template() -> Template:
    """That particle as a template."""
    return prepare_template(density(), ImageGrid.cubic(SIDE, PIXEL), padding=2)


def optics(n: int) -> ParticleOptics:
    defocus = 8000 + 100 * torch.arange(n, dtype=torch.float64)
    same = (torch.full_like(defocus, value) for value in (30.0, 300.0, 2.7, 0.07, 90.0, 0.0))
    values = (defocus, defocus - 400, *same)
    names = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees", "voltage_kv",
             "spherical_aberration_mm", "amplitude_contrast", "phase_shift_degrees", "b_factor_angstrom2")  # fmt: skip
    return ParticleOptics(**dict(zip(names, values, strict=True)))


def truth(n: int) -> ParticleStates:
    uids = np.arange(n)
    return ParticleStates(
        rotations=random_rotations(1, "truth", uids),
        shifts_angstrom=torch.from_numpy(keyed_random.normal(1, "shift", uids, size=2)) * 2,
        defocus_angstrom=torch.from_numpy(keyed_random.normal(1, "defocus", uids)) * 100,
    )


def model() -> BoxModel:
    white = torch.from_numpy(keyed_random.normal(1, "white", 1, size=(128, 128))).to(torch.float32)
    curves = filter_micrograph(white, FilterParams(whitening=False)).curves
    return BoxModel.of(template(), curves, ImageGrid.square(BOX, PIXEL))


def observed(box_model: BoxModel, states: ParticleStates, snr: float) -> torch.Tensor:
    """Boxes with projections of that signal-to-noise ratio in noise of variance 1 in each component."""
    n = len(states)
    bare = box_model.slices(states.rotations)
    ctf, _ = optics(n).with_defocus_added(states.defocus_angstrom).ctf(box_model.band.frequencies)
    projection = bare * ctf * box_model.gain
    projection = projection * (snr / projection.abs().square().sum(-1, keepdim=True).sqrt())
    turns = -2 * math.pi * (states.shifts_angstrom @ box_model.band.frequencies.T)
    noise = torch.from_numpy(keyed_random.normal(2, "noise", np.arange(n), size=(len(box_model.band), 2)))
    return projection * torch.polar(torch.ones(()), turns.to(torch.float32)) + torch.view_as_complex(noise).to(
        torch.complex64
    )


def perturbed(states: ParticleStates) -> ParticleStates:
    steps = torch.from_numpy(keyed_random.normal(4, "steps", np.arange(len(states)), size=6))
    return states.moved(steps * torch.tensor([1.5, 1.5, 80, 0.012, 0.012, 0.012], dtype=torch.float64))


def micrograph(box_model: BoxModel | None = None) -> tuple[torch.Tensor, Candidates, torch.Tensor, torch.Tensor]:
    """A micrograph of 16 particles, one of them near the edge, as it is recorded."""
    n, shape = 16, (400, 360)
    states = truth(n)
    box_model = box_model or model()
    grid, band = ImageGrid.square(BOX, PIXEL), box_model.band
    centre = torch.tensor([[40 + 86 * (i % 4), 50 + 95 * (i // 4)] for i in range(n)])
    centre[0] = torch.tensor([14, 60])
    images = observed(box_model, states, 40.0) - observed(box_model, states, 0.0)
    images = grid.irfft(band.scatter(images / (BOX * math.sqrt(2))))
    values = torch.from_numpy(keyed_random.normal(6, "micrograph", 1, size=shape)).to(torch.float32)
    padded = torch.nn.functional.pad(values, (BOX, BOX, BOX, BOX))
    for (x, y), image in zip(centre.tolist(), images, strict=True):
        padded[y + BOX // 2 : y + 3 * BOX // 2, x + BOX // 2 : x + 3 * BOX // 2] += image
    moved = perturbed(states)
    offset = ((moved.shifts_angstrom - states.shifts_angstrom) / PIXEL).round()
    true_position = centre + states.shifts_angstrom / PIXEL
    candidates = Candidates(
        position_pixel=centre + offset,
        rotations=moved.rotations,
        optics=optics(n).with_defocus_added(states.defocus_angstrom),
        statistics=Statistics.neutral(n, 17),
    )
    return -padded[BOX:-BOX, BOX:-BOX] * 7 + 100, candidates, states.rotations, true_position
