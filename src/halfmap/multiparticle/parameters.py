"""How the images of particles change with the parameters of a series and of the particles, to first order."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from halfmap.data.image_series import ImageSeries, TiltSeries
from halfmap.imaging.deformation import (
    image_size,
    middle_angstrom,
    movement,
    projections,
    stage_axes,
    view_turns,
    volume_size,
    warped,
    where_particles_are,
)
from halfmap.multiparticle.parameter_layout import LOCAL, Block, Layout
from halfmap.multiparticle.parameter_update import names_of_optics, with_own, with_shared
from halfmap.multiparticle.prepared_series import prepared
from halfmap.splines.grids import Grid
from halfmap.splines.trajectories import path, path_weights, turn_weights

_NEGLIGIBLE = 1e-9
_PLACE = ("shift_x", "shift_y", "defocus")
_TURNS = ("turn_x", "turn_y", "turn_z")
_AXES = {"x": 0, "y": 1, "z": 2}
_CTF = {
    "defocus_angstrom": ("defocus", 1.0),
    "doming_angstrom": ("defocus", 1.0),
    "phase_shift_degrees": ("phase_shift", math.pi / 180),
    "spherical_aberration_offset_mm": ("spherical_aberration", 1.0),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """Small changes u of P particles' images: u = particle·θ_p + shared·θ_s in every image.

    Parameters
    ----------
    active : names of the d entries of u, in the order of `LOCAL`.
    particle : float64, shape (P, T, d, q), by the particle's own parameters.
    columns : for each image the numbers of the shared parameters that it depends on, int64, shape (m_t,).
    shared : for each image, float64, shape (P, d, m_t), by those; made when looked at, not kept.
    """

    active: tuple[str, ...]
    particle: Tensor
    columns: Sequence[Tensor]
    shared: Sequence[Tensor]


def design(series: ImageSeries, position_angstrom: Tensor, rotation: Tensor, layout: Layout) -> Design:
    """Return how particles' images change with all parameters of a layout.

    Parameters
    ----------
    series : as it is now; its grids are given the sizes that the layout asks for.
    position_angstrom : shape (P, n, 3). rotation : shape (P, n, 3, 3).

    Notes
    -----
    Exact to first order, with three exceptions: where grids of defocus or of stage angles slope, a particle's own
    movement along the slope does not count (fractions of an Å of defocus for each Å); more than two temporal samples
    move as about an even motion (`halfmap.splines.trajectories.path_weights`); and the vector of astigmatism counts as
    interpolated between nodes of frame series, while files interpolate its size and angle, which is the same where
    these differ little.
    """
    state = _State(prepared(series, layout.choice), position_angstrom.detach(), rotation.detach())
    terms = [term for block in layout.blocks for term in _terms(block, state)]
    own = _own(layout, state)
    used = {name for term in terms for name in term.direction} | set(own)
    active = tuple(name for name in LOCAL if name in used)
    n, n_images = state.place.shape[:2]
    particle = torch.zeros((n, n_images, len(active), layout.n_particle), dtype=torch.float64)
    for name, (first, values) in own.items():
        particle[:, :, active.index(name), first : first + values.shape[-1]] = values
    images = [_Image(terms, active, n, t) for t in range(n_images)]
    return Design(
        active=active, particle=particle, columns=[image.columns for image in images], shared=_OnDemand(images)
    )


def apply(
    series: ImageSeries,
    position_angstrom: Tensor,
    rotation: Tensor,
    theta_shared: Tensor,
    theta_particle: Tensor,
    layout: Layout,
) -> tuple[ImageSeries, Tensor, Tensor]:
    """Change a series and its particles by parameters, exactly.

    Parameters
    ----------
    series, position_angstrom, rotation : as they are, as for `design`.
    theta_shared : shape (n_shared,). theta_particle : shape (P, n_particle).

    Returns
    -------
    The series with grids of the sizes that the layout asks for, positions, and rotations
        Differentiable in the parameters, but for magnification, aberrations and the spherical aberration of tilts.
    """
    return (
        with_shared(prepared(series, layout.choice), theta_shared, layout),
        *with_own(position_angstrom, rotation, theta_particle, layout),
    )


class _State:
    """Particles in a series, and the first derivatives of where and how they are seen."""

    def __init__(self, series: ImageSeries, position_angstrom: Tensor, rotation: Tensor) -> None:
        self.series = series
        self.place = path(position_angstrom, series.dose_time)
        projection = projections(series)
        projected = (projection @ warped(series, self.place)[..., None])[..., 0]
        self.before = projected[..., :2] + middle_angstrom(series)
        by_before = _slopes(lambda before: before - movement(series, before), self.before)
        # Rows (x, y in the image, depth), columns (x, y, z) of what is projected, and of a particle's place.
        depth = projection[:, 2:].expand(len(self.place), -1, 1, 3)
        self.by_warped = torch.cat([by_before @ projection[:, :2], depth], dim=-2)
        self.by_place = self.by_warped @ _slopes(lambda place: warped(series, place), self.place)
        self.by_turn = view_turns(series, self.place)[..., None, :, :] @ turn_weights(rotation, series.dose_time)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Term:
    """Values of one grid, Σ time · space · node, and what they change.

    Parameters
    ----------
    columns : numbers of the nodes' parameters, shape (n_k, n_s); -1 for frozen nodes.
    time : weights of the nodes in time, shape (T, n_k).
    space : weights of the nodes in space, shape (P or 1, T or 1, n_s).
    direction : by name of a local parameter, its change for a value of 1, shape (P or 1, T or 1).
    """

    columns: Tensor
    time: Tensor
    space: Tensor
    direction: Mapping[str, Tensor]


class _Image:
    """The terms of one image."""

    def __init__(self, terms: Sequence[_Term], active: tuple[str, ...], n_particles: int, t: int) -> None:
        self._terms = [(term, (term.time[t].abs() > _NEGLIGIBLE).nonzero().flatten()) for term in terms]
        self._n_particles, self._active, self._t = n_particles, active, t
        kept = [term.columns[nodes].flatten() for term, nodes in self._terms]
        self.columns = torch.cat([torch.zeros(0, dtype=torch.int64), *(numbers[numbers >= 0] for numbers in kept)])

    def shared(self) -> Tensor:
        """Return the change of local parameters, (P, d, m_t)."""
        result = torch.zeros((self._n_particles, len(self._active), len(self.columns)), dtype=torch.float64)
        first = 0
        for term, nodes in self._terms:
            is_free = term.columns[nodes].flatten() >= 0
            space = self._of_image(term.space)
            weights = (term.time[self._t, nodes][:, None] * space[:, None]).flatten(1)[:, is_free]
            where = slice(first, first + weights.shape[1])
            for name, values in term.direction.items():
                result[:, self._active.index(name), where] = self._of_image(values)[:, None] * weights
            first += weights.shape[1]
        return result

    def _of_image(self, values: Tensor) -> Tensor:
        return values[:, 0] if values.shape[1] == 1 else values[:, self._t]


class _OnDemand(Sequence[Tensor]):
    def __init__(self, images: Sequence[_Image]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        return _OnDemand(self._images[index]) if isinstance(index, slice) else self._images[index].shared()


def _own(layout: Layout, state: _State) -> dict[str, tuple[int, Tensor]]:
    """Return by name of a local parameter on which own parameters it depends: the first one's number, and how."""
    found: dict[str, tuple[int, Tensor]] = {}
    n, first = layout.n_samples, 0
    if axes := layout.position_axes:
        weights = path_weights(n, state.series.dose_time)[:, :, None]
        moved = [(weights * state.by_place[..., row, None, :axes]).flatten(-2) for row in range(axes)]
        found.update({name: (first, values) for name, values in zip(_PLACE[:axes], moved, strict=True)})
        first += n * axes
    if layout.angle_axes:
        turned = state.by_turn.movedim(-3, -2).flatten(-2)
        found.update({name: (first, turned[..., axis, :]) for axis, name in enumerate(_TURNS)})
        first += n * layout.angle_axes
    if layout.has_own_defocus:
        found["defocus"] = first, torch.ones((*state.place.shape[:2], 1), dtype=torch.float64)
    return found


