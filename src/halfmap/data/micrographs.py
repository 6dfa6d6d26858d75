"""`MicrographSet`: micrographs with their CTF, and `MicrographMask`: where not to look in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.data.optics_groups import TableWithOptics
from halfmap.data.table import NUMBER, TEXT, WHOLE, ColumnKind
from halfmap.data.uids import uids_of_keys
from halfmap.errors import InconsistentDataError, InputError, ShapeError


@dataclass(frozen=True, kw_only=True, eq=False)
class MicrographSet(TableWithOptics):
    """Micrographs, one a row.

    Known columns
    -------------
    uid, micrograph_name, optics_group, defocus_u_angstrom, defocus_v_angstrom, defocus_angle_degrees,
    phase_shift_degrees, ctf_b_factor_angstrom2, ctf_scale, ctf_max_resolution_angstrom,
    ctf_figure_of_merit, ctf_astigmatism_angstrom, ctf_image_name, metadata_name. Any other column is
    the file's, as text.
    """

    KNOWN: ClassVar[Mapping[str, ColumnKind]] = {
        "uid": WHOLE,
        "micrograph_name": TEXT,
        "optics_group": WHOLE,
        "defocus_u_angstrom": NUMBER,
        "defocus_v_angstrom": NUMBER,
        "defocus_angle_degrees": NUMBER,
        "phase_shift_degrees": NUMBER,
        "ctf_b_factor_angstrom2": NUMBER,
        "ctf_scale": NUMBER,
        "ctf_max_resolution_angstrom": NUMBER,
        "ctf_figure_of_merit": NUMBER,
        "ctf_astigmatism_angstrom": NUMBER,
        "ctf_image_name": TEXT,
        "metadata_name": TEXT,
    }
    NOUN: ClassVar[str] = "micrograph set"

    def _complete(self, columns: dict[str, NDArray]) -> None:
        super()._complete(columns)
        if "uid" not in columns:
            if "micrograph_name" not in columns and any(len(values) for values in columns.values()):
                raise InconsistentDataError(
                    f"Micrographs must have the column micrograph_name; got {', '.join(sorted(columns))}; add it."
                )
            columns["uid"] = uids_of_keys(str(name) for name in columns.get("micrograph_name", ()))


@dataclass(frozen=True, kw_only=True, eq=False)
class MicrographMask:
    """The parts of a micrograph that are no specimen: carbon, ice, replicated borders, edges.

    Parameters
    ----------
    micrograph_name : as in the micrograph table.
    excluded : bool, shape (y, x), True where nothing should be taken from.
    pixel_size_angstrom : of the mask; mask pixel (0, 0) is centred on the micrograph's first pixel.
    reason : what is excluded, for people.
    """

    micrograph_name: str
    excluded: NDArray[np.bool_]
    pixel_size_angstrom: float
    reason: str

    def __post_init__(self) -> None:
        excluded = np.asarray(self.excluded)
        if excluded.ndim != 2 or excluded.dtype != bool:
            raise ShapeError(
                f"A micrograph mask must be boolean with axes (y, x); got {excluded.dtype} of shape {excluded.shape}."
            )
        if not self.pixel_size_angstrom > 0:
            raise InputError(
                f"A mask's pixel size must be positive; got {self.pixel_size_angstrom} Å; give that of its picture."
            )

    @property
    def fraction_excluded(self) -> float:
        """Excluded part of the area, 0 to 1."""
        return float(self.excluded.mean())

    def excludes(self, position_pixel: ArrayLike, micrograph_pixel_size_angstrom: float) -> NDArray[np.bool_]:
        """Return for each position whether it is excluded; positions outside the mask are.

        Parameters
        ----------
        position_pixel : shape (n, 2), (x, y) in pixels of the micrograph.
        micrograph_pixel_size_angstrom : of the pixels in which positions count.
        """
        positions = np.asarray(position_pixel, dtype=np.float64).reshape(-1, 2)
        x, y = np.rint(positions * (micrograph_pixel_size_angstrom / self.pixel_size_angstrom)).astype(np.int64).T
        rows, columns = self.excluded.shape
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
        result = np.ones(len(positions), dtype=bool)
        result[inside] = self.excluded[y[inside], x[inside]]
        return result

    def united(self, other: "MicrographMask") -> "MicrographMask":
        """Return the mask that excludes what either excludes.

        Raises
        ------
        InconsistentDataError
            The masks are of different micrographs, shapes or pixel sizes.
        """
        if (self.micrograph_name, self.excluded.shape) != (other.micrograph_name, other.excluded.shape) or not (
            np.isclose(self.pixel_size_angstrom, other.pixel_size_angstrom, rtol=1e-6)
        ):
            raise InconsistentDataError(
                "Masks that are united must belong to one micrograph and have one shape and pixel size; got "
                f"{self.micrograph_name} {self.excluded.shape} {self.pixel_size_angstrom} Å and "
                f"{other.micrograph_name} {other.excluded.shape} {other.pixel_size_angstrom} Å; "
                "make both from one reduced micrograph."
            )
        reasons = dict.fromkeys(part for mask in (self, other) for part in mask.reason.split(", ") if part)
        return MicrographMask(
            micrograph_name=self.micrograph_name,
            excluded=self.excluded | other.excluded,
            pixel_size_angstrom=self.pixel_size_angstrom,
            reason=", ".join(reasons),
        )
