"""The same objective by automatic differentiation and L-BFGS: a check of Gauss-Newton steps, and a fallback."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from halfmap.data.image_series import ImageSeries, TiltSeries
from halfmap.errors import InputError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.imaging.deformation import views
from halfmap.imaging.projection import magnified, shift_phases
from halfmap.imaging.series_transfer import ImageCtf, ctf_values, image_ctf, odd_phase_factors, weights_of_images
from halfmap.multiparticle.fit import Comparison, Parameters, moved
from halfmap.multiparticle.local_model import best_scale
from halfmap.multiparticle.parameter_layout import Layout
from halfmap.multiparticle.series_model import SpeciesState

_TABLE = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees", "phase_shift_degrees")
_ABERRATION = "spherical_aberration_mm"
_HISTORY = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What an image is expected to show of the particles of a species that count in it.

    Parameters
    ----------
    view : complex, shape (P, K): their slices, moved to where they lie; differentiable.
    ctf : float32, shape (P, K); differentiable.
    weight : float32, shape (K,) or (P, K), of the image.
    """

    view: Tensor
    ctf: Tensor
    weight: Tensor


class ImageLoss(Protocol):
    """What is minimised: a sum over images, whose terms may depend on sums over all of them."""

    def __call__(self, number: int, t: int, observed: Tensor, expected: Prediction, band: FourierBand) -> Tensor:
        """Return what image t adds, given what was cut out of it and is expected of a species; a scalar."""


class Likelihood:
    """Half of χ², with the best scale of each species and image: the objective of `halfmap.multiparticle.fit`."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison

    def __call__(self, number: int, t: int, observed: Tensor, expected: Prediction, band: FourierBand) -> Tensor:
        """Return half of χ² and what the scale's prior adds."""
        sigma = self._comparison.noise[number][t][band.shell_of.cpu()].sqrt().to(observed.device, torch.float32)
        shown = torch.view_as_real(expected.view * expected.ctf * expected.weight / sigma).flatten().double()
        seen = torch.view_as_real(observed / sigma).flatten().double()
        prior = self._comparison.scale_prior[number]
        if prior is None:
            raise InputError("The likelihood of single images must know what scale to expect; give a prior of scales.")
        cross, power = (seen * shown).sum(), shown.square().sum()
        # at its best value the derivative by the scale is zero
        scale = best_scale(cross.detach(), power.detach(), prior_scale=prior.scale, prior_share=prior.share)
        return seen.square().sum() / 2 - scale * cross + scale.square() * power / 2 + prior.energy(scale[None])


