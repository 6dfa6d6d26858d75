"""``halfmap volume``: resample, crop, filter, flip, symmetrise, compare and describe maps.

Each command does one thing to one map, so their order is the order in which they are called. All keep grey
values and the centre voxel where they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from halfmap.errors import InputError
from halfmap.jobs.map_inputs import read_map
from halfmap.project.job import ImmediateCommand, JobContext, JobType

if TYPE_CHECKING:
    from halfmap.data.volumes import Volume

PIXEL_SIZE_TOLERANCE = 1e-3
"""Largest relative difference between pixel sizes that count as one."""

BLOCK_VALUES = 1 << 24
"""Values that ``info`` holds in memory at a time."""


LEAST_SYMMETRY = 0.9
"""Correlation of a map with its symmetrised self below which it hardly has the symmetry."""


@dataclass(frozen=True, kw_only=True)
class MapParams:
    """What every command that turns one map into another takes."""

    volume: Path
    """The map, MRC or CCP4."""

    header_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the map, if its header states none or a wrong one."""

    float16: bool = False
    """Write 16-bit floating point (MRC mode 12), half the size."""


@dataclass(frozen=True, kw_only=True)
class VolumeResampleParams(MapParams):
    """Inputs and settings of ``halfmap volume resample``."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size wanted; the result has exactly this one."""

    box_pixel: Annotated[int, Ge(4)] | None = None
    """Side wanted. What lies outside the old map is 0. Default: the even side that holds the old map."""

    like: Path | None = None
    """Take pixel size and sides from this map instead."""

    def __post_init__(self) -> None:
        if (self.pixel_size_angstrom is None) == (self.like is None):
            raise InputError("Either --pixel-size or --like must be given; got both or neither; give one.")
        if self.like is not None and self.box_pixel is not None:
            raise InputError("--box must not go with --like, which has sides of its own; got both; leave one out.")


@dataclass(frozen=True, kw_only=True)
class VolumeCropParams(MapParams):
    """Inputs and settings of ``halfmap volume crop``."""

    box_pixel: Annotated[int, Ge(4)]
    """Side wanted: smaller cuts, larger surrounds the map, both about the centre voxel."""

    fill: float = 0.0
    """Value of voxels outside the old map."""


@dataclass(frozen=True, kw_only=True)
class VolumeFilterParams(MapParams):
    """Inputs and settings of ``halfmap volume filter``."""

    low_pass_angstrom: Annotated[float, Gt(0)] | None = None
    """Remove detail finer than this resolution."""

    high_pass_angstrom: Annotated[float, Gt(0)] | None = None
    """Remove what is coarser than this resolution."""

    b_factor_angstrom2: float | None = None
    """Multiply by exp(-B s²/4): negative sharpens. Corners beyond Nyquist become 0."""

    edge_width: Annotated[float, Ge(0)] = 2.0
    """Width of the filters' raised-cosine edges in Fourier shells."""

    def __post_init__(self) -> None:
        if (self.low_pass_angstrom, self.high_pass_angstrom, self.b_factor_angstrom2) == (None, None, None):
            raise InputError("A filter must be given; got none; use --low-pass, --high-pass or --b-factor.")
        low, high = self.low_pass_angstrom, self.high_pass_angstrom
        if low is not None and high is not None and low >= high:
            raise InputError(
                f"--low-pass must be a finer resolution than --high-pass; got {low:g} and {high:g} Å; exchange them."
            )


@dataclass(frozen=True, kw_only=True)
class VolumeFlipParams(MapParams):
    """Inputs and settings of ``halfmap volume flip``."""

    hand: bool = False
    """Write the mirror image, for a map of the wrong hand."""

    contrast: bool = False
    """Change the sign, for a map whose particle is dark."""

    def __post_init__(self) -> None:
        if not (self.hand or self.contrast):
            raise InputError("What to flip must be given; got nothing; use --hand, --contrast or both.")


@dataclass(frozen=True, kw_only=True)
class VolumeSymmetriseParams(MapParams):
    """Inputs and settings of ``halfmap volume symmetrise``."""

    symmetry: str
    """Point group: C1, C2, …, D2, …, T, O, I1 to I4, axes as in RELION."""


