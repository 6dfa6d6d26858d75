"""``halfmap extract``: particle images cut out of micrographs, or cut out again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfmap.errors import InconsistentDataError, InputError
from halfmap.extraction.params import ExtractParams
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    import numpy as np

    from halfmap.data.particles import ParticleSet
    from halfmap.jobs.extract_micrograph import ExtractedMicrograph
    from halfmap.jobs.per_micrograph import Rejected
    from halfmap.report.blocks import Report


SAMPLED_IMAGES = 400
"""Written images that the page looks at again to show that their background is as it should be."""


@dataclass(frozen=True, kw_only=True)
class ExtractJobParams(ExtractParams):
    """Inputs and settings of ``halfmap extract``."""

    micrographs: Path | None = None
    """STAR file of the micrographs with their CTF."""

    picks: Path | None = None
    """Picks: autopick.star, one STAR file with micrograph names, or a folder of coordinate files."""

    reextract: Path | None = None
    """Particles to extract again, with their refined offsets, instead of picks."""

    recenter_angstrom: tuple[float, float, float] | None = None
    """When extracting again, move this point of the reference (x,y,z from its centre) to the centre of the window."""

    reset_offsets: bool = False
    """When extracting again, set the offsets to zero and leave the coordinates."""

    micrograph_ctf: bool = False
    """When extracting again, take the CTF and optics from the micrographs instead of the particles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.picks is None) == (self.reextract is None):
            given = "neither" if self.picks is None else "both"
            raise InputError(f"extract must have one of --picks and --reextract; got {given}; give one.")
        if self.picks is not None and self.micrographs is None:
            raise InputError("extract --picks must know the micrographs; got none; add --micrographs FILE.star.")
        if self.reextract is None and (self.recenter_angstrom is not None or self.reset_offsets or self.micrograph_ctf):
            raise InputError(
                "--recenter, --reset-offsets and --micrograph-ctf must go with --reextract; got picks; leave them out."
            )
        if self.recenter_angstrom is not None and self.reset_offsets:
            raise InputError("--recenter must not go with --reset-offsets; got both; choose one.")
        if self.micrograph_ctf and self.micrographs is None:
            raise InputError("--micrograph-ctf must know the micrographs; got none; add --micrographs FILE.star.")


def run(context: JobContext, params: ExtractJobParams) -> Path:
    """Extract, and return the path of ``particles.star``.

    Raises
    ------
    InconsistentDataError
        No particle lies in a micrograph, or the inputs do not fit together.
    """
    from halfmap.io import relion
    from halfmap.jobs import extract_inputs
    from halfmap.jobs.per_micrograph import Rejected, check_rejections, forget_states, resumable_map

    wanted = extract_inputs.gather(context, params)
    particles, rejected = wanted.particles, list(wanted.rejected)
    for line in wanted.said:
        context.progress.message(line)
    if params.premultiply_ctf or params.phase_flip:
        extract_inputs.check_ctf_is_known(params, particles)
    from halfmap.jobs import extract_micrograph  # loads torch, which wrong tables are told without

    tasks = extract_micrograph.tasks(context, params, wanted)
    extract_micrograph.check_disk(context.folder, tasks)
    largest = max(task.memory_bytes for task in tasks)
    context.expect_memory(largest, "one micrograph and its windows", n_tasks=len(tasks))
    done: list[tuple[str, ExtractedMicrograph]] = []
    keep, names, reasons = [], [], []
    results = resumable_map(
        context,
        extract_micrograph.extract_micrograph,
        tasks,
        names=[task.name for task in tasks],
        result_type=extract_micrograph.ExtractedMicrograph,
        label="Extracting",
        is_whole=extract_micrograph.stack_is_whole,
    )
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, Rejected):
            rejected.append(result)
            continue
        done.append((task.name, result))
        stack = context.relative(task.stack)
        number = 0
        for row, reason in zip(task.rows, result.reason, strict=True):
            if reason:
                reasons.append((int(row), str(reason)))
            else:
                number += 1
                keep.append(int(row))
                names.append(f"{number:06d}@{stack}")
    # Particles that are extracted again keep the order of their table.
    order = sorted(range(len(keep)), key=keep.__getitem__)
    keep, names = [keep[i] for i in order], [names[i] for i in order]
    if not keep:
        raise InconsistentDataError(
            f"At least one particle must lie in a micrograph; got {len(reasons)} that do not, the first "
            f"{_first_lost(particles, reasons)}; check coordinates and pixel sizes."
        )
    dropped = [Rejected(name=str(particles["micrograph_name"][row]), reason=reason) for row, reason in reasons]
    constant = [one for one in dropped if one.reason.startswith("background")]
    check_rejections(constant, len(particles), "particles")
    extracted = _table(params, particles, keep, names)
    output = context.folder / "particles.star"
    relion.write_particles(output, extracted)
    listed = extract_inputs.write_rejected(context, particles, reasons, rejected)
    context.progress.message(
        f"Extracted {len(extracted)} particles from {len(done)} micrographs; set aside {len(reasons)} particles and "
        f"{len(rejected)} micrographs" + (f", listed with their reasons in {listed}." if listed else ".")
    )
    context.report(_page(context, params, extracted, done, reasons, rejected))
    forget_states(context)
    return output


