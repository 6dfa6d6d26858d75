"""``halfmap pick filter``: keep picks by their figure of merit and by masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from halfmap.errors import FormatError, InputError
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    import numpy as np

    from halfmap.data.picks import Picks
    from halfmap.report.blocks import Report


@dataclass(frozen=True, kw_only=True)
class PickFilterParams:
    """Inputs and settings of ``halfmap pick filter``."""

    picks: Path
    """The picks: autopick.star, the folder of a picking job, or a STAR file that names their micrographs."""

    min_fom: float | None = None
    """Keep picks with a figure of merit above this, as `halfmap extract --min-fom` does."""

    exclude_mask: Path | None = None
    """Drop picks in what these masks exclude: masks.star of a picking job, or its folder."""

    micrographs: Path | None = None
    """STAR file of the micrographs, whose pixel size masks need. Default: those that the picks name."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their table, else of the first one's header."""

    def __post_init__(self) -> None:
        if self.min_fom is None and self.exclude_mask is None:
            raise InputError("pick filter must be told what to drop; got nothing; add --min-fom or --exclude-mask.")


def run(context: JobContext, params: PickFilterParams) -> Path:
    """Filter, and return the path of ``autopick.star``."""
    from dataclasses import replace

    import numpy as np

    from halfmap.io.relion_picks import read_picks, write_autopick

    picks = read_picks(params.picks, (), project_root=context.project)
    above = np.ones(len(picks), dtype=bool)
    if params.min_fom is not None:
        above = picks.figure_of_merit > params.min_fom
    outside = np.ones(len(picks), dtype=bool)
    if params.exclude_mask is not None:
        outside = ~_excluded(context, params, picks, params.exclude_mask)
    kept = replace(picks.take(above & outside), micrographs=picks.micrographs)
    context.progress.message(
        f"Kept {len(kept)} of {len(picks)} picks: {(~above).sum()} are not above the least figure of merit, "
        f"{(above & ~outside).sum()} of the others lie in masks."
    )
    if not len(kept):
        context.progress.message("No pick is left; every micrograph has an empty coordinate file.")
    context.report(_page(params, picks, above, outside))
    return write_autopick(context.folder, kept, project_root=context.project)


def _excluded(context: JobContext, params: PickFilterParams, picks: "Picks", given: Path) -> "np.ndarray":
    """Return which picks lie in what a mask of their micrograph excludes."""
    import numpy as np

    from halfmap.jobs.micrograph_masks import read_masks
    from halfmap.jobs.pick_lists import open_picked_micrographs

    # A job's folder arrives as its main output.
    path = given / "masks.star" if given.is_dir() else given.parent / given.name.replace("autopick", "masks")
    if not path.exists():
        raise FormatError(path, expected="a list of masks", found="no file", remedy="give masks.star of a picking job")
    masks = read_masks(path, context.project)
    opened = open_picked_micrographs(context, [params.picks], params.micrographs, params.pixel_size_angstrom)
    sizes = {
        name: float(size)
        for names in (opened.given_names, opened.names)
        for name, size in zip(names, opened.pixel_size_angstrom, strict=True)
    }
    excluded = np.zeros(len(picks), dtype=bool)
    without = []
    for name, rows in picks.by_micrograph().items():
        if name in masks and name in sizes:
            excluded[rows] = masks[name].excludes(picks.position_pixel[rows], sizes[name])
        elif len(rows):
            without.append(name)
    if len(without) == sum(len(rows) > 0 for rows in picks.by_micrograph().values()):
        raise InputError(
            f"The masks of {path} must belong to the picks' micrographs; got none for {', '.join(without[:3])}; give "
            "the masks of these micrographs."
        )
    if without:
        context.progress.message(
            f"{len(without)} micrographs have no mask; their picks stay: {', '.join(without[:3])}."
        )
    return excluded


def _page(params: PickFilterParams, picks: "Picks", above: "np.ndarray", outside: "np.ndarray") -> "Report":
    from halfmap.report.blocks import Axis, Facts, Histogram, Mark, Report, Section, Table

    kept = above & outside
    histogram = Histogram.of(
        {"kept": picks.figure_of_merit[kept], "dropped": picks.figure_of_merit[~kept]},
        title="Figure of merit",
        x=Axis(label="figure of merit"),
        marks=() if params.min_fom is None else (Mark(value=params.min_fom, label="--min-fom"),),
    )
    rows = [
        (name, int(kept[found].sum()), int((~above[found]).sum()), int((above & ~outside)[found].sum()))
        for name, found in picks.by_micrograph().items()
    ]
    return Report(
        title="Filtered picks",
        summary=f"{kept.sum()} of {len(picks)} picks are kept.",
        facts=Facts(facts=(("kept", int(kept.sum())), ("dropped", int((~kept).sum())))),
        sections=(
            Section(title="Distribution", blocks=(histogram,)),
            Section(
                title="Each micrograph",
                blocks=(Table(columns=("micrograph", "kept", "figure of merit too low", "in a mask"), rows=rows),),
            ),
        ),
    )


JOB = JobType(
    command="pick filter",
    folder="AutoPick",
    parameters=PickFilterParams,
    run=run,
    summary="Keep picks by their figure of merit, and outside masks",
    inputs=("picks", "exclude_mask", "micrographs"),
)
