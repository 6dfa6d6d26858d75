"""``halfmap demo``: the main job from nothing, on micrographs that the package makes itself."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from halfmap.project.job import JobContext, JobResult, JobType

if TYPE_CHECKING:
    from halfmap.project.events import JobProgress
    from halfmap.report.blocks import Report


@dataclass(frozen=True, kw_only=True)
class DemoParams:
    """What the demonstration is made of."""

    specimen: str = "ferritin-like-o-130"
    """Built-in specimen."""

    diameter_angstrom: Annotated[float, Gt(0)] = 130.0
    """Its diameter: particles are looked for within 8 % of it."""

    number: Annotated[int, Ge(1)] = 4
    """Number of micrographs."""

    seed: int = 1
    """Seed of everything drawn at random."""


def run(context: JobContext, params: DemoParams) -> Path:
    """Simulate, pick and extract, each a job in a folder of its own, and return the page that shows all of it."""
    simulated = _step(
        context,
        "simulate micrographs",
        "Simulate",
        specimen=(params.specimen,),
        number=params.number,
        seed=params.seed,
    )
    picked = _step(
        context,
        "pick log",
        "AutoPick",
        micrographs=simulated.main_output,
        min_diameter_angstrom=round(0.92 * params.diameter_angstrom),
        max_diameter_angstrom=round(1.08 * params.diameter_angstrom),
    )
    box = 4 * round(0.375 * params.diameter_angstrom / 1.5)
    extracted = _step(
        context,
        "extract",
        "Extract",
        micrographs=simulated.main_output,
        picks=picked.main_output,
        box_pixel=box,
        rescale_pixel=box // 2,
        background_diameter=f"{1.25 * params.diameter_angstrom:g}",
    )
    return context.report(_page(context, params, simulated, picked, extracted))


def _step(context: JobContext, command: str, folder: str, **values: Any) -> JobResult:
    """Run a job inside the demo's folder, or go on with it where the demo is continued."""
    from halfmap.jobs import registry
    from halfmap.project.runner import continue_job, run_from_values

    job_type = registry.find_job(command)
    out, relay = context.folder / folder, _Relay(context.progress)
    context.progress.message(f"halfmap {command}")
    if (out / "job.json").exists():
        return continue_job(out, job_type, options=context.options, display=relay)
    return run_from_values(job_type, values, options=asdict(context.options), out=out, display=relay)


class _Relay:
    """Shows the progress of a step as the demo's own."""

    def __init__(self, progress: "JobProgress") -> None:
        self._progress = progress
        self._done = 0

    def update(self, label: str, done: int, total: int | None) -> None:
        """Show how far the step is."""
        if done == 0:
            self._progress.start(label, total)
        else:
            self._progress.advance(done - self._done)
        self._done = done

    def message(self, text: str) -> None:
        """Show a line of text."""
        self._progress.message(text)


def _page(
    context: JobContext, params: DemoParams, simulated: JobResult, picked: JobResult, extracted: JobResult
) -> "Report":
    import numpy as np

    from halfmap.io import relion
    from halfmap.io.images import read_micrograph, shape_and_pixel_size
    from halfmap.io.mrc import StackSource
    from halfmap.jobs import stack_report
    from halfmap.picking.agreement import Agreement, agreement
    from halfmap.report.blocks import Facts, Note, Overlay, Report, Section, Table

    truth = relion.read_particles(simulated.folder / "ground_truth.star")
    truth = truth.take(truth["halfmapIsJunk"] == "0")
    picks = relion.read_autopick(picked.main_output, context.project)
    particles = relion.read_particles(extracted.main_output)
    pixel_size = float(particles.optics["micrograph_pixel_size_angstrom"][0])
    rows: list[tuple[Any, ...]] = []
    total = Agreement(n_picked=0, n_true=0, n_matched=0)
    radius = params.diameter_angstrom / 2 / pixel_size
    for name in picks.micrographs:
        height, width = shape_and_pixel_size(context.resolve(name))[0]
        true = truth["position_pixel"][truth["micrograph_name"] == name]
        mine = picks.in_micrograph(name).position_pixel
        whole = [((one >= radius) & (one < np.array([width, height]) - radius)).all(axis=1) for one in (mine, true)]
        found = agreement(mine[whole[0]], true[whole[1]], distance=radius / 2)
        rows.append((name, found.n_true, found.n_picked, 100 * found.precision, 100 * found.recall))
        total += found
    first = picks.micrographs[0]
    shown = picks.in_micrograph(first)
    names = particles["image_name"]
    images = StackSource(names, context.project)
    sums = np.zeros(images.grid.shape)
    for start in range(0, len(names), 500):
        sums += images.read(np.arange(start, min(start + 500, len(names)))).sum(axis=0, dtype=np.float64)
    return Report(
        title="From micrographs to particles",
        summary=(
            f"{params.number} micrographs of {params.specimen} were simulated with ice, carbon and all other "
            f"dirt, picked with blobs of {params.diameter_angstrom:g} Å and extracted."
        ),
        facts=Facts(
            facts=(
                ("micrographs", params.number),
                ("particles", len(particles)),
                ("picks that are right", round(100 * total.precision, 1), "%"),
                ("particles found", round(100 * total.recall, 1), "%"),
            )
        ),
        sections=(
            Section(
                title="Picks",
                blocks=(
                    Overlay.of(
                        read_micrograph(context.resolve(first)),
                        shown.position_pixel,
                        radius_pixel=radius,
                        values=shown.figure_of_merit,
                        title=first,
                    ),
                    Table(
                        title="Against the truth",
                        columns=("micrograph", "particles", "picks", "precision (%)", "recall (%)"),
                        rows=rows,
                        caption="One-to-one within a quarter of the diameter. Junk and ice count as wrong, broken "
                        "particles too; what the edge cuts off does not count.",
                    ),
                ),
            ),
            stack_report.pictures(context.project, names, sums),
            Section(
                title="Go on from here",
                blocks=(
                    Note(
                        text="\n\n".join(
                            (
                                "Each step is a job with a page of its own: "
                                + ", ".join(context.relative(one.folder) for one in (simulated, picked, extracted))
                                + ".",
                                "With your own micrographs: halfmap pick log micrographs_ctf.star --min-diameter 120 "
                                "--max-diameter 140, then halfmap extract micrographs_ctf.star --picks "
                                "AutoPick/job001/autopick.star --box 192 --rescale 96.",
                            )
                        )
                    ),
                ),
            ),
        ),
    )


JOB = JobType(
    command="demo",
    folder="Demo",
    parameters=DemoParams,
    run=run,
    summary="Show the main job on micrographs that the package makes itself",
    inputs=(),
)
