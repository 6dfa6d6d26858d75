"""Comparing a whole series with what its particles' references predict, image by image."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from halfmap.compute.memory import batch_size
from halfmap.data.image_series import ImageSeries
from halfmap.errors import ComputeError
from halfmap.fourier.band import FourierBand
from halfmap.imaging.deformation import Views, is_contained, views
from halfmap.imaging.series_transfer import (
    CTF_PARAMETERS,
    N_ODD,
    ImageCtf,
    ctf_and_derivative,
    ctf_values,
    image_ctf,
    odd_basis,
    odd_phase_factors,
    phase_basis,
    weights_of_images,
)
from halfmap.multiparticle.cutting import ImagePasses
from halfmap.multiparticle.local_model import ImageTransfer, LocalProducts, best_scale, modelled, products
from halfmap.multiparticle.noise import shell_products
from halfmap.multiparticle.references import ReferencePair

BATCH_BYTES = 64 << 20
"What the models of a batch of particles and their derivatives may take."
_BYTES_OF_MODEL, _BYTES_OF_SLOPE = 96.0, 60.0
"For each value of a model and of a derivative: CTFs, slices, and products in double precision, measured."


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesState:
    """The particles of a species in a series, as they are taken to lie now.

    Parameters
    ----------
    position_angstrom : float64, shape (P, n, 3).
    rotation : float64, shape (P, n, 3, 3).
    subset : int64, shape (P,), 1 or 2: which half of the references a particle is compared with.
    references : of the species.
    diameter_angstrom : of its particles.
    """

    position_angstrom: Tensor
    rotation: Tensor
    subset: Tensor
    references: ReferencePair
    diameter_angstrom: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesLook:
    """How the particles of a species compare with the images.

    Parameters
    ----------
    products : of each particle and image, at a scale of one; shapes begin with (P, T), zero where not counted.
    counted : bool, shape (P, T): particles that lie wholly inside images that are used.
    scale : float64, shape (T,): of the species in each image.
    shell_sums : float64, shape (T, 4, n_shells), of `halfmap.multiparticle.noise.shell_products`.
    """

    products: LocalProducts
    counted: Tensor
    scale: Tensor
    shell_sums: Tensor

    @property
    def chi2(self) -> Tensor:
        """Σ |x − a m|² / σ² of each particle and image, shape (P, T); zero where not counted."""
        return self.products.chi2(self.scale)

    @property
    def gradient(self) -> Tensor:
        """Gradient of half of χ² by the local parameters, shape (P, T, d)."""
        return self.products.gradient(self.scale.expand_as(self.counted))

    @property
    def hessian(self) -> Tensor:
        """Gauss-Newton Hessian of half of χ², shape (P, T, d, d)."""
        return self.products.hessian(self.scale.expand_as(self.counted))


@dataclass(frozen=True, kw_only=True)
class ScalePrior:
    """What scale of a species is expected in an image: see `local_model.best_scale`."""

    scale: float
    share: float = 0.5

    def energy_of(self, scale: Tensor) -> Tensor:
        """Return half the squared distance of each scale from the prior, in standard deviations."""
        return ((scale - self.scale) / (self.share * max(self.scale, 1e-12))).square() / 2

    def energy(self, scale: Tensor) -> float:
        """Return the sum of `energy_of` over all images."""
        return float(self.energy_of(scale).sum())


def counted(series: ImageSeries, state: SpeciesState) -> Tensor:
    """Return which particles lie wholly inside which used images, bool, shape (P, T)."""
    seen = views(series, state.position_angstrom, state.rotation)
    return is_contained(series, seen, state.diameter_angstrom) & torch.as_tensor(series.is_used, dtype=torch.bool)


def resolution_of(band: FourierBand) -> float:
    """Return the resolution that a band reaches to, Å."""
    return 1 / float(band.frequencies.norm(dim=1).max())


def image_of(table: ImageCtf, t: int) -> ImageCtf:
    """Return the part of a table that belongs to one image."""
    return replace(table, **{field.name: getattr(table, field.name)[:, t] for field in fields(table)})


class SpeciesModel:
    """What a species should look like in each image of a series.

    Parameters
    ----------
    series : with its geometry and optics.
    state : of the species.
    band : of its windows, as far as they are compared.
    centre_angstrom : float64, shape (P, T, 2): where the windows' centres lie.
    counted : bool, shape (P, T): of `counted`, kept while a series is refined.
    """

    def __init__(
        self, series: ImageSeries, state: SpeciesState, band: FourierBand, centre_angstrom: Tensor, counted: Tensor
    ) -> None:
        self.band = band
        self._series, self._state = series, state
        self.seen: Views = views(series, state.position_angstrom, state.rotation)
        self._table = image_ctf(series, state.position_angstrom, self.seen)
        self._frequencies = band.frequencies.cpu()
        self._weights = weights_of_images(series, self.seen)
        self._odd_phase = odd_phase_factors(series, self._frequencies)
        self._shift = self.seen.position_angstrom - centre_angstrom
        matrix = torch.as_tensor(series.optics.magnification, dtype=torch.float64)
        self._magnification = None if torch.equal(matrix, torch.eye(2, dtype=torch.float64)) else matrix
        self.counted = counted

    @property
    def voltage_kv(self) -> float:
        """Of the microscope."""
        return self._series.optics.voltage_kv

    def with_defocus_added(self, defocus_angstrom: float) -> "SpeciesModel":
        """Return the model with more defocus in all images."""
        other = copy(self)
        other._table = replace(
            self._table,
            defocus_u_angstrom=self._table.defocus_u_angstrom + defocus_angstrom,
            defocus_v_angstrom=self._table.defocus_v_angstrom + defocus_angstrom,
        )
        return other

    def batches(self, t: int, n_active: int) -> list[Tensor]:
        """Return rows of some of the particles that count in an image, batch after batch."""
        return self.split(torch.nonzero(self.counted[:, t]).flatten(), n_active)

    def split(self, rows: Tensor, n_active: int) -> list[Tensor]:
        """Return rows of particles, batch after batch."""
        of_value = _BYTES_OF_MODEL + _BYTES_OF_SLOPE * n_active
        size = batch_size(of_value * len(self.band), BATCH_BYTES, at_most=1 << 20)
        return [part for part in rows.split(size) if len(part)]

    def modelled(self, t: int, rows: Tensor, active: Sequence[str]) -> Tensor:
        """Return the models of particles in an image, (P, 1 + d, K): see `local_model.modelled`."""
        table = image_of(self._table, t)
        table = replace(table, **{field.name: getattr(table, field.name)[rows] for field in fields(table)})
        weight = self._weights.of_image(t, self._frequencies, rows)
        references = self._state.references.halves
        device = references[0].values.device
        phase_bases = {name for name in active if name in CTF_PARAMETERS}
        if phase_bases:
            values, by_phase = ctf_and_derivative(self._series, table, self._frequencies)
        else:
            values = by_phase = ctf_values(self._series, table, self._frequencies)
        transfer = ImageTransfer(
            values=(values * weight).to(device),
            by_phase=(by_phase * weight).to(device) if phase_bases else None,
            odd_phase=None if self._odd_phase is None else self._odd_phase.to(device),
            phase_bases={n: phase_basis(self._series, n, self._frequencies).to(device) for n in phase_bases},
            odd_bases={
                f"odd_zernike_{i}": odd_basis(i, self._frequencies).to(device)
                for i in range(N_ODD)
                if f"odd_zernike_{i}" in active
            },
            magnification=self._magnification,
        )
        del values, by_phase, weight  # before slices need their memory
        place = self.seen.rotation[rows, t], self._shift[rows, t]
        return modelled(references, self._state.subset[rows] - 1, self.band, *place, transfer, active)


def look(
    images: ImagePasses,
    models: Sequence[SpeciesModel],
    noise: Sequence[Tensor],
    active: Sequence[str],
    scale_prior: Sequence[ScalePrior | None],
) -> tuple[SpeciesLook, ...]:
    """Compare all particles of all species with all images.

    Parameters
    ----------
    images : of `cutting.CutImages`; windows may reach to a higher resolution than the models.
    models : of the species.
    noise : σ² of each species' windows, float64, shape (T, n_shells).
    active : names of local parameters by which to differentiate.
    scale_prior : of each species; None leaves the scale to the images together.

    Raises
    ------
    ComputeError
        Something is not finite.
    """
    found = [_Sums(model, len(active)) for model in models]
    for t, observed in images:
        for model, sums, windows, variance in zip(models, found, observed, noise, strict=True):
            band = model.band
            sigma2 = variance[t][band.shell_of.cpu()].to(windows.device)
            for rows in model.batches(t, len(active)):
                part = windows[rows.to(windows.device), : len(band)]
                shown = model.modelled(t, rows, active)
                sums.add(t, rows, products(part, shown, sigma2), shell_products(part, shown[:, 0], band))
    return tuple(sums.finished(prior) for sums, prior in zip(found, scale_prior, strict=True))


class _Sums:
    """Collects what is found of a species, image by image."""

    def __init__(self, model: SpeciesModel, d: int) -> None:
        n, n_images = model.counted.shape

        def zeros(*more: int) -> Tensor:
            return torch.zeros((n, n_images, *more), dtype=torch.float64)

        self._counted = model.counted
        self._products = LocalProducts(
            data=zeros(), cross=zeros(), model=zeros(), data_slopes=zeros(d), model_slopes=zeros(d), slopes=zeros(d, d)
        )
        self._shells = torch.zeros((n_images, 4, model.band.max_shell + 1), dtype=torch.float64)

    def add(self, t: int, rows: Tensor, part: LocalProducts, shells: Tensor) -> None:
        """Add a batch of an image's particles."""
        for field in fields(part):
            getattr(self._products, field.name)[rows, t] = getattr(part, field.name)
        self._shells[t] += shells

    def finished(self, prior: ScalePrior | None) -> SpeciesLook:
        """Return the whole, with scales."""
        cross, model = self._products.cross.sum(0), self._products.model.sum(0)
        if not bool(torch.isfinite(cross + model).all()):
            raise ComputeError("Images and references must be finite; their products are not; look at both.")
        if prior is None:
            scale = (cross.sum() / model.sum().clamp(min=1e-300)).clamp(min=0.0).expand(len(cross)).clone()
        else:
            scale = best_scale(cross, model, prior_scale=prior.scale, prior_share=prior.share)
        return SpeciesLook(products=self._products, counted=self._counted, scale=scale, shell_sums=self._shells)
