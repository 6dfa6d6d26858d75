"""``halfmap pick compare``: lists of picks held against one another, or against the truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from halfmap.errors import InputError
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.data.picks import Picks
    from halfmap.jobs.micrograph_inputs import OpenedMicrographs
    from halfmap.picking.comparison import Positions


@dataclass(frozen=True, kw_only=True)
class PickCompareParams:
    """Inputs and settings of ``halfmap pick compare``."""

    picks: tuple[Path, ...]
    """Lists of picks: autopick.star, the folder of a picking job or of coordinate files, or a table of particles.
    Without --truth the first is what the others are held against."""

    truth: Path | None = None
    """Positions known to be right, in any of these forms."""

    diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the particles. Two positions are one particle within a quarter of it."""

    micrographs: Path | None = None
    """STAR file of the micrographs. Default: those that the first list names."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their table, else of the first one's header."""

    edge_distance_angstrom: Annotated[float, Ge(0)] = 0.0
    """Leave out, in all lists, what lies nearer than this to the edge of its micrograph."""

    pictures: Annotated[int, Ge(0)] = 6
    """Micrographs shown with what agrees and what does not, evenly spaced."""

    def __post_init__(self) -> None:
        if len(self.picks) < (1 if self.truth is not None else 2):
            raise InputError("pick compare must have two lists of picks, or one and --truth; got one; give another.")


def run(context: JobContext, params: PickCompareParams) -> Path:
    """Compare, and return the path of ``comparison.star``."""
    from halfmap.jobs.pick_compare_report import Compared, page, table
    from halfmap.jobs.pick_lists import open_picked_micrographs, picks_by_micrograph
    from halfmap.picking.comparison import compare

    paths = params.picks if params.truth is None else (*params.picks, params.truth)
    opened = open_picked_micrographs(context, paths, params.micrographs, params.pixel_size_angstrom)
    lists = [picks_by_micrograph(context, path, opened) for path in paths]
    shared = [i for i in range(len(opened.names)) if all(found[i] is not None for found in lists)]
    if not shared:
        raise InputError("The lists must have searched at least one common micrograph; got none; compare other lists.")
    if left_out := len(opened.names) - len(shared):
        context.progress.message(f"{left_out} micrographs are not in all lists; they are left out.")
    positions = [[_positions(found[i], opened, i, params.edge_distance_angstrom) for i in shared] for found in lists]
    names = [context.relative(path) for path in paths]
    right = len(paths) - 1 if params.truth is not None else 0
    compared = [
        Compared(
            name=names[k],
            picked=positions[k],
            result=compare(positions[k], positions[right], distance_angstrom=params.diameter_angstrom / 4),
        )
        for k in range(len(paths))
        if k != right
    ]
    for one in compared:
        total = one.result.total
        context.progress.message(
            f"{one.name}: precision {total.precision:.3f}, recall {total.recall:.3f}, F1 {total.f1:.3f} against "
            f"{names[right]}."
        )
    context.report(
        page(
            compared,
            right=(names[right], positions[right]),
            is_truth=params.truth is not None,
            micrographs=[(opened.names[i], opened.paths[i], float(opened.pixel_size_angstrom[i])) for i in shared],
            diameter_angstrom=params.diameter_angstrom,
            n_pictures=params.pictures,
        )
    )
    return table(context, compared, names[right], [opened.names[i] for i in shared])


def _positions(picks: "Picks | None", opened: "OpenedMicrographs", index: int, edge_angstrom: float) -> "Positions":
    """Return the picks of one micrograph in Å, without those near its edge."""
    import numpy as np

    from halfmap.picking.comparison import Positions

    assert picks is not None
    size = float(opened.pixel_size_angstrom[index])
    position = picks.position_pixel * size
    last = (np.array(opened.shapes[index][::-1]) - 1) * size
    inside = ((position >= edge_angstrom) & (position <= last - edge_angstrom)).all(axis=1) | (edge_angstrom == 0)
    return Positions(position_angstrom=position[inside], figure_of_merit=picks.figure_of_merit[inside])


JOB = JobType(
    command="pick compare",
    folder="AutoPick",
    parameters=PickCompareParams,
    run=run,
    summary="Hold lists of picks against one another, or against the truth",
    inputs=("picks", "truth", "micrographs"),
)
