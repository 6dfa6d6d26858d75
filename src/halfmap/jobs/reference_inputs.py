"""References and solvent masks as jobs are given them: found, checked, and brought to the particles' grid."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.fourier.resample import crop_or_pad, rescale_to_pixel_size
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.atoms import read_atoms
from halfmap.jobs.map_inputs import has_pixel_size, read_map
from halfmap.jobs.reference_choice import choose_reference
from halfmap.postprocessing.half_map_fsc import check_same_grid
from halfmap.postprocessing.masks import automatic_threshold, checked_mask, low_passed, without_islands
from halfmap.simulation.potential import potential_of_atoms

MODEL_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".ent.gz", ".cif.gz", ".mmcif.gz")
"""Endings of files that hold an atomic model."""

_SAME_PIXEL_SIZE = 1e-4  # a box of 500 voxels then differs by less than a twentieth of one at its edge
_SMOOTH_ANGSTROM, _SMOOTH_PIXELS = 20.0, 2.0
_EXTENT_SHARE = 0.99  # of the particle's voxels that a sphere must hold to be called its extent
_DARK_RATIO = 1.5
_CUT, _LOST, _OFF_CENTRE = 1.15, 0.5, 0.1
_CUT_BY_MASK = 0.1


def read_reference(
    path: Path,
    grid: ImageGrid,
    low_pass_angstrom: float,
    *,
    project: Path = Path(),
    pixel_size_angstrom: float | None = None,
    mask_diameter_angstrom: float | None = None,
    invert: bool = False,
    message: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[Volume, ...]:
    """Read a reference and bring it to the particles' grid.

    Parameters
    ----------
    path : a map; one of a pair of half maps, by its name (half1, half_A …); an atomic model, PDB or mmCIF; or the
        folder of a job: Refine3D, PostProcess, InitialModel, Class3D, of halfmap or RELION, or one with a single map.
    grid : of the particles, two equal sides.
    low_pass_angstrom : that the reference will get. It is not applied here.
    project : the folder to which paths in a job's files are relative.
    pixel_size_angstrom : of the map, instead of its header's; ``--reference-pixel-size``.
    mask_diameter_angstrom : of the circular mask, to compare the particle's extent with; None compares nothing.
    invert : change the sign of the map's density; ``--invert-reference``.
    message, warn : take a sentence about what was chosen and changed, or what looks wrong.

    Returns
    -------
    One volume, or two where each half has its own
        float32, cubic, of the particles' side and pixel size, the solvent's level at 0 and outside the map's own box.
        Grey values are the map's, those of a model volts.

    Raises
    ------
    InputError
        There is no such file; the folder holds no map or several; the map has no pixel size, one value only, or dark
        density; or the particle is larger than the particles' box.
    InconsistentDataError
        Two half maps have different sides or pixel sizes.
    FormatError
        A file is broken or no volume.
    """
    if not path.exists():
        raise InputError(
            f"A reference must be a map, a model or the folder of a job; got {path}; name one that exists."
        )
    cubic = ImageGrid.cubic(grid.side, grid.pixel_size_angstrom)
    if path.name.lower().endswith(MODEL_ENDINGS):
        return (_density_of_model(path, cubic, mask_diameter_angstrom, message, warn),)
    choice = choose_reference(path, project)
    if choice.why:
        message(choice.why)
    for one in choice.missing:
        warn(f"The other half of the reference, {one}, is missing: both halves begin with {choice.paths[0].name}.")
    given = [
        _read(one, pixel_size_angstrom, warn if number == 0 else None, cubic) for number, one in enumerate(choice.paths)
    ]
    if len(given) == 2:
        check_same_grid(given[1], given[0], str(choice.paths[1]), str(choice.paths[0]))
    name = choice.paths[0].name if len(given) == 1 else f"{choice.paths[0].name} with {choice.paths[1].name}"
    levelled = [
        _levelled(volume, one, -1.0 if invert else 1.0) for volume, one in zip(given, choice.paths, strict=True)
    ]
    whole = Volume(values=torch.stack([one.values for one in levelled]).mean(0), grid=levelled[0].grid)
    _check_contrast(whole, name)
    _check_extent(whole, name, cubic, mask_diameter_angstrom, warn)
    nyquist = 2 * whole.grid.pixel_size_angstrom
    if nyquist > low_pass_angstrom:
        warn(
            f"The reference {name} holds nothing finer than {nyquist:.3g} Å, twice its pixel size, which is coarser "
            f"than the low-pass of {low_pass_angstrom:g} Å asked for."
        )
    fitted = tuple(_fitted(volume, cubic) for volume in levelled)
    if given[0].grid != cubic:
        message(f"The reference {name}, {_spelled(given[0].grid)}, was brought to the particles' {_spelled(cubic)}.")
    return fitted


def read_mask(path: Path, grid: ImageGrid) -> Volume:
    """Read a solvent mask for maps on the particles' grid.

    Parameters
    ----------
    path : the file, or the folder of the job that made it, which holds a ``mask.mrc``. A missing pixel size stands for
        that of the particles.
    grid : of the particles, two equal sides.

    Returns
    -------
    Volume
        float32, cubic, values from 0 to 1.

    Raises
    ------
    InputError
        There is no such file; its box or pixel size is not the particles'; or values are not from 0 to 1, or not
        finite.
    """
    file = path / "mask.mrc" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"A mask must be a map, or the folder of a job with a mask.mrc; got {path}; name the file.")
    cubic = ImageGrid.cubic(grid.side, grid.pixel_size_angstrom)
    mask = read_map(file, None if has_pixel_size(file) else grid.pixel_size_angstrom)
    if mask.grid.shape != cubic.shape or not _is_same_pixel_size(mask.grid, cubic, tolerance=1e-3):
        pixel_size = f"{cubic.pixel_size_angstrom:g}"
        # The right box with another pixel size is most often the right mask with a wrong header.
        header = f", with --header-pixel-size {pixel_size} if only its header is wrong"
        raise InputError(
            f"The mask {file} must have the particles' box, {_spelled(cubic)}; got {_spelled(mask.grid)}; use "
            f"`halfmap volume resample {file} --pixel-size {pixel_size} --box {cubic.side}`"
            f"{header if mask.grid.shape == cubic.shape else ''}."
        )
    return checked_mask(Volume(values=mask.values, grid=cubic), f"The mask {file}")


def extent_angstrom(volume: Volume) -> tuple[float, float]:
    """Return how wide a particle is, and how far its middle lies from the centre of the box.

    Parameters
    ----------
    volume : particle bright, solvent at 0.

    Returns
    -------
    extent : diameter of the sphere around its middle that holds 99 % of its voxels, in Å.
    offset : of the middle from the centre voxel, in Å.

    Notes
    -----
    Its voxels are those above `automatic_threshold` of the map low-passed at 20 Å, without islands of less than a tenth
    of the largest one.
    """
    grid = volume.grid
    positions = grid.positions()[_particle(volume)]
    middle = positions.mean(0)
    radii = (positions - middle).norm(dim=-1).sort().values
    radius = float(radii[math.ceil(_EXTENT_SHARE * (len(radii) - 1))])
    return 2 * radius + grid.pixel_size_angstrom, float(middle.norm())


def check_mask_holds(mask: Volume, volume: Volume, name: str, warn: Callable[[str], None]) -> None:
    """Warn of a solvent mask that leaves out part of the particle in a reference.

    Parameters
    ----------
    mask, volume : on one grid.
    name : of the mask's file.

    Notes
    -----
    A reference is not the particle: a mask may leave out on purpose what moves, so this is no error.
    """
    inside = _particle(volume)
    lost = 1 - float(mask.values[inside].double().mean())
    if lost > _CUT_BY_MASK:
        warn(
            f"The mask {name} leaves out {100 * lost:.0f} % of the particle in the reference: what it cuts is not "
            "refined, and what lies there disturbs alignment. Make a larger one with `halfmap mask create`, or check "
            "that it has the reference's place and hand."
        )


def _particle(volume: Volume) -> Tensor:
    """Return the voxels of a particle, bright in solvent at 0."""
    smooth = low_passed(volume, max(_SMOOTH_ANGSTROM, _SMOOTH_PIXELS * volume.grid.pixel_size_angstrom))
    return without_islands(smooth.values >= automatic_threshold(smooth), 0.1)


def _read(
    path: Path, pixel_size_angstrom: float | None, warn: Callable[[str], None] | None, cubic: ImageGrid
) -> Volume:
    header = mrc.read_header(path)
    stated = header.pixel_size_angstrom
    if pixel_size_angstrom is None and stated is None and header.voxel_size_angstrom is None:
        hint = (
            f" ({cubic.pixel_size_angstrom:g} if it is on the particles' grid, as its {cubic.side} voxels suggest)"
            if header.shape == cubic.shape
            else ""
        )
        raise InputError(
            f"The reference {path} must have a pixel size; got none in its header; give it with "
            f"--reference-pixel-size{hint}."
        )
    is_default = stated is not None and abs(stated - 1) < 1e-6 and abs(cubic.pixel_size_angstrom - 1) > 0.01
    if pixel_size_angstrom is None and is_default and warn is not None:
        warn(
            f"The header of the reference {path} states a pixel size of exactly 1 Å, which programs write where they "
            "know none; if it has another, give that with --reference-pixel-size."
        )
    return read_map(path, pixel_size_angstrom, flag="--reference-pixel-size")


def _levelled(volume: Volume, path: Path, sign: float) -> Volume:
    """Return a cubic map with its solvent at 0.

    The solvent's level is the median on the faces of the box. A level beside 0 would become an edge where the map is
    surrounded or masked.
    """
    values, grid = sign * volume.values, volume.grid
    spread = float(values.double().std(correction=0))
    if not spread > 1e-6 * float(values.abs().max()):
        raise InputError(
            f"The reference {path} must hold different values; got {float(values.flatten()[0]):g} everywhere; give "
            "another map."
        )
    values = values - _level(values)
    side = max(grid.shape)
    if len(set(grid.shape)) > 1:
        values, grid = crop_or_pad(values, grid, side)
    return Volume(values=values, grid=grid)


def _level(values: Tensor) -> float:
    faces = [values.select(axis, place).flatten() for axis in range(3) for place in (0, -1)]
    return float(torch.cat(faces).median())


def dark_reach(volume: Volume) -> tuple[float, float] | None:
    """Return how far a map reaches below and above its solvent where its density is dark; None where it is bright.

    Notes
    -----
    Dark is a map that, smooth, reaches half as far again below the median of its faces as above.
    """
    smooth = low_passed(volume, max(_SMOOTH_ANGSTROM, _SMOOTH_PIXELS * volume.grid.pixel_size_angstrom)).values
    ordered = (smooth - _level(volume.values)).flatten().double().sort().values
    low, high = (float(ordered[round(share * (len(ordered) - 1))]) for share in (0.001, 0.999))
    return (low, high) if -low > _DARK_RATIO * max(high, 0.0) else None


def _check_contrast(volume: Volume, name: str) -> None:
    """Raise `InputError` where density is dark."""
    if (reach := dark_reach(volume)) is not None:
        low, high = reach
        raise InputError(
            f"The density of the reference {name} must be bright, above the solvent; got a map that reaches from "
            f"{low:.3g} below to {high:.3g} above it at {_SMOOTH_ANGSTROM:g} Å, as one of inverted contrast does; give "
            "--invert-reference to change its sign."
        )


def _check_extent(
    volume: Volume, name: str, cubic: ImageGrid, mask_diameter_angstrom: float | None, warn: Callable[[str], None]
) -> None:
    extent, offset = extent_angstrom(volume)
    _check_size(
        extent,
        f"The particle in the reference {name}",
        cubic,
        mask_diameter_angstrom,
        warn,
        otherwise=", or the map's true pixel size with --reference-pixel-size",
    )
    if offset > _OFF_CENTRE * extent:
        warn(
            f"The particle in the reference {name} lies {offset:.0f} Å beside the centre of its box, and the particles "
            "will be aligned to it there: centre the map first."
        )


def _check_size(
    extent: float,
    what: str,
    cubic: ImageGrid,
    mask_diameter_angstrom: float | None,
    warn: Callable[[str], None],
    *,
    otherwise: str = "",
) -> None:
    field = cubic.side * cubic.pixel_size_angstrom
    if extent > field:
        remedy = f"give particles of a larger box{otherwise}"
        raise InputError(
            f"{what} must fit into the particles' box of {field:.0f} Å; got about {extent:.0f} Å; {remedy}."
        )
    if mask_diameter_angstrom is None:
        return
    if extent > _CUT * mask_diameter_angstrom:
        warn(
            f"{what} is about {extent:.0f} Å wide, and the mask of {mask_diameter_angstrom:g} Å cuts it: give a larger "
            f"--mask-diameter{otherwise}."
        )
    elif extent < _LOST * mask_diameter_angstrom:
        warn(
            f"{what} is about {extent:.0f} Å wide, less than half of the mask of {mask_diameter_angstrom:g} Å: give a "
            f"smaller --mask-diameter{otherwise}."
        )


def _fitted(volume: Volume, cubic: ImageGrid) -> Volume:
    """Return a map on the particles' grid."""
    if _is_same_pixel_size(volume.grid, cubic, tolerance=_SAME_PIXEL_SIZE):
        values, _ = crop_or_pad(volume.values, volume.grid, cubic.side)
    else:
        values, _ = rescale_to_pixel_size(volume.values, volume.grid, cubic.pixel_size_angstrom, cubic.side)
    return Volume(values=values.float(), grid=cubic)


def _density_of_model(
    path: Path,
    cubic: ImageGrid,
    mask_diameter_angstrom: float | None,
    message: Callable[[str], None],
    warn: Callable[[str], None],
) -> Volume:
    model = read_atoms(path).centred()
    _check_size(model.diameter_angstrom, f"The model {path}", cubic, mask_diameter_angstrom, warn)
    message(
        f"Reference: the density of {path}, {len(model)} atoms, {model.mass_dalton / 1e3:.0f} kDa, "
        f"{model.diameter_angstrom:.0f} Å wide, about its centre of mass."
    )
    return potential_of_atoms(model, cubic)


def _is_same_pixel_size(grid: ImageGrid, other: ImageGrid, *, tolerance: float) -> bool:
    return abs(grid.pixel_size_angstrom / other.pixel_size_angstrom - 1) <= tolerance


def _spelled(grid: ImageGrid) -> str:
    sides = str(grid.side) if len(set(grid.shape)) == 1 else " × ".join(map(str, grid.shape[::-1]))
    return f"{sides} px of {grid.pixel_size_angstrom:.5g} Å"
