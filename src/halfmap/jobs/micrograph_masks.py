"""Micrograph masks as files: a picture for each micrograph, and ``masks.star`` that lists them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap.data.micrographs import MicrographMask
from halfmap.io import images, star
from halfmap.io.relion_paths import path_in_job, resolve_paths
from halfmap.project.job import JobContext

TABLE = "micrograph_masks"


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedMask:
    """One row of ``masks.star``.

    Parameters
    ----------
    micrograph_name : as in the micrograph table.
    pixel_size_angstrom : of the mask.
    fraction_excluded : excluded part of the area.
    reason : what is excluded, for people.
    """

    micrograph_name: str
    pixel_size_angstrom: float
    fraction_excluded: float
    reason: str


def mask_path(micrograph_name: str) -> Path:
    """Return where a micrograph's mask lies inside the job folder."""
    return "masks" / path_in_job(micrograph_name, ".png")


def write_mask(path: Path, excluded: np.ndarray) -> None:
    """Write a mask, bool of shape (y, x), as a picture: white is excluded."""
    images.write_png(path, np.where(excluded, 255, 0).astype(np.uint8))


def write_list(context: JobContext, masks: Sequence[ListedMask]) -> Path:
    """Write ``masks.star`` into the job's folder and return its path."""
    columns = {
        "rlnMicrographName": [mask.micrograph_name for mask in masks],
        "halfmapMaskName": [context.relative(context.folder / mask_path(mask.micrograph_name)) for mask in masks],
        "halfmapMaskPixelSize": [f"{mask.pixel_size_angstrom:.6f}" for mask in masks],
        "halfmapExcludedFraction": [f"{mask.fraction_excluded:.6f}" for mask in masks],
        "halfmapReason": [mask.reason or "none" for mask in masks],
    }
    path = context.folder / "masks.star"
    table = star.StarTable(name=TABLE, columns={label: np.array(values) for label, values in columns.items()})
    star.write(path, [star.with_version(table)])
    return path


def read_masks(path: str | Path, project_root: str | Path) -> dict[str, MicrographMask]:
    """Read the masks that a ``masks.star`` lists, by micrograph name.

    Raises
    ------
    FormatError
        The table lacks a column, or a mask is missing or no picture.
    """
    table = star.read(Path(path))[TABLE]
    names, files = table.text("rlnMicrographName"), table.text("halfmapMaskName")
    sizes, reasons = table.text("halfmapMaskPixelSize"), table.text("halfmapReason")
    if not len(names):
        return {}
    root = resolve_paths(path, project_root, files)
    masks = {}
    for row, (name, file, size, reason) in enumerate(zip(names, files, sizes, reasons, strict=True)):
        if not (root / file).exists():
            raise table.error(
                row, expected="a mask that exists", found=str(root / file), remedy="restore it or remove the row"
            )
        try:
            pixel_size = float(size)
        except ValueError:
            raise table.error(row, expected="a pixel size in Å", found=repr(size), remedy="mend the row") from None
        masks[str(name)] = MicrographMask(
            micrograph_name=str(name),
            excluded=images.read_micrograph(root / file) > 127,
            pixel_size_angstrom=pixel_size,
            reason="" if reason == "none" else str(reason),
        )
    return masks
