"""Which numbers a multi-particle refinement fits: their order, names, units and priors."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from halfmap.data.image_series import FrameSeries, ImageSeries, TiltSeries
from halfmap.imaging.series_transfer import CTF_PARAMETERS, N_EVEN, N_ODD
from halfmap.multiparticle.params import ParameterChoice, PriorWidths
from halfmap.multiparticle.prepared_series import FIELD_NODES, prepared
from halfmap.optics.aberrations import even_index, odd_index

LOCAL = (
    *("shift_x", "shift_y", "turn_x", "turn_y", "turn_z"),
    *CTF_PARAMETERS[:5],
    *("magnification_11", "magnification_12", "magnification_21", "magnification_22"),
    *(f"odd_zernike_{i}" for i in range(N_ODD)),
    *CTF_PARAMETERS[5:],
)
"""What an image of a particle depends on: where its content lies (Å), turns of its view about the image's axes (rad, R
becomes exp([ω]×) R), what `CTF_PARAMETERS` says, magnification, and odd aberrations (rad Å^n)."""

_COMA = (3, 4)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Parameters of one kind, side by side in the vector of what particles share.

    Parameters
    ----------
    name, unit : of the kind.
    field : of the series, or of its optics, that holds them.
    shape : of the nodes, time first; (n,) for what is no grid.
    first : number of the first parameter.
    width, step, bend : standard deviations of a node, of a difference between neighbours in time, and of a second
        difference between neighbours in space; None for no such prior.
        Of aberrations, rms phase over the band of each independent one (`parameter_priors`).
    level : of a pyramid. component : of a vector that a field holds.
    coefficients : of aberrations, for each parameter the numbers of the Zernike coefficients that it changes, with how
        much.
    n_frozen : how many nodes, from the first on, stay as they are and have no parameter.
    """

    name: str
    unit: str
    field: str
    shape: tuple[int, ...]
    first: int
    width: float
    step: float | None = None
    bend: float | None = None
    level: int = 0
    component: int = 0
    coefficients: tuple[Mapping[int, float], ...] = ()
    n_frozen: int = 0

    @property
    def n_parameters(self) -> int:
        """Nodes less the frozen ones."""
        return math.prod(self.shape) - self.n_frozen

    @property
    def columns(self) -> Tensor:
        """Number of each node's parameter, shape (n in time, n in space); −1 where it is frozen."""
        numbers = torch.arange(math.prod(self.shape)) - self.n_frozen
        numbers = torch.where(numbers >= 0, numbers + self.first, -1)
        return numbers.reshape(self.shape[0] if len(self.shape) > 1 else 1, -1)

    @property
    def names(self) -> list[str]:
        """Of each parameter: the kind and, in brackets, the node's indices, time first."""
        nodes = list(product(*(range(n) for n in self.shape)))[self.n_frozen :]
        return [f"{self.name}[{', '.join(str(i) for i in node)}]" for node in nodes]


