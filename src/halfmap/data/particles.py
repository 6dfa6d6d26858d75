"""`ParticleSet`: the particles of a project, one image a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from halfmap.data.optics_groups import TableWithOptics
from halfmap.data.table import NUMBER, TEXT, WHOLE, ColumnKind
from halfmap.data.uids import uids_of_image_names, uids_of_positions
from halfmap.errors import InconsistentDataError


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleSet(TableWithOptics):
    """Particles, one image a row.

    Known columns
    -------------
    uid; image_name (``000001@stack.mrcs``); micrograph_name; position_pixel (n, 2), in pixels of the
    micrograph; rotation (n, 3, 3): A of the conventions; origin_angstrom (n, 2): the shift that centres
    the image; defocus_u_angstrom, defocus_v_angstrom, defocus_angle_degrees, phase_shift_degrees,
    ctf_b_factor_angstrom2, ctf_scale, ctf_max_resolution_angstrom, ctf_figure_of_merit; optics_group,
    class_number, random_subset, tilt_index, group_number (whole numbers); symmetry_copy (whole, from 0: which
    rotation of a point group the pose was multiplied by; copies share the uid); figure_of_merit (of the picker);
    norm_correction; max_probability (of the best pose, 0 to 1), log_likelihood, n_significant (poses that a
    first pass kept), of the last classification or refinement; group_name. Any other column is the file's,
    as text.

    Notes
    -----
    Where no ``uid`` is given it is the hash of the image name, else of micrograph and position.
    """

    KNOWN: ClassVar[Mapping[str, ColumnKind]] = {
        "uid": WHOLE,
        "image_name": TEXT,
        "micrograph_name": TEXT,
        "position_pixel": ColumnKind(np.float64, (2,)),
        "rotation": ColumnKind(np.float64, (3, 3)),
        "origin_angstrom": ColumnKind(np.float64, (2,)),
        "defocus_u_angstrom": NUMBER,
        "defocus_v_angstrom": NUMBER,
        "defocus_angle_degrees": NUMBER,
        "phase_shift_degrees": NUMBER,
        "ctf_b_factor_angstrom2": NUMBER,
        "ctf_scale": NUMBER,
        "ctf_max_resolution_angstrom": NUMBER,
        "ctf_figure_of_merit": NUMBER,
        "optics_group": WHOLE,
        "class_number": WHOLE,
        "random_subset": WHOLE,
        "tilt_index": WHOLE,
        "symmetry_copy": WHOLE,
        "figure_of_merit": NUMBER,
        "norm_correction": NUMBER,
        "max_probability": NUMBER,
        "log_likelihood": NUMBER,
        "n_significant": WHOLE,
        "group_name": TEXT,
        "group_number": WHOLE,
    }
    NOUN: ClassVar[str] = "particle set"

    def _complete(self, columns: dict[str, NDArray]) -> None:
        super()._complete(columns)
        if "uid" not in columns:
            columns["uid"] = _uids(columns)


def _uids(columns: Mapping[str, NDArray]) -> NDArray[np.int64]:
    if "image_name" in columns:
        return uids_of_image_names(columns["image_name"])
    if "micrograph_name" in columns and "position_pixel" in columns:
        return uids_of_positions(columns["micrograph_name"], columns["position_pixel"])
    if not any(len(values) for values in columns.values()):
        return np.zeros(0, dtype=np.int64)
    raise InconsistentDataError(
        "Particles must have the column uid or image_name, or micrograph_name and position_pixel; "
        f"got {', '.join(sorted(columns))}; add one of them."
    )
