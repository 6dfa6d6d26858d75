"""What the page of the demonstration shows of the CTF and the motion that were found, against the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.data.image_series import FrameSeries
from halfmap.data.micrographs import MicrographSet
from halfmap.imaging.deformation import movement
from halfmap.io import relion
from halfmap.io.warp_series import SeriesSizes, read_series
from halfmap.report.blocks import Axis, Curve, Line, Section, Table

_PLACES = 5


@dataclass(frozen=True, kw_only=True)
class CtfAgainstTruth:
    """The defocus of micrographs, found and true.

    Parameters
    ----------
    names : of the micrographs whose CTF was found.
    found, true : U, V in Å and the angle of U in degrees, float64, shape (n, 3).
    max_resolution_angstrom : to which rings are seen, float64, shape (n,).
    n_lost : micrographs without rings.
    """

    names: tuple[str, ...]
    found: NDArray[np.float64]
    true: NDArray[np.float64]
    max_resolution_angstrom: NDArray[np.float64]
    n_lost: int

    @property
    def error_angstrom(self) -> NDArray[np.float64]:
        """Mean defocus found less the true one, shape (n,)."""
        error: NDArray[np.float64] = (self.found - self.true)[:, :2].mean(axis=1)
        return error


@dataclass(frozen=True, kw_only=True, eq=False)
class MotionAgainstTruth:
    """The motion of movies, found and true, less what is constant at a place.

    Parameters
    ----------
    names : of the movies.
    found, true : float64, shape (n, places, frames, 2), in Å.
    """

    names: tuple[str, ...]
    found: NDArray[np.float64]
    true: NDArray[np.float64]

    @property
    def left_angstrom(self) -> NDArray[np.float64]:
        """Root mean square of what is left, shape (n,)."""
        left: NDArray[np.float64] = np.sqrt(((self.found - self.true) ** 2).mean(axis=(1, 2, 3)))
        return left

    @property
    def before_angstrom(self) -> NDArray[np.float64]:
        """Root mean square of the motion, shape (n,)."""
        before: NDArray[np.float64] = np.sqrt((self.true**2).mean(axis=(1, 2, 3)))
        return before


def ctf_against_truth(found: Path, truth: Path) -> CtfAgainstTruth:
    """Compare two tables of micrographs."""
    estimated, true = relion.read_micrographs(found), relion.read_micrographs(truth)
    rows = {str(name): row for row, name in enumerate(true["micrograph_name"])}
    names = tuple(str(name) for name in estimated["micrograph_name"])
    return CtfAgainstTruth(
        names=names,
        found=_lenses(estimated),
        true=_lenses(true)[[rows[name] for name in names]],
        max_resolution_angstrom=estimated["ctf_max_resolution_angstrom"],
        n_lost=len(true) - len(names),
    )


def motion_against_truth(corrected: Path, truth: Path, dose_per_frame_e_per_angstrom2: float) -> MotionAgainstTruth:
    """Compare the items of Warp that motion correction left with those of the same names in another folder."""
    side = np.linspace(0.05, 0.95, _PLACES)
    places = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    names, motions = [], []
    for path in sorted(corrected.rglob("*.xml")):
        found = read_series(path)
        sizes = SeriesSizes(n_frames=len(found), dose_per_frame_e_per_angstrom2=dose_per_frame_e_per_angstrom2)
        true = read_series(truth / path.name, sizes)
        assert isinstance(found, FrameSeries)
        assert isinstance(true, FrameSeries)
        where = torch.from_numpy(places * np.array(true.image_size_angstrom))[:, None].expand(-1, len(true), -1)
        both = torch.stack([movement(series, where) for series in (found, true)])
        motions.append((both - both.mean(2, keepdim=True)).numpy())
        names.append(path.stem)
    together = np.stack(motions)
    return MotionAgainstTruth(names=tuple(names), found=together[:, 0], true=together[:, 1])


def section(ctf: CtfAgainstTruth, motion: MotionAgainstTruth) -> Section:
    """Return what the page shows of both."""
    return Section(
        title="Motion and CTF",
        intro="Movies with drift, local motion, gain and radiation damage were corrected; the CTF of all "
        "micrographs was found from their power spectra. Nothing of the truth was used.",
        blocks=(_trajectory(motion), _motion_table(motion), _ctf_table(ctf)),
    )


def _trajectory(motion: MotionAgainstTruth) -> Curve:
    middle = _PLACES * _PLACES // 2
    found, true = motion.found[0, middle], motion.true[0, middle]
    lines = [
        Line(label="found", x=found[:, 0], y=found[:, 1]),
        Line(label="true", x=true[:, 0], y=true[:, 1], style="dashed"),
    ]
    return Curve(
        title=f"Motion in the middle of {motion.names[0]}",
        lines=lines,
        x=Axis(label="x", unit="Å"),
        y=Axis(label="y", unit="Å"),
    )


def _motion_table(motion: MotionAgainstTruth) -> Table:
    rows = [
        (name, round(float(before), 2), round(float(left), 2))
        for name, before, left in zip(motion.names, motion.before_angstrom, motion.left_angstrom, strict=True)
    ]
    return Table(
        title="Motion against the truth",
        columns=("movie", "motion, rms (Å)", "left, rms (Å)"),
        rows=rows,
        caption="Over all frames and 25 places, without what is constant at a place.",
    )


def _ctf_table(ctf: CtfAgainstTruth) -> Table:
    rows = [
        (
            Path(name).stem,
            round(float(true[:2].mean())),
            round(float(error)),
            round(float(true[0] - true[1])),
            round(float(found[0] - found[1])),
            round(float(resolution), 1),
        )
        for name, found, true, error, resolution in zip(
            ctf.names, ctf.found, ctf.true, ctf.error_angstrom, ctf.max_resolution_angstrom, strict=True
        )
    ]
    return Table(
        title="Defocus against the truth",
        columns=(
            "micrograph",
            "true defocus (Å)",
            "found less true (Å)",
            "true astigmatism (Å)",
            "found (Å)",
            "rings to (Å)",
        ),
        rows=rows,
    )


def _lenses(micrographs: MicrographSet) -> NDArray[np.float64]:
    columns: Sequence[str] = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees")
    return np.stack([np.asarray(micrographs[name], dtype=np.float64) for name in columns], axis=1)
