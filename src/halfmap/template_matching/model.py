"""What a micrograph shows of a template: boxes of the micrograph, and filtered projections under the CTF."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.optics.ctf import phase_aberration
from halfmap.template_matching.aberrations import NO_ABERRATIONS, Aberrations
from halfmap.template_matching.filters import FilterCurves
from halfmap.template_matching.per_particle import PerParticle
from halfmap.template_matching.template import Template
from halfmap.tensors import BandValues, Rotations
from halfmap.units import electron_wavelength_angstrom

EDGE = 2
"""Shells of a template before its Nyquist frequency that its edge in Fourier space damps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleOptics(PerParticle):
    """The CTF of particles; every field float64, shape (N,); units and signs as of `halfmap.optics.ctf.ctf`."""

    defocus_u_angstrom: Tensor
    defocus_v_angstrom: Tensor
    defocus_angle_degrees: Tensor
    voltage_kv: Tensor
    spherical_aberration_mm: Tensor
    amplitude_contrast: Tensor
    phase_shift_degrees: Tensor
    b_factor_angstrom2: Tensor

    def with_defocus_added(self, offset_angstrom: Tensor) -> "ParticleOptics":
        """Return the optics with an offset, shape (N,), added to both defoci."""
        return replace(
            self,
            defocus_u_angstrom=self.defocus_u_angstrom + offset_angstrom,
            defocus_v_angstrom=self.defocus_v_angstrom + offset_angstrom,
        )

    def ctf(self, image_frequencies: Tensor, aberrations: Aberrations = NO_ABERRATIONS) -> tuple[Tensor, Tensor]:
        """Return the CTF and its derivative by the defocus, per Å.

        Parameters
        ----------
        image_frequencies : (x, y) in 1/Å, shape (K, 2).
        aberrations : of the optics group. Odd ones are no part of it: the micrograph is freed of them.

        Returns
        -------
        Both float32, shape (N, K).
        """
        frequencies = aberrations.frequencies(image_frequencies)
        phase = phase_aberration(
            frequencies,
            **{field.name: getattr(self, field.name) for field in fields(self) if field.name != "b_factor_angstrom2"},
        )
        even = aberrations.even_phase(frequencies)
        phase = phase if even is None else phase + even
        folded = (phase - 2 * math.pi * torch.round(phase / (2 * math.pi))).to(torch.float32)
        squared = frequencies.to(torch.float64).square().sum(-1)
        wavelengths = [electron_wavelength_angstrom(voltage) for voltage in self.voltage_kv.tolist()]
        per_angstrom = (
            torch.tensor(wavelengths, dtype=torch.float64, device=squared.device)[:, None] * math.pi * squared
        )
        values, slope = -folded.sin(), folded.cos() * per_angstrom.to(torch.float32)
        if not bool(self.b_factor_angstrom2.any()):
            return values, slope
        damping = torch.exp(-self.b_factor_angstrom2[:, None] * squared / 4).to(torch.float32)
        return values * damping, slope * damping


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxModel:
    """What boxes of a filtered micrograph are compared with.

    Parameters
    ----------
    template : whose slices are taken.
    band : of the boxes, wide enough for what the CTF spreads beyond the template.
    gain : float32, shape (K,): what the filters multiply slices by, times the scale that gives each real component of
        white noise in a box a variance of 1.
    noise : float32, shape (K,): the standard deviation of that noise after all filters but the whitening.
    is_white : whether that is 1 everywhere.
    aberrations : of the micrograph's optics group.
    """

    template: Template
    band: FourierBand
    gain: Tensor
    noise: Tensor
    is_white: bool
    aberrations: Aberrations = NO_ABERRATIONS

    @classmethod
    def of(
        cls, template: Template, curves: FilterCurves, grid: ImageGrid, aberrations: Aberrations = NO_ABERRATIONS
    ) -> "BoxModel":
        """Return the model of boxes cut from a micrograph with these filters.

        Parameters
        ----------
        grid : of the boxes; square, even.
        aberrations : of the micrograph's optics group.

        Raises
        ------
        InputError
            The filters leave nothing.
        """
        band = FourierBand(grid, device=template.transform.values.device)
        frequency = band.frequencies.norm(dim=-1) * grid.pixel_size_angstrom
        noise = curves.other_at(frequency).to(torch.float32)
        if not bool(noise.any()):
            raise InputError(
                f"The filters must let some frequencies of a box of {grid.side} px pass; got none that pass; widen the "
                "pass band, which is in cycles per pixel."
            )
        return cls(
            template=template,
            band=band,
            gain=(curves.at(frequency) * (grid.side * math.sqrt(2.0))).to(torch.float32),
            noise=noise,
            is_white=bool((noise == 1).all()),
            aberrations=aberrations,
        )

    def with_template(self, template: Template) -> "BoxModel":
        """Return the model with another template."""
        return replace(self, template=template)

    def with_pixel_size(self, pixel_size_angstrom: float) -> "BoxModel":
        """Return the model with the template's voxels of another size."""
        return self.with_template(self.template.with_pixel_size(pixel_size_angstrom))

    def with_b_factor(self, b_factor_angstrom2: float) -> "BoxModel":
        """Return the model with the template damped by exp(−B s²/4); a negative B-factor sharpens it."""
        squared = self.band.frequencies.to(torch.float64).square().sum(-1)
        damping = torch.exp(-0.25 * b_factor_angstrom2 * squared).to(torch.float32)
        return replace(self, gain=self.gain * damping)

    def head(self, shell: int) -> "BoxModel":
        """Return the model of a lower resolution: what was observed there comes first in what was observed here."""
        band = self.band.head(shell)
        return replace(self, band=band, gain=self.gain[: len(band)], noise=self.noise[: len(band)])

    def shell_of_share(self, slices: BandValues, ctf: Tensor, share: float) -> int:
        """Return the shell up to which filtered projections have a share of their power.

        Parameters
        ----------
        slices, ctf : of some projections, shape (N, K).
        """
        power = (slices * ctf * self.gain).abs().square().sum(0)
        reached = self.band.shell_sum(power).cumsum(0)
        return max(self.band.min_shell, int((reached < share * reached[-1]).sum()))

    def shell_of_all(self, pixel_sizes_angstrom: Sequence[float]) -> int:
        """Return the highest shell that the template fills at each of several pixel sizes.

        At its Nyquist frequency a template ends: a larger pixel size would lose the score that lies beyond.
        """
        if len(set(pixel_sizes_angstrom)) == 1:
            return self.band.max_shell
        grid = self.band.grid
        filled = grid.side * grid.pixel_size_angstrom / max(pixel_sizes_angstrom) * (0.5 - EDGE / self.template.side)
        return max(self.band.min_shell, min(self.band.max_shell, int(filled)))

    def slices(self, rotations: Rotations) -> BandValues:
        """Return bare slices of the template, complex64, shape (R, K)."""
        return self.template.slices(self.aberrations.rotations(rotations), self.band)

    def ctf(self, optics: ParticleOptics) -> tuple[Tensor, Tensor]:
        """Return the CTF of N particles and its derivative by the defocus, as of `ParticleOptics.ctf`."""
        return optics.ctf(self.band.frequencies, self.aberrations)

    def projections(self, optics: ParticleOptics, rotations: Rotations, shifts_angstrom: Tensor) -> BandValues:
        """Return filtered projections under the CTF, complex64, shape (N, K).

        Parameters
        ----------
        optics, rotations : of N particles.
        shifts_angstrom : float64, shape (N, 2): (x, y) from the centre of the box to each.
        """
        ctf, _ = self.ctf(optics)
        turns = (shifts_angstrom @ self.band.frequencies.T) * (-2 * math.pi)
        ramps = torch.polar(torch.ones((), device=turns.device), turns.to(torch.float32))
        return ctf * self.gain * self.slices(rotations) * ramps

    def observed(self, boxes: Tensor) -> BandValues:
        """Return boxes of a filtered micrograph, shape (N, y, x), as the model has them: complex64, shape (N, K)."""
        grid = self.band.grid
        return self.band.gather(grid.rfft(boxes)) * (grid.side * math.sqrt(2.0))


def cut_boxes(values: Tensor, corners: Tensor, side: int, *, reflect: bool = False) -> Tensor:
    """Cut boxes out of an image.

    Parameters
    ----------
    values : shape (y, x).
    corners : int64, shape (N, 2): (x, y) of the first pixel of each box, which may be negative.
    reflect : where a box reaches beyond the image, mirror the image about its outermost pixels; else 0.

    Returns
    -------
    Shape (N, side, side).
    """
    steps = torch.arange(side, device=values.device)
    places, inside = [], []
    for axis, length in ((1, values.shape[0]), (0, values.shape[1])):
        place = corners[:, axis, None] + steps
        inside.append((place >= 0) & (place < length))
        mirrored = (place + length - 1).remainder(2 * (length - 1)).sub(length - 1).abs()
        places.append(mirrored if reflect else place.clamp(0, length - 1))
    boxes = values[places[0][:, :, None], places[1][:, None, :]]
    kept = inside[0][:, :, None] & inside[1][:, None, :]
    return boxes if reflect else torch.where(kept, boxes, torch.zeros_like(boxes))
