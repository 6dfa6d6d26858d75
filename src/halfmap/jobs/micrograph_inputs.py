"""Micrographs as jobs take them: located, looked into, and the unusable ones set aside before work starts."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.io import images, relion
from halfmap.io.relion_paths import resolve_paths
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.project.job import JobContext

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedMicrographs:
    """Micrographs that can be worked on.

    Parameters
    ----------
    micrographs : the usable rows; their names lead from the project to the file, as we write them.
    given_names : their names in the table that was read.
    paths : their files, absolute.
    shapes : their sides (y, x).
    pixel_size_angstrom : float64, shape (n,).
    rejected : what was set aside, and why.
    """

    micrographs: MicrographSet
    given_names: tuple[str, ...]
    paths: tuple[Path, ...]
    shapes: tuple[tuple[int, int], ...]
    pixel_size_angstrom: np.ndarray
    rejected: tuple[Rejected, ...]

    @property
    def names(self) -> list[str]:
        """Names of the micrographs, as we write them."""
        return [str(name) for name in self.micrographs["micrograph_name"]]


def open_micrographs(
    context: JobContext, star_path: Path, *, pixel_size_angstrom: float | None = None
) -> OpenedMicrographs:
    """Read a micrograph table and look at every file's header.

    Parameters
    ----------
    context : the job.
    star_path : STAR file of the micrographs.
    pixel_size_angstrom : overrides the table's.

    Raises
    ------
    FormatError, InconsistentDataError
        The table is at fault.
    JobFailed
        More than a tenth of the micrographs are.
    """
    micrographs = relion.read_micrographs(star_path)
    if pixel_size_angstrom is not None:
        optics = micrographs.optics.with_columns(micrograph_pixel_size_angstrom=pixel_size_angstrom)
        micrographs = replace(micrographs, optics=optics)
    elif "micrograph_pixel_size_angstrom" not in micrographs.optics:
        raise InconsistentDataError(
            f"The optics table of {star_path} must have the column rlnMicrographPixelSize; got none; add it, or give "
            "--pixel-size where the command has it."
        )
    return _opened(context, star_path, micrographs)


def open_micrographs_named(
    context: JobContext, path: Path, names: Sequence[str], *, pixel_size_angstrom: float | None
) -> OpenedMicrographs:
    """Open the micrographs that a list of picks names, when no table of micrographs is at hand.

    Parameters
    ----------
    context : the job.
    path : the file that names them.
    names : of the micrographs.
    pixel_size_angstrom : of all of them; None takes that of the first one's header.

    Raises
    ------
    InconsistentDataError
        The micrographs cannot be found, or their pixel size is not known.
    """
    try:
        first = resolve_paths(path, context.project, names) / names[0]
        size = pixel_size_angstrom or images.shape_and_pixel_size(first)[1]
    except (FormatError, InputError, IndexError) as error:
        raise InconsistentDataError(
            f"The micrographs of {path} must be known; got names that lead to none ({error}); give --micrographs."
        ) from error
    if size is None:
        raise InconsistentDataError(
            f"The pixel size of the micrographs must be known; got none in the header of {names[0]}; give --pixel-size."
        )
    columns: dict[str, np.ndarray] = {
        "micrograph_name": np.array(names, dtype=object),
        "optics_group": np.ones(len(names), dtype=np.int64),
    }
    optics = OpticsGroups(columns={"micrograph_pixel_size_angstrom": np.array([size])})
    return _opened(context, path, MicrographSet(columns=columns, optics=optics))


def open_micrographs_of(context: JobContext, star_path: Path, particles: ParticleSet) -> tuple[OpenedMicrographs, str]:
    """Open the micrographs that a particle table names, when no table of micrographs is at hand.

    Returns
    -------
    opened : the micrographs, in the order of their first particle.
    said : a sentence on where their pixel size comes from.
    """
    sizes, said = micrograph_pixel_sizes(context, star_path, particles)
    names, first = np.unique(np.asarray(particles["micrograph_name"], dtype=str), return_index=True)
    order = np.argsort(first)
    micrographs = MicrographSet(
        columns={
            "micrograph_name": names[order].astype(object),
            "optics_group": particles["optics_group"][first[order]],
        },
        optics=particles.optics.with_columns(micrograph_pixel_size_angstrom=sizes),
    )
    return _opened(context, star_path, micrographs), said


def micrograph_pixel_sizes(context: JobContext, star_path: Path, particles: ParticleSet) -> tuple[np.ndarray, str]:
    """Find the pixel size of the micrographs that particles lie in.

    Returns
    -------
    sizes : Å, float64, one for each optics group: of the optics table, else of the first micrograph's header,
        else of the raw movies.
    said : a sentence on which.

    Raises
    ------
    InconsistentDataError
        It is nowhere to be found.
    """
    optics = particles.optics
    if "micrograph_pixel_size_angstrom" in optics:
        return optics["micrograph_pixel_size_angstrom"], "The micrographs' pixel size is that of the optics table."
    first = str(particles["micrograph_name"][0])
    with suppress(FormatError, InputError):
        _, size = images.shape_and_pixel_size(resolve_paths(star_path, context.project, [first]) / first)
        if size is not None:
            return np.full(len(optics), size), f"The micrographs' pixel size is that of {first}'s header, {size:g} Å."
    if "original_pixel_size_angstrom" in optics:
        said = "The micrographs' pixel size is taken from rlnMicrographOriginalPixelSize, right if they are not binned."
        return optics["original_pixel_size_angstrom"], said
    raise InconsistentDataError(
        f"The pixel size of the micrographs must be known; got none in {star_path} or the header of {first}; add the "
        "column rlnMicrographPixelSize to the optics table."
    )


def _opened(context: JobContext, star_path: Path, micrographs: MicrographSet) -> OpenedMicrographs:
    names = [str(name) for name in micrographs["micrograph_name"]]
    if not names:
        raise InputError(f"{star_path} must list micrographs; got none; choose a file with rows.")
    root = resolve_paths(star_path, context.project, names)
    shapes: dict[int, tuple[int, int]] = {}
    reasons: dict[int, str] = {}
    for index, name in enumerate(names):
        try:
            shapes[index] = images.shape_and_pixel_size(root / name)[0]
        except (FormatError, InputError) as error:
            reasons[index] = str(error)
    groups = micrographs["optics_group"]
    for group in np.unique(groups):
        members = [int(i) for i in np.flatnonzero(groups == group) if i in shapes]
        usual = Counter(shapes[i] for i in members).most_common(1)[0][0] if members else (0, 0)
        for i in members:
            if shapes[i] != usual:
                reasons[i] = (
                    f"{root / names[i]} must have the size of its optics group, {usual[1]}×{usual[0]} px; got "
                    f"{shapes[i][1]}×{shapes[i][0]} px; give it an optics group of its own or remove it"
                )
    rejected = tuple(Rejected(name=names[i], reason=reason) for i, reason in sorted(reasons.items()))
    for one in rejected:
        context.log(f"set aside {one.name}: {one.reason}")
    check_rejections(rejected, len(names), "micrographs")
    usable = [i for i in range(len(names)) if i not in reasons]
    micrographs = micrographs.take(np.array(usable, dtype=np.int64))
    located = [context.relative(root / names[i]) for i in usable]
    if located != [names[i] for i in usable]:
        micrographs = micrographs.with_columns(micrograph_name=np.array(located, dtype=object))
    return OpenedMicrographs(
        micrographs=micrographs,
        given_names=tuple(names[i] for i in usable),
        paths=tuple(root / names[i] for i in usable),
        shapes=tuple(shapes[i] for i in usable),
        pixel_size_angstrom=micrographs.optics_values("micrograph_pixel_size_angstrom"),
        rejected=rejected,
    )


def read_finite(path: Path) -> "Tensor":
    """Read a micrograph as float32, shape (y, x).

    Raises
    ------
    FormatError
        It cannot be read, or holds values that are no numbers.
    """
    import torch

    values = images.read_micrograph(path)
    # One sum finds NaN and infinities at the speed of the memory; where they are is asked only then.
    if not np.isfinite(values.sum(dtype=np.float64)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            y, x = bad[0]
            raise FormatError(
                path,
                expected="finite pixels",
                found=f"{len(bad)} that are not, the first at x={x}, y={y}",
                remedy="write the micrograph again or remove it",
            )
    return torch.from_numpy(values)
