"""The micrographs of ``halfmap match-template``, each with its optics."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from halfmap.errors import InconsistentDataError, InputError
from halfmap.io import images
from halfmap.io.leopard_aberrations import StoredAberrations
from halfmap.jobs.leopard_inputs import SAME_PIXEL_SIZE
from halfmap.jobs.match_template import MatchTemplateJobParams
from halfmap.jobs.micrograph_inputs import OpenedMicrographs, open_micrographs
from halfmap.jobs.optics_aberrations import aberrations_of_group
from halfmap.jobs.per_micrograph import Rejected
from halfmap.jobs.read_files import check_files_unchanged
from halfmap.optics.aberrations import odd_zernike_with_tilt
from halfmap.project.job import JobContext
from halfmap.template_matching.aberrations import Aberrations
from halfmap.template_matching.model import ParticleOptics

OPTICS = tuple(field.name for field in fields(ParticleOptics))


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A micrograph to be searched.

    Parameters
    ----------
    name : as it is written into tables.
    path : its file, absolute.
    folder : where its maps go.
    shape : sides (y, x) of what is searched, even.
    pixel_size_angstrom : of it.
    lens : the values of `ParticleOptics`.
    stored : its aberrations.
    """

    name: str
    path: Path
    folder: Path
    shape: tuple[int, int]
    pixel_size_angstrom: float
    lens: Mapping[str, float]
    stored: StoredAberrations

    @property
    def optics(self) -> ParticleOptics:
        """The CTF, one row."""
        return ParticleOptics(**{name: torch.tensor([self.lens[name]], dtype=torch.float64) for name in OPTICS})

    @property
    def aberrations(self) -> Aberrations:
        """What its optics group has beyond defocus."""
        return Aberrations(**vars(self.stored))


def one_target(context: JobContext, params: MatchTemplateJobParams) -> Target:
    """Return the micrograph that the settings name.

    Raises
    ------
    FormatError, InputError
        It cannot be read, or its pixel size is not known.
    """
    assert params.micrograph is not None
    assert params.defocus_u_angstrom is not None
    shape, own = images.shape_and_pixel_size(params.micrograph)
    pixel = params.pixel_size_angstrom or own
    if pixel is None:
        raise InputError(f"{params.micrograph} must have a pixel size; got none in its header; give --pixel-size.")
    across = params.defocus_u_angstrom if params.defocus_v_angstrom is None else params.defocus_v_angstrom
    lens = {name: getattr(params, name, 0.0) for name in OPTICS}
    lens |= {"defocus_v_angstrom": across, "b_factor_angstrom2": params.ctf_b_factor_angstrom2}
    odd = params.odd_zernike
    if params.beam_tilt_mrad is not None:
        odd = odd_zernike_with_tilt(
            odd,
            beam_tilt_mrad=params.beam_tilt_mrad,
            voltage_kv=params.voltage_kv,
            spherical_aberration_mm=params.spherical_aberration_mm,
        )
    return Target(
        name=context.relative(params.micrograph),
        path=params.micrograph,
        folder=context.folder,
        shape=_even(shape),
        pixel_size_angstrom=pixel,
        lens=lens,
        stored=StoredAberrations(even_zernike=params.even_zernike, odd_zernike=odd, magnification=params.magnification),
    )


def many_targets(context: JobContext, params: MatchTemplateJobParams) -> tuple[list[Target], list[Rejected]]:
    """Return the micrographs of the table that the settings name, and those that cannot be used.

    Raises
    ------
    FormatError, InconsistentDataError
        The table is at fault, or its micrographs have several pixel sizes.
    JobFailed
        More than a tenth of the micrographs are bad.
    ProjectError
        The job goes on, and a micrograph has changed since it began.
    """
    assert params.micrographs is not None
    opened = open_micrographs(context, params.micrographs, pixel_size_angstrom=params.pixel_size_angstrom)
    table = opened.micrographs
    sizes = opened.pixel_size_angstrom
    if np.ptp(sizes) > SAME_PIXEL_SIZE * sizes.min():
        raise InconsistentDataError(
            f"The micrographs of {params.micrographs} must have one pixel size, that of the template; got "
            f"{sizes.min():g} to {sizes.max():g} Å; run one job for each."
        )
    for column, label in (("defocus_u_angstrom", "rlnDefocusU"), ("defocus_v_angstrom", "rlnDefocusV")):
        if column not in table:
            raise InconsistentDataError(
                f"{params.micrographs} must have the column _{label}; got none; estimate the defocus first."
            )
    check_files_unchanged(context, opened.paths)
    lenses = _lenses(opened)
    groups = np.asarray(table["optics_group"])
    stored = {number: aberrations_of_group(table.optics, number) for number in np.unique(groups).tolist()}
    stems = [path.stem for path in opened.paths]
    folders = [stem if stems.count(stem) == 1 else f"{i + 1:04d}_{stem}" for i, stem in enumerate(stems)]
    targets = [
        Target(
            name=opened.names[i],
            path=opened.paths[i],
            folder=context.folder / "maps" / folders[i],
            shape=_even(opened.shapes[i]),
            pixel_size_angstrom=float(sizes[i]),
            lens={name: float(values[i]) for name, values in lenses.items()},
            stored=stored[int(groups[i])],
        )
        for i in range(len(opened.names))
    ]
    return targets, list(opened.rejected)


def _even(shape: tuple[int, int]) -> tuple[int, int]:
    return shape[0] // 2 * 2, shape[1] // 2 * 2


def _lenses(opened: OpenedMicrographs) -> dict[str, np.ndarray]:
    """Return the values of `ParticleOptics` of each micrograph, float64, shape (n,)."""
    table, lenses = opened.micrographs, {}
    for name in OPTICS:
        column = "ctf_b_factor_angstrom2" if name == "b_factor_angstrom2" else name
        if column in table:
            lenses[name] = np.asarray(table[column], dtype=np.float64)
        elif column in table.optics:
            lenses[name] = np.asarray(table.optics_values(column), dtype=np.float64)
        elif name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast"):
            raise InconsistentDataError(f"The optics table must have the column {name}; got none; add it.")
        else:
            lenses[name] = np.zeros(len(opened.names))
    return lenses