class JointObjective:
    """An objective as a function of all parameters at once.

    Parameters
    ----------
    comparison : images, layouts and priors.
    start : where parameters are zero.
    loss : of images; `Likelihood` where none is given.

    Raises
    ------
    InputError
        Something is to be fitted that can not be differentiated here: magnification, aberrations, or the spherical
        aberration of a tilt series.
    """

    def __init__(self, comparison: Comparison, start: Parameters, loss: ImageLoss | None = None) -> None:
        choice = comparison.layouts[0].choice
        is_of_tilts = isinstance(start.series, TiltSeries)
        if (
            choice.magnification
            or choice.odd_zernike_order
            or choice.even_zernike_order
            or (choice.spherical_aberration and is_of_tilts)
        ):
            raise InputError(
                "A joint fit must be of grids and particles; it can not differentiate by magnification and "
                "aberrations; fit these by Gauss-Newton steps."
            )
        self._comparison, self._start = comparison, start
        self._loss = Likelihood(comparison) if loss is None else loss
        self.units = torch.cat([_shared_units(comparison.layouts[0]), *map(_own_units, comparison.layouts)])
        "What a change of 1 in `__call__`'s vector is, of each parameter in its own unit."

    def split(self, vector: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return shared (m,) and own (P, q) parameters of each species from a vector in `units`."""
        sizes = [layout.n_particles * layout.n_particle for layout in self._comparison.layouts]
        shared, *own = (vector * self.units).split([self._comparison.layouts[0].n_shared, *sizes])
        return shared, [
            part.reshape(layout.n_particles, layout.n_particle)
            for part, layout in zip(own, self._comparison.layouts, strict=True)
        ]

    def place(self, vector: Tensor) -> Parameters:
        """Return series and particles at some parameters."""
        return moved(self._start, self._comparison.layouts, *self.split(vector))

    def energy(self, shared: Tensor, own: Sequence[Tensor]) -> Tensor:
        """Return what priors add."""
        return self._comparison.prior.energy(shared, own)

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the objective, float64, and leave its gradient in ``vector.grad`` where the vector asks for one.

        Notes
        -----
        Images are gone through one after the other: each leaves its derivatives by places, rotations and CTFs, and only
        at the end these go back to the parameters. So memory does not grow with the number of images.
        """
        shared, own = self.split(vector)
        there = self.place(vector)
        energy = self.energy(shared, own)
        species = [
            _Species(there.series, state, band, centre, counted, fits_ctf=fits_ctf)
            for state, band, centre, counted, fits_ctf in zip(
                there.species,
                self._comparison.bands,
                self._comparison.centre_angstrom,
                self._comparison.counted,
                self._comparison.fits_ctf,
                strict=True,
            )
        ]
        total = energy.detach().clone()
        for t, observed in self._comparison.images:
            for number, (one, windows) in enumerate(zip(species, observed, strict=True)):
                rows = torch.nonzero(one.counted[:, t]).flatten()
                if not len(rows):
                    continue
                part = windows[rows.to(windows.device), : len(one.band)]
                value = self._loss(number, t, part, one.expected(t, rows), one.band)
                total += value.detach().cpu()
                if vector.requires_grad:
                    value.backward()
        if vector.requires_grad:
            for one in species:
                energy = energy + one.pending()
            energy.backward()
        return total


def descend_jointly(objective: JointObjective, n_parameters: int, *, max_iterations: int = 25) -> tuple[Tensor, float]:
    """Minimise by L-BFGS with a strong Wolfe line search.

    Returns
    -------
    vector : the best parameters, in the objective's units.
    value : the objective there.

    References
    ----------
    Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization", Math. Program. 45, 503.
    """
    vector = torch.zeros(n_parameters, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [vector],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_change=1e-3,
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        return objective(vector)

    optimiser.step(closure)
    best = vector.detach()
    return best, float(objective(best))


class _Species:
    """Views and CTFs of a species, cut off from the parameters until all images have been looked at."""

    def __init__(
        self,
        series: ImageSeries,
        state: SpeciesState,
        band: FourierBand,
        centre: Tensor,
        counted: Tensor,
        *,
        fits_ctf: bool,
    ) -> None:
        seen = views(series, state.position_angstrom, state.rotation)
        table = image_ctf(series, state.position_angstrom, seen)
        ctf = [getattr(table, name) for name in (*_TABLE, _ABERRATION)]
        self.band, self.counted = band, counted
        self._series, self._state = series, state
        self._whole = [
            seen.position_angstrom - centre,
            seen.rotation,
            *(ctf if fits_ctf else [value.detach() for value in ctf]),
        ]
        self._leaves = [value.detach().requires_grad_(value.requires_grad) for value in self._whole]
        self._frequencies = band.frequencies.cpu()
        with torch.no_grad():
            self._weights = weights_of_images(series, seen)
        self._odd = odd_phase_factors(series, self._frequencies)

    def expected(self, t: int, rows: Tensor) -> Prediction:
        """Return what image t should show of some particles."""
        shift, rotation, *table = (leaf[rows, t] for leaf in self._leaves)
        ctf = ctf_values(
            self._series, ImageCtf(**dict(zip((*_TABLE, _ABERRATION), table, strict=True))), self._frequencies
        )
        matrix = torch.as_tensor(self._series.optics.magnification, dtype=torch.float64)
        rotation = magnified(rotation, matrix)
        subset = self._state.subset[rows]
        parts = torch.zeros(len(rows), len(self.band), dtype=torch.complex64)
        for half, reference in enumerate(self._state.references.halves):
            of_half = torch.nonzero(subset == half + 1).flatten()
            if len(of_half):
                found = slices.extract(reference, rotation[of_half], self.band)
                parts = parts.to(found.device).index_copy(0, of_half.to(found.device), found)
        view = parts * shift_phases(self._frequencies.to(parts.device), shift.to(parts.device))
        if self._odd is not None:
            view = view * self._odd.to(view.device)
        weight = self._weights.of_image(t, self._frequencies, rows)
        return Prediction(view=view, ctf=ctf.to(view.device), weight=weight.to(view.device))

    def pending(self) -> Tensor:
        """Return a scalar whose derivatives by the parameters are those that images have left."""
        total = torch.zeros((), dtype=torch.float64)
        for whole, leaf in zip(self._whole, self._leaves, strict=True):
            if leaf.grad is not None:
                total = total + (whole * leaf.grad).sum()
        return total


def _shared_units(layout: Layout) -> Tensor:
    """Return steps that change images about alike: M's 1 Å and 1°, and 0.1 µm of defocus."""
    sizes = []
    for block in layout.blocks:
        is_of_focus = block.field.startswith(("defocus", "astigmatism", "doming"))
        sizes += [1000.0 if is_of_focus else 1.0] * block.n_parameters
    return torch.tensor(sizes, dtype=torch.float64)


def _own_units(layout: Layout) -> Tensor:
    by_unit = {"Å": 1.0, "rad": torch.pi / 180}
    one = [
        1000.0 if name == "defocus" else by_unit[unit]
        for name, unit in zip(layout.particle_names, layout.particle_units, strict=True)
    ]
    return torch.tensor(one, dtype=torch.float64).repeat(layout.n_particles)