class Layout:
    """The parameters of a series and of its particles.

    Parameters
    ----------
    series : as it is when the refinement begins.
    n_particles, n_samples : particles, and temporal samples of each.
    choice : what is fitted. What a kind of series does not have is left out.
    widths : of the priors, which lie about where the refinement begins.

    Attributes
    ----------
    blocks : kinds of shared parameters, in order.
    n_shared, n_particle : how many parameters all particles share, and how many each has of its own.
    position_axes, angle_axes, has_own_defocus : what a particle's own parameters are, the first two for each sample.
    image_order : numbers of the images in order of dose.
    """

    def __init__(
        self,
        series: ImageSeries,
        n_particles: int,
        n_samples: int,
        choice: ParameterChoice,
        widths: PriorWidths | None = None,
    ) -> None:
        self.choice = choice
        self.widths = PriorWidths() if widths is None else widths
        self.n_particles, self.n_samples = n_particles, n_samples
        blocks: list[Block] = []
        for block in _blocks(prepared(series, choice), choice, self.widths):
            first = blocks[-1].first + blocks[-1].n_parameters if blocks else 0
            blocks.append(replace(block, first=first))
        self.blocks = tuple(blocks)
        self.n_shared = sum(block.n_parameters for block in blocks)
        self.image_order = torch.argsort(series.dose_time, stable=True)
        is_of_tilts = isinstance(series, TiltSeries)
        self.position_axes = (3 if is_of_tilts else 2) if choice.positions else 0
        self.angle_axes = 3 if choice.angles else 0
        self.has_own_defocus = choice.defocus and not is_of_tilts
        self.n_particle = n_samples * (self.position_axes + self.angle_axes) + self.has_own_defocus

    @property
    def n_parameters(self) -> int:
        """All there are."""
        return self.n_shared + self.n_particles * self.n_particle

    @property
    def names(self) -> list[str]:
        """Of the shared parameters."""
        return [name for block in self.blocks for name in block.names]

    @property
    def units(self) -> list[str]:
        """Of the shared parameters."""
        return [block.unit for block in self.blocks for _ in range(block.n_parameters)]

    @property
    def particle_names(self) -> list[str]:
        """Of a particle's parameters: all positions, sample by sample, all turns, and a defocus of its own."""
        positions = [
            f"position {'xyz'[axis]}[{j}]" for j in range(self.n_samples) for axis in range(self.position_axes)
        ]
        turns = [f"turn {'xyz'[axis]}[{j}]" for j in range(self.n_samples) for axis in range(self.angle_axes)]
        return [*positions, *turns, *(["defocus"] if self.has_own_defocus else [])]

    @property
    def particle_units(self) -> list[str]:
        """Of a particle's parameters."""
        positions = ["Å"] * (self.n_samples * self.position_axes)
        return [*positions, *(["rad"] * (self.n_samples * self.angle_axes)), *(["Å"] if self.has_own_defocus else [])]


def _blocks(series: ImageSeries, choice: ParameterChoice, widths: PriorWidths) -> Iterator[Block]:
    if isinstance(series, TiltSeries):
        yield from _blocks_of_tilts(series, choice, widths)
    elif isinstance(series, FrameSeries):
        yield from _blocks_of_frames(series, choice, widths)
    yield from _blocks_of_optics(series, choice, widths)


def _blocks_of_tilts(series: TiltSeries, choice: ParameterChoice, widths: PriorWidths) -> Iterator[Block]:
    n = len(series)
    if choice.image_warp_nodes is not None:
        for axis in "xy":
            yield Block(
                name=f"image warp {axis}", unit="Å", field=f"movement_{axis}_angstrom", first=0,
                shape=series.movement_x_angstrom.shape, width=widths.image_warp_angstrom,
                step=widths.image_warp_step_angstrom, bend=widths.image_warp_bend_angstrom,
            )  # fmt: skip
    if choice.volume_warp_nodes is not None:
        shape = choice.volume_warp_nodes[::-1]
        for axis in "xyz":
            yield Block(
                name=f"volume warp {axis}", unit="Å", field=f"volume_warp_{axis}_angstrom", first=0, shape=shape,
                width=widths.volume_warp_angstrom, step=widths.volume_warp_step_angstrom,
                bend=widths.volume_warp_bend_angstrom, n_frozen=math.prod(shape[1:]),
            )  # fmt: skip
    if choice.stage_angles:
        yield from _stage_blocks(series, widths)
    if choice.defocus:
        yield Block(
            name="defocus", unit="Å", field="defocus_angstrom", first=0, shape=(n, 1, 1),
            width=widths.defocus_angstrom, step=widths.defocus_step_angstrom,
        )  # fmt: skip
    if choice.astigmatism:
        yield from _astigmatism_blocks((n, 1, 1), widths)
    if choice.phase_shift:
        yield _phase_block((n, 1, 1), widths)
    if choice.spherical_aberration:
        yield Block(
            name="spherical aberration", unit="mm", field="spherical_aberration_mm", first=0, shape=(1,),
            width=widths.spherical_aberration_mm,
        )  # fmt: skip