@dataclass(frozen=True, kw_only=True)
class VolumeSymmetryAlignParams(MapParams):
    """Inputs and settings of ``halfmap volume symmetry-align``."""

    symmetry: str
    """Point group whose axes are looked for: C2, …, D2, …, T, O, I1 to I4."""

    symmetrise: bool = False
    """Average the aligned map over the group too."""

    resolution_angstrom: Annotated[float, Gt(0)] | None = None
    """Resolution of the details that the axes are found by; a sixteenth of the particle's diameter where left out."""


@dataclass(frozen=True, kw_only=True)
class VolumeFscParams:
    """Inputs and settings of ``halfmap volume fsc``."""

    volumes: tuple[Path, ...]
    """Two maps of one box and pixel size."""

    mask: Path | None = None
    """Map of values from 0 to 1 that both are multiplied by, for a second curve."""

    header_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the maps, if their headers state none or a wrong one."""

    def __post_init__(self) -> None:
        if len(self.volumes) != 2:
            raise InputError(f"An FSC must be of two maps; got {len(self.volumes)}; name two files.")


@dataclass(frozen=True, kw_only=True)
class VolumeInfoParams:
    """Inputs of ``halfmap volume info``."""

    volumes: tuple[Path, ...]
    """MRC files: maps, stacks or micrographs."""


def resample(context: JobContext, params: VolumeResampleParams) -> Path:
    """Write the map at another pixel size: its band-limited values, without what the new sampling cannot hold."""
    import math

    from halfmap.data.volumes import Volume
    from halfmap.fourier.resample import rescale_to_pixel_size

    before = _read(params.volume, params.header_pixel_size_angstrom)
    pixel_size = params.pixel_size_angstrom
    sides: int | tuple[int, ...]
    if params.like is not None:
        model = _read(params.like, None)
        pixel_size, sides = model.grid.pixel_size_angstrom, model.grid.shape
    elif params.box_pixel is not None:
        sides = params.box_pixel
    else:
        assert pixel_size is not None
        ratio = before.grid.pixel_size_angstrom / pixel_size
        sides = tuple(2 * math.ceil(round(side * ratio / 2, 6)) for side in before.grid.shape)
    assert pixel_size is not None
    values, grid = rescale_to_pixel_size(before.values, before.grid, pixel_size, sides)
    note = ""
    if pixel_size > before.grid.pixel_size_angstrom * (1 + PIXEL_SIZE_TOLERANCE):
        note = f"Detail finer than {2 * pixel_size:.4g} Å, which the new pixels cannot hold, is gone."
    after = Volume(values=values, grid=grid)
    return _finish(context, params, "Resampled map", "resampled.mrc", before, after, note)


def crop(context: JobContext, params: VolumeCropParams) -> Path:
    """Write the map with other sides about the same centre voxel."""
    from halfmap.data.volumes import Volume
    from halfmap.fourier.resample import crop_or_pad

    before = _read(params.volume, params.header_pixel_size_angstrom)
    values, grid = crop_or_pad(before.values, before.grid, params.box_pixel, params.fill)
    return _finish(context, params, "Cropped map", "cropped.mrc", before, Volume(values=values, grid=grid))


def filter_map(context: JobContext, params: VolumeFilterParams) -> Path:
    """Write the map times the filters asked for; they commute, so their order does not matter."""
    import torch

    from halfmap.data.volumes import Volume
    from halfmap.fourier import filters

    before = _read(params.volume, params.header_pixel_size_angstrom)
    grid = before.grid
    multiplier = torch.ones(grid.rfft_shape)
    done = []
    if params.b_factor_angstrom2 is not None:
        multiplier *= filters.b_factor(grid, params.b_factor_angstrom2)
        done.append(f"B-factor {params.b_factor_angstrom2:g} Å²")
    if params.low_pass_angstrom is not None:
        multiplier *= filters.low_pass(grid, params.low_pass_angstrom, params.edge_width)
        done.append(f"low-pass {params.low_pass_angstrom:g} Å")
    if params.high_pass_angstrom is not None:
        multiplier *= filters.high_pass(grid, params.high_pass_angstrom, params.edge_width)
        done.append(f"high-pass {params.high_pass_angstrom:g} Å")
    after = Volume(values=filters.apply_filter(before.values, grid, multiplier), grid=grid)
    return _finish(context, params, "Filtered map", "filtered.mrc", before, after, f"Applied: {', '.join(done)}.")


def flip(context: JobContext, params: VolumeFlipParams) -> Path:
    """Write the map's mirror image, the map with its sign changed, or both."""
    from halfmap.data.volumes import Volume
    from halfmap.geometry.symmetric_volumes import point_reflected

    before = _read(params.volume, params.header_pixel_size_angstrom)
    values, notes = before.values, []
    if params.hand:
        values = point_reflected(values, before.grid)
        notes.append("The mirror image, through the centre voxel: V(−x). Symmetry axes stay where they are.")
    if params.contrast:
        values = -values
        notes.append("The sign was changed.")
    after = Volume(values=values, grid=before.grid)
    return _finish(context, params, "Flipped map", "flipped.mrc", before, after, " ".join(notes))


