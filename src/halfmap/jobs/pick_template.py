"""``halfmap pick template``: particles as turned copies of class averages or of a map's projections."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from halfmap.errors import InconsistentDataError, InputError
from halfmap.picking.params import TemplatePickParams
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.jobs.micrograph_inputs import OpenedMicrographs
    from halfmap.picking.template import MicrographOptics, Templates


@dataclass(frozen=True, kw_only=True)
class PickTemplateJobParams(TemplatePickParams):
    """Inputs and settings of ``halfmap pick template``."""

    micrographs: Path
    """STAR file of the micrographs, with their CTF unless --no-ctf."""

    references: Path
    """Stack of class averages (.mrcs), or a map, which is projected: particles bright, free of the CTF, centred."""

    angular_step_degrees: Annotated[float, Gt(0), Le(60)] = 30.0
    """Step of the directions in which a map is projected, rounded down to 60, 30, 15, 7.5."""

    symmetry: str = "C1"
    """Point group of the map: fewer directions to try."""

    ctf: bool = True
    """Multiply the templates by the CTF of each micrograph."""

    reference_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the references. Default: that of their header."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their table."""


def run(context: JobContext, params: PickTemplateJobParams) -> Path:
    """Pick, and return the path of ``autopick.star``."""
    from functools import partial

    from halfmap.jobs.micrograph_inputs import open_micrographs
    from halfmap.jobs.picking import pick_opened
    from halfmap.picking.template import pick

    templates = read_templates(params)
    _check_size(templates, params)
    context.progress.message(
        f"{len(templates.images)} templates, each turned in steps of {params.psi_step_degrees:g}°."
    )
    opened = open_micrographs(context, params.micrographs, pixel_size_angstrom=params.pixel_size_angstrom)
    optics = _optics(opened, params.micrographs) if params.ctf else [None] * len(opened.names)
    return pick_opened(
        context,
        opened,
        [partial(pick, templates=templates, optics=one) for one in optics],
        params,
        radius_angstrom=params.diameter_angstrom / 2,
        title="Template picking",
    )


def _check_size(templates: "Templates", params: PickTemplateJobParams) -> None:
    """Refuse references that cannot hold the particle."""
    field = templates.grid.side * templates.grid.pixel_size_angstrom
    if field < params.diameter_angstrom:
        raise InputError(
            f"The references of {params.references} must be at least --diameter wide, {params.diameter_angstrom:g} Å; "
            f"got {field:g} Å; check their pixel size and the diameter."
        )


def read_templates(params: PickTemplateJobParams) -> "Templates":
    """Read class averages, or project a map, at the resolution compared.

    Raises
    ------
    InputError
        There is no pixel size.
    """
    import torch

    from halfmap.fourier import slices
    from halfmap.fourier.resample import rescale_to_pixel_size
    from halfmap.geometry.healpix import OrientationGrid
    from halfmap.geometry.rotations import matrix_from_euler
    from halfmap.grid import ImageGrid
    from halfmap.imaging.projection import project_images
    from halfmap.io import mrc
    from halfmap.jobs.map_inputs import has_pixel_size, read_map
    from halfmap.picking.template import Templates

    path, flag = params.references, "--reference-pixel-size"
    given = params.reference_pixel_size_angstrom
    n, *sides = mrc.read_header(path).shape
    if path.suffix.lower() == ".mrcs" or n == 1:
        if given is None and not has_pixel_size(path):
            raise InputError(f"{path} must have a pixel size; got none in its header; give it with {flag}.")
        own = None if given is None else ImageGrid(shape=tuple(sides), pixel_size_angstrom=given)
        source = mrc.StackSource([f"{i}@{path.name}" for i in range(1, n + 1)], path.parent, own)
        return Templates(images=torch.from_numpy(source.read(range(n))), grid=source.grid)
    volume = read_map(path, given, flag=flag)
    pixel = max(volume.grid.pixel_size_angstrom, params.max_resolution_angstrom / 2)
    side = 2 * round(max(volume.grid.shape) * volume.grid.pixel_size_angstrom / pixel / 2)
    values, grid = rescale_to_pixel_size(volume.values, volume.grid, pixel, side)
    order = next(h for h in range(6) if OrientationGrid(h).spacing_degrees <= params.angular_step_degrees)
    directions = OrientationGrid(order)
    x, y, z = directions.directions(directions.direction_numbers(params.symmetry)).T
    rotations = matrix_from_euler(
        torch.rad2deg(torch.atan2(y, x)), torch.rad2deg(torch.acos(z.clamp(-1, 1))), torch.zeros_like(z)
    )
    square = ImageGrid.square(side, pixel)
    return Templates(images=project_images(slices.prepare(values, grid), rotations, square), grid=square)


def _optics(opened: "OpenedMicrographs", path: Path) -> "list[MicrographOptics]":
    """Return the CTF of each micrograph."""
    from halfmap.picking.template import MicrographOptics

    micrographs = opened.micrographs
    for column, label in (("defocus_u_angstrom", "rlnDefocusU"), ("defocus_v_angstrom", "rlnDefocusV")):
        if column not in micrographs:
            raise InconsistentDataError(f"{path} must have the column _{label}; got none; add it, or give --no-ctf.")
    microscope = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
    shared = {name: micrographs.optics_values(name) for name in microscope}
    own = {
        name: micrographs[name] if name in micrographs else [0.0] * len(opened.names)
        for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees", "phase_shift_degrees")
    }
    return [
        MicrographOptics(**{name: float(values[i]) for name, values in (shared | own).items()})
        for i in range(len(opened.names))
    ]


JOB = JobType(
    command="pick template",
    folder="AutoPick",
    parameters=PickTemplateJobParams,
    run=run,
    summary="Find particles as turned copies of class averages or of a map's projections",
    inputs=("micrographs", "references"),
)