def _terms(block: Block, state: _State) -> Iterator[_Term]:
    series = state.series
    axis = _AXES.get(block.field.split("_")[-2], 0) if "_" in block.field else 0
    if block.field.startswith(("movement_", "pyramid_")):
        where = state.before / image_size(series)
        yield _grid_term(block, series, where, series.image_time, {_PLACE[axis]: _number(-1.0)})
    elif block.field.startswith("volume_warp_") and isinstance(series, TiltSeries):
        direction = {name: state.by_warped[..., row, axis] for row, name in enumerate(_PLACE)}
        yield _grid_term(block, series, state.place / volume_size(series), series.dose_time, direction)
    elif block.field.startswith("stage_angle_"):
        turned = stage_axes(series, state.place)[..., axis] * (math.pi / 180)
        direction = {name: turned[..., row] for row, name in enumerate(_TURNS)}
        yield _grid_term(block, series, where_particles_are(series, state.place), series.image_time, direction)
    elif len(block.shape) == 1:
        yield from _terms_of_optics(block, series)
    else:
        name, factor = _CTF.get(block.field, (f"astigmatism_{'ab'[block.component]}", 1.0))
        where = where_particles_are(series, state.place)
        yield _grid_term(block, series, where, series.image_time, {name: _number(factor)})


def _grid_term(
    block: Block, series: ImageSeries, where: Tensor, times: Tensor, direction: Mapping[str, Tensor]
) -> _Term:
    grids = getattr(series, block.field)
    grid: Grid = grids[block.level] if isinstance(grids, tuple) else grids
    last = grid.values.dim() - 1
    space = grid.weights_along(0, where[..., 0])
    for axis in range(1, last):
        outer = grid.weights_along(axis, where[..., axis])
        space = (outer[..., :, None] * space[..., None, :]).flatten(-2)
    return _Term(columns=block.columns, time=grid.weights_along(last, times), space=space, direction=direction)


def _terms_of_optics(block: Block, series: ImageSeries) -> Iterator[_Term]:
    for number, names in enumerate(names_of_optics(block)):
        yield _Term(
            columns=block.columns[:, number : number + 1],
            time=torch.ones((len(series), 1), dtype=torch.float64),
            space=torch.ones((1, 1, 1), dtype=torch.float64),
            direction={name: _number(factor) for name, factor in names.items()},
        )


def _number(value: float) -> Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


def _slopes(function: Callable[[Tensor], Tensor], place: Tensor) -> Tensor:
    """Return the derivative of each place's image by the place, (P, T, c, c)."""
    with torch.enable_grad():
        where = place.detach().requires_grad_()
        values = function(where)
        rows = [
            torch.autograd.grad(values[..., row].sum(), where, retain_graph=True)[0] for row in range(values.shape[-1])
        ]
    return torch.stack(rows, dim=-2).detach()