def symmetrise(context: JobContext, params: VolumeSymmetriseParams) -> Path:
    """Write the mean of the map over the rotations of a point group."""
    from halfmap.data.volumes import Volume
    from halfmap.geometry.symmetric_volumes import symmetrise_volume
    from halfmap.geometry.symmetry_names import order

    n_rotations = order(params.symmetry)
    before = _read(params.volume, params.header_pixel_size_angstrom)
    _require_cubic(params.volume, before)
    context.progress.message(f"Averaging {n_rotations} rotations of {params.symmetry}")
    after = Volume(values=symmetrise_volume(before.values, before.grid, params.symmetry), grid=before.grid)
    note = f"Mean over the {n_rotations} rotations of {params.symmetry.upper()}, axes through the centre voxel."
    return _finish(context, params, "Symmetrised map", "symmetrised.mrc", before, after, note)


def symmetry_align(context: JobContext, params: VolumeSymmetryAlignParams) -> Path:
    """Write the map turned and moved so that its symmetry axes lie where the group has them."""
    from halfmap.data.volumes import Volume
    from halfmap.geometry.rotations import euler_from_matrix, rotation_vector_from_matrix
    from halfmap.geometry.symmetric_volumes import symmetrise_volume
    from halfmap.geometry.symmetry_names import order
    from halfmap.inference.symmetry_axes import aligned, find_axes, in_nearest_setting

    n_rotations = order(params.symmetry)
    before = _read(params.volume, params.header_pixel_size_angstrom)
    _require_cubic(params.volume, before)
    context.progress.message(f"Looking for the axes of {params.symmetry.upper()}")
    axes = in_nearest_setting(
        find_axes(before.values, before.grid, params.symmetry, resolution_angstrom=params.resolution_angstrom),
        params.symmetry,
    )
    values = aligned(before.values, before.grid, axes)
    if params.symmetrise:
        values = symmetrise_volume(values, before.grid, params.symmetry)
    rot, tilt, psi = euler_from_matrix(axes.rotation).tolist()
    turn = float(rotation_vector_from_matrix(axes.rotation).norm().rad2deg())
    x, y, z = (axes.centre_angstrom.round(decimals=2) + 0.0).tolist()  # no −0
    note = (
        f"Correlation of the aligned map with its mean over the {n_rotations} rotations of "
        f"{params.symmetry.upper()}, at {axes.resolution_angstrom:.3g} Å: {axes.correlation:.3f}. The map was turned "
        f"by {turn:.2f}° (rot {rot:.2f}°, tilt {tilt:.2f}°, psi {psi:.2f}°) about the point ({x:.2f}, {y:.2f}, "
        f"{z:.2f}) Å from its centre voxel, which is now the centre."
    )
    context.progress.message(note)
    if axes.correlation < LEAST_SYMMETRY:
        context.progress.message(
            f"Warning: a map of {params.symmetry.upper()} symmetry correlates with its symmetrised self above "
            f"{LEAST_SYMMETRY:g}; got {axes.correlation:.3f}; look at the map, or ask for another group."
        )
    return _finish(context, params, "Aligned map", "aligned.mrc", before, Volume(values=values, grid=before.grid), note)