def _blocks_of_frames(series: FrameSeries, choice: ParameterChoice, widths: PriorWidths) -> Iterator[Block]:
    n, field = len(series), (1, FIELD_NODES, FIELD_NODES)
    if choice.image_warp_nodes is not None:
        for level, axis in product(range(len(series.pyramid_x_angstrom)), "xy"):
            yield Block(
                name=f"image warp {axis} {level + 1}", unit="Å", field=f"pyramid_{axis}_angstrom", first=0,
                shape=series.pyramid_x_angstrom[level].shape, width=widths.frame_movement_angstrom,
                step=widths.frame_movement_step_angstrom, bend=widths.frame_movement_bend_angstrom, level=level,
            )  # fmt: skip
    if choice.doming:
        yield from _stage_blocks(series, widths)
        yield Block(
            name="doming", unit="Å", field="doming_angstrom", first=0, shape=(n, FIELD_NODES, FIELD_NODES),
            width=widths.doming_angstrom, step=widths.doming_step_angstrom,
        )  # fmt: skip
    if choice.astigmatism:
        yield from _astigmatism_blocks(field, widths)
    if choice.phase_shift:
        yield _phase_block((1, 1, 1), widths)
    if choice.spherical_aberration:
        yield Block(
            name="spherical aberration", unit="mm", field="spherical_aberration_offset_mm", first=0, shape=field,
            width=widths.spherical_aberration_mm,
        )  # fmt: skip


def _blocks_of_optics(series: ImageSeries, choice: ParameterChoice, widths: PriorWidths) -> Iterator[Block]:
    if choice.magnification:
        yield Block(
            name="magnification", unit="", field="magnification", first=0, shape=(4,), width=widths.magnification
        )
    for kind, order, index, n_before in (
        ("odd", choice.odd_zernike_order, odd_index, 0),
        ("even", choice.even_zernike_order, even_index, 1),
    ):
        is_of_tilts = isinstance(series, TiltSeries)
        for n in (n for n in range(1, order + 1) if n % 2 == (kind == "odd") and (n > 1 or is_of_tilts)):
            numbers = [i for i in range(N_ODD if kind == "odd" else N_EVEN) if index(i + n_before)[0] == n]
            yield Block(
                name=f"{kind} aberrations of order {n}", unit=f"rad Å^{n}", field=f"{kind}_zernike", first=0,
                shape=(len(numbers),), width=widths.aberration_rad,
                coefficients=tuple(_coefficients(i, moves=kind == "even" or is_of_tilts) for i in numbers),
            )  # fmt: skip


def _coefficients(i: int, *, moves: bool) -> dict[int, float]:
    """Return what a parameter of aberrations changes.

    Notes
    -----
    Of frame series an axial coma takes twice its coefficient of a tilt of the phase with it, so that it does not move
    the image: 3 r³ instead of 3 r³ − 2 r, as in M; the tilt has no parameter of its own.
    """
    return {i: 1.0} if moves or i not in _COMA else {i: 1.0, i - 3: 2.0}


def _stage_blocks(series: ImageSeries, widths: PriorWidths) -> Iterator[Block]:
    for axis in "xyz":
        field = f"stage_angle_{axis}_degrees"
        yield Block(
            name=f"stage angle {axis}", unit="°", field=field, first=0, shape=getattr(series, field).shape,
            width=widths.stage_angle_degrees, step=widths.stage_angle_step_degrees,
        )  # fmt: skip


def _astigmatism_blocks(shape: tuple[int, ...], widths: PriorWidths) -> Iterator[Block]:
    for component, name in enumerate("ab"):
        yield Block(
            name=f"astigmatism {name}", unit="Å", field="astigmatism_angstrom", first=0, shape=shape,
            width=widths.astigmatism_angstrom, component=component,
        )  # fmt: skip


def _phase_block(shape: tuple[int, ...], widths: PriorWidths) -> Block:
    return Block(
        name="phase shift",
        unit="°",
        field="phase_shift_degrees",
        first=0,
        shape=shape,
        width=widths.phase_shift_degrees,
    )
