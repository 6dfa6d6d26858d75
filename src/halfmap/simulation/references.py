"""`Reference`: a specimen's potential made ready for views, with their mean kept."""

import math
from dataclasses import dataclass

import torch

from halfmap.data.atomic_models import AtomicModel
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier import filters, slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import crop_or_pad, rescale_to_pixel_size
from halfmap.geometry.shapes import raised_cosine_edge
from halfmap.grid import ImageGrid
from halfmap.imaging.projection import project
from halfmap.simulation.potential import potential_of_atoms
from halfmap.tensors import ImagesRfft, Rotations, Shifts
from halfmap.units import electron_wavelength_angstrom

PROTEIN_CONTRAST_VOLT = 3.5
"""Mean inner potential of protein less that of ice: 8.0 V at 1.35 g/cm³ less 4.5 V."""

_LARGEST_PADDED_SIDE = 512
"""Up to this side small specimens are padded further than twice, which makes their views more exact."""

_MARGIN_ANGSTROM = 12.0
_EDGE_ANGSTROM = 8.0


def interaction_constant_rad_per_volt_angstrom(voltage_kv: float) -> float:
    """Return σ, by which a potential summed along the beam becomes a phase.

    Notes
    -----
    σ = (2π / λ) (E₀ + E) / (E (2 E₀ + E)), 6.526e-4 rad/(V Å) at 300 kV. Reference: Kirkland, "Advanced computing
    in electron microscopy", eq. 5.6.
    """
    rest, energy = 510_998.95, 1e3 * voltage_kv
    wave_number = 2 * math.pi / electron_wavelength_angstrom(voltage_kv)
    return wave_number * (rest + energy) / (energy * (2 * rest + energy))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A specimen whose views can be taken.

    Parameters
    ----------
    potential : in volts, contrast against ice.
    diameter_angstrom : of the circle that holds its views.
    name : for people.
    transform : of the potential, prepared for slices.
    """

    potential: Volume
    diameter_angstrom: float
    name: str
    transform: slices.PaddedTransform

    @classmethod
    def of(cls, potential: Volume, diameter_angstrom: float, name: str) -> "Reference":
        """Prepare a potential for views."""
        padding = max(2, min(4, _LARGEST_PADDED_SIDE // potential.grid.side))
        transform = slices.prepare(potential.values, potential.grid, padding)
        return cls(potential=potential, diameter_angstrom=diameter_angstrom, name=name, transform=transform)

    def broken(self) -> "Reference":
        """Return the half of the specimen at positive z, cut softly: what a damaged particle looks like."""
        z = self.potential.grid.positions(dtype=torch.float32)[..., 2]
        kept = raised_cosine_edge(_EDGE_ANGSTROM / 2 - z, _EDGE_ANGSTROM)
        half = Volume(values=self.potential.values * kept, grid=self.potential.grid)
        return Reference.of(half, self.diameter_angstrom, f"{self.name}, broken")

    def views_rfft(self, rotations: Rotations, grid: ImageGrid, shifts_angstrom: Shifts | None = None) -> ImagesRfft:
        """Return the transforms of projected potentials.

        Parameters
        ----------
        rotations : shape (n, 3, 3).
        grid : of square images; its field holds the specimen.
        shifts_angstrom : shape (n, 2): where the reference's centre goes, from the image's centre.

        Returns
        -------
        complex64, shape (n, *grid.rfft_shape): of the potential integrated along the beam, in V Å. Its mean is
        that of the potential, so that images are 0 beside the particle.
        """
        if not len(rotations):
            return torch.zeros((0, *grid.rfft_shape), dtype=torch.complex64)
        band = FourierBand(grid)
        origin = None if shifts_angstrom is None else -shifts_angstrom
        transform = band.scatter(project(self.transform, rotations, band, origin_angstrom=origin))
        # the mean of the potential itself: that of the transform holds the correction for interpolation
        own = self.potential.grid
        field = (own.pixel_size_angstrom / grid.pixel_size_angstrom) ** 2 / grid.n_pixels
        transform[..., 0, 0] = float(self.potential.values.double().sum()) * field
        return transform * own.pixel_size_angstrom


def box_for(diameter_angstrom: float, pixel_size_angstrom: float) -> int:
    """Return the even side of a box that holds a specimen and its soft edge."""
    return 2 * math.ceil((diameter_angstrom / 2 + _MARGIN_ANGSTROM) / pixel_size_angstrom)


def reference_of_atoms(
    model: AtomicModel, *, pixel_size_angstrom: float, b_factor_angstrom2: float, name: str
) -> Reference:
    """Return the reference of an atomic model, about its centre of mass."""
    centred = model.centred()
    diameter = centred.diameter_angstrom
    grid = ImageGrid.cubic(box_for(diameter, pixel_size_angstrom), pixel_size_angstrom)
    potential = potential_of_atoms(centred, grid, b_factor_angstrom2=b_factor_angstrom2)
    return Reference.of(potential, diameter, name)


def reference_of_map(
    volume: Volume,
    *,
    pixel_size_angstrom: float,
    b_factor_angstrom2: float,
    name: str,
    diameter_angstrom: float | None = None,
) -> Reference:
    """Return the reference of a map of unknown scale, about the centre of its box.

    Parameters
    ----------
    volume : the map; density positive.
    diameter_angstrom : of the specimen; None takes the sphere outside which the map, reduced to 15 Å, stays below a
        tenth of its maximum.

    Raises
    ------
    InputError
        The map has no positive density.

    Notes
    -----
    The map is damped by the B-factor, cut by a soft sphere, and scaled so that the mean of its low-passed
    density, weighted by itself, is the contrast of protein against ice: protein imaged at 15 Å.
    """
    grid = volume.grid
    side = max(grid.shape)
    cubic = ImageGrid.cubic(side, grid.pixel_size_angstrom)
    values = volume.values.float()
    if grid.shape != cubic.shape:
        values, cubic = crop_or_pad(values, grid, cubic.shape)
    smooth = filters.apply_filter(values, cubic, filters.low_pass(cubic, max(15.0, 4 * grid.pixel_size_angstrom)))
    peak = float(smooth.max())
    if not peak > 0:
        raise InputError(f"The map of {name} must have positive density; got none above 0; invert its contrast.")
    radii = cubic.radii(dtype=torch.float32)
    if diameter_angstrom is None:
        diameter_angstrom = 2 * float(radii[smooth > 0.1 * peak].max())
    positive = smooth.clamp(min=0.0) * (radii <= diameter_angstrom / 2)
    level = float((positive**2).double().sum() / positive.double().sum())
    edge = raised_cosine_edge(radii - diameter_angstrom / 2, _EDGE_ANGSTROM)
    values = values * edge * (PROTEIN_CONTRAST_VOLT / level)
    if b_factor_angstrom2:
        values = filters.apply_filter(values, cubic, filters.b_factor(cubic, b_factor_angstrom2))
    box = box_for(diameter_angstrom, pixel_size_angstrom)
    resampled, new_grid = rescale_to_pixel_size(values, cubic, pixel_size_angstrom, box)
    return Reference.of(Volume(values=resampled, grid=new_grid), diameter_angstrom, name)