def fsc(context: JobContext, params: VolumeFscParams) -> Path:
    """Write the correlation of two maps, shell by shell, as a table, and where it falls below 0.5 and 0.143."""
    from halfmap.fourier import shells
    from halfmap.jobs import volume_report
    from halfmap.jobs.half_map_inputs import read_mask
    from halfmap.postprocessing.half_map_fsc import check_same_grid

    first, second = (_read(path, params.header_pixel_size_angstrom) for path in params.volumes)
    check_same_grid(second, first, *map(str, reversed(params.volumes)))
    grid = first.grid
    curves = {"unmasked": shells.fsc(grid.rfft(first.values), grid.rfft(second.values), grid)}
    if params.mask is not None:
        mask = read_mask(params.mask, first, params.volumes[0], params.header_pixel_size_angstrom)
        curves["masked"] = shells.fsc(
            grid.rfft(first.values * mask.values), grid.rfft(second.values * mask.values), grid
        )
    path = context.folder / "fsc.star"
    crossings = volume_report.crossings(curves, grid)
    volume_report.write_fsc(path, curves, crossings, grid)
    context.report(volume_report.fsc_report(params.volumes, (first, second), curves, crossings))
    for crossing in crossings:
        context.log(f"{crossing.label}: {crossing.text}")
    return path


def info(params: VolumeInfoParams) -> Iterator[str]:
    """Yield header facts and statistics of each file."""
    from halfmap.jobs.volume_report import described

    for number, path in enumerate(params.volumes):
        if number:
            yield ""
        yield from described(path, BLOCK_VALUES)


def _read(path: Path, pixel_size_angstrom: float | None) -> "Volume":
    return read_map(path, pixel_size_angstrom, flag="--header-pixel-size")


def _require_cubic(path: Path, volume: "Volume") -> None:
    if len(set(volume.grid.shape)) != 1:
        sides = " × ".join(str(side) for side in volume.grid.shape[::-1])
        raise InputError(
            f"{path} must have three equal sides to be symmetrised; got {sides}; use `halfmap volume crop` first."
        )


def _finish(
    context: JobContext, params: MapParams, title: str, name: str, before: "Volume", after: "Volume", note: str = ""
) -> Path:
    from halfmap.io import mrc
    from halfmap.jobs import volume_report

    path = context.folder / name
    mrc.write_volume(path, after, float16=params.float16)
    context.report(volume_report.map_report(title, params.volume, before, after, note))
    return path


RESAMPLE = JobType(
    command="volume resample",
    folder="Volume",
    parameters=VolumeResampleParams,
    run=resample,
    summary="Change a map's pixel size, to exactly the one asked for",
    inputs=("volume", "like"),
)
CROP = JobType(
    command="volume crop",
    folder="Volume",
    parameters=VolumeCropParams,
    run=crop,
    summary="Cut a map, or surround it, about its centre",
    inputs=("volume",),
)
FILTER = JobType(
    command="volume filter",
    folder="Volume",
    parameters=VolumeFilterParams,
    run=filter_map,
    summary="Low-pass, high-pass, sharpen or dampen a map",
    inputs=("volume",),
)
FLIP = JobType(
    command="volume flip",
    folder="Volume",
    parameters=VolumeFlipParams,
    run=flip,
    summary="Mirror a map of the wrong hand, or change its sign",
    inputs=("volume",),
)
SYMMETRISE = JobType(
    command="volume symmetrise",
    folder="Volume",
    parameters=VolumeSymmetriseParams,
    run=symmetrise,
    summary="Average a map over the rotations of a point group",
    inputs=("volume",),
)
SYMMETRY_ALIGN = JobType(
    command="volume symmetry-align",
    folder="Volume",
    parameters=VolumeSymmetryAlignParams,
    run=symmetry_align,
    summary="Turn a map so that its symmetry axes lie where its group has them",
    inputs=("volume",),
)
FSC = JobType(
    command="volume fsc",
    folder="Volume",
    parameters=VolumeFscParams,
    run=fsc,
    summary="Correlate two maps, shell by shell",
    inputs=("volumes", "mask"),
)
INFO = ImmediateCommand(
    command="volume info",
    parameters=VolumeInfoParams,
    run=info,
    summary="Print header facts and statistics of MRC files",
    positional=("volumes",),
)