def _first_lost(particles: "ParticleSet", reasons: "Sequence[tuple[int, str]]") -> str:
    if not reasons:
        return "because its micrograph could not be read"
    row, reason = reasons[0]
    x, y = particles["position_pixel"][row]
    return f"at x={x:g}, y={y:g} px of {particles['micrograph_name'][row]} because its {reason}"


def _table(params: ExtractJobParams, particles: "ParticleSet", keep: list[int], names: list[str]) -> "ParticleSet":
    """Return the table of what was written, its optics describing the new images."""
    from dataclasses import replace

    import numpy as np

    extracted = particles.take(np.array(keep, dtype=np.int64)).with_columns(image_name=np.array(names, dtype=object))
    optics = extracted.optics
    sizes = [params.image_pixel_size_angstrom(size) for size in optics["micrograph_pixel_size_angstrom"]]
    optics = optics.with_columns(
        pixel_size_angstrom=np.array(sizes),
        image_size_pixel=params.image_side,
        image_dimensionality=2,
        ctf_premultiplied=params.premultiply_ctf,
    )
    return replace(extracted, optics=optics).without_unused_optics()


def _page(
    context: JobContext,
    params: ExtractJobParams,
    extracted: "ParticleSet",
    counts: "Sequence[tuple[str, ExtractedMicrograph]]",
    reasons: "Sequence[tuple[int, str]]",
    rejected: "Sequence[Rejected]",
) -> "Report":
    """Return the job's page."""
    from collections import Counter
    from functools import partial

    import numpy as np

    from halfmap.jobs import stack_report
    from halfmap.report.blocks import Axis, Facts, Histogram, Note, Report, Section, Table

    names = extracted["image_name"]
    shown = np.unique(np.linspace(0, len(names) - 1, SAMPLED_IMAGES).astype(np.int64))
    of_group = extracted.optics_values("micrograph_pixel_size_angstrom")[shown]
    radius = np.array([params.background_radius_pixel(size) for size in of_group.tolist()])
    tasks = stack_report.chunks(names[shown], radius, 200)
    parts = list(context.executor.map(partial(stack_report.measure, context.project), tasks))
    deviations = np.concatenate([one.background_deviation for _, one in counts])
    sizes = extracted.optics["pixel_size_angstrom"].tolist()
    blocks: list[Any] = [
        Table(
            title="Particles of each micrograph",
            columns=("micrograph", "extracted", "set aside", "background deviation before"),
            rows=[
                (name, one.n_kept, len(one.reason) - one.n_kept, _median(one.background_deviation))
                for name, one in counts
            ],
        )
    ]
    if reasons or rejected:
        why = Counter(reason for _, reason in reasons)
        text = [f"{n} particles: {reason}." for reason, n in why.most_common()]
        text += [f"{one.name}: {one.reason}." for one in rejected]
        blocks.insert(0, Note(text="\n\n".join(["Set aside, listed in rejected.star:", *text]), level="warning"))
    return Report(
        title="Extraction",
        summary=f"{len(extracted)} particles from {len(counts)} micrographs.",
        facts=Facts(
            facts=(
                ("particles", len(extracted)),
                ("micrographs", len(counts)),
                ("set aside", len(reasons)),
                ("box", params.image_side, "px"),
                ("pixel size", ", ".join(f"{one:.5g}" for one in dict.fromkeys(sizes)), "Å"),
            )
        ),
        sections=(
            stack_report.pictures(context.project, names, np.sum([one.total for _, one in counts], axis=0)),
            stack_report.background(
                np.concatenate([part.mean for part in parts]), np.concatenate([part.deviation for part in parts])
            ),
            Section(
                title="Micrographs",
                blocks=(
                    Histogram.of(
                        deviations,
                        title="Background deviation before normalising",
                        x=Axis(label="standard deviation", unit="grey values"),
                        caption="A second hump or a tail: carbon, ice, or micrographs of another kind.",
                    ),
                    *blocks,
                ),
            ),
        ),
    )


def _median(values: "np.ndarray") -> float | None:
    import numpy as np

    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


JOB = JobType(
    command="extract",
    folder="Extract",
    parameters=ExtractJobParams,
    run=run,
    summary="Cut particles out of micrographs, or cut refined ones out again",
    inputs=("micrographs", "picks", "reextract"),
)
