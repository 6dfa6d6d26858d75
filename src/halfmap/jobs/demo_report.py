"""The page of the demonstration: map, class averages, what was selected, picks and particles, against the truth."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassAverages
from halfmap.data.particles import ParticleSet
from halfmap.data.picks import Picks
from halfmap.data.volumes import Volume
from halfmap.io import mrc, relion
from halfmap.io.images import read_micrograph, shape_and_pixel_size
from halfmap.io.mrc import StackSource
from halfmap.io.relion_classes import read_class_run
from halfmap.io.relion_refinement import read_refinement_run
from halfmap.jobs import demo_ctf_report, demo_map_report, stack_report
from halfmap.jobs.demo import DOSE_PER_FRAME, MIN_FOM, DemoParams
from halfmap.jobs.demo_map_report import MapAgainstTruth
from halfmap.jobs.pick_bootstrap import BLOBS
from halfmap.picking.agreement import Agreement, agreement, matched
from halfmap.project.job import JobContext, JobResult
from halfmap.project.record import read_record
from halfmap.report.blocks import Block, Fact, Facts, Gallery, Note, Overlay, Report, Section, Table

NOTHING = "nothing"
"""Kind of a pick where the truth has nothing: ice, carbon, background."""

_KINDS = (
    ("particle", "whole, alone"),
    ("aggregate", "whole, in an aggregate"),
    ("broken", "broken"),
    (NOTHING, "ice, carbon or nothing"),
)
_JUNK = ("broken", NOTHING)
_SHOWN_SHARE = 1.05  # side of what is shown of an average, over the mask's diameter


@dataclass(frozen=True, kw_only=True)
class DemoSteps:
    """What each step of the demonstration left."""

    movies: JobResult
    corrected: JobResult
    simulated: JobResult
    ctf: JobResult
    picked: JobResult
    extracted: JobResult
    classified: JobResult
    selected: JobResult
    initial: JobResult
    refined: JobResult


def kinds(particles: ParticleSet, truth: ParticleSet, *, distance_pixel: float) -> NDArray[np.str_]:
    """Return what each particle really is.

    Parameters
    ----------
    particles, truth : with the positions in their micrographs; the truth with its column halfmapKind.
    distance_pixel : greatest distance of a particle from what it shows.

    Returns
    -------
    Text, shape (n,): ``particle``, ``aggregate`` or ``broken``, as the simulation says, or `NOTHING`.
    """
    rows = true_rows(particles, truth, distance_pixel=distance_pixel)
    return np.array([truth["halfmapKind"][row] if row >= 0 else NOTHING for row in rows], dtype=str)


def true_rows(particles: ParticleSet, truth: ParticleSet, *, distance_pixel: float) -> NDArray[np.int64]:
    """Return the row of the truth that each particle shows, int64, shape (n,); −1 for none.

    Parameters
    ----------
    particles, truth : with the positions in their micrographs.
    distance_pixel : greatest distance of a particle from what it shows.
    """
    found = np.full(len(particles), -1, dtype=np.int64)
    for name in np.unique(particles["micrograph_name"].astype(str)):
        mine = np.flatnonzero(particles["micrograph_name"] == name)
        there = np.flatnonzero(truth["micrograph_name"] == name)
        picks, items = matched(
            particles["position_pixel"][mine], truth["position_pixel"][there], distance=distance_pixel
        )
        found[mine[picks]] = there[items]
    return found


def page(context: JobContext, params: DemoParams, steps: DemoSteps) -> Report:
    """Return the page, and say in a line each how much junk the selection left and how good the map is."""
    truth = relion.read_particles(steps.simulated.folder / "ground_truth.star")
    run = read_class_run(steps.classified.folder, project=context.project)
    scored = relion.read_particles(steps.selected.main_output)
    pixel_size = float(run.particles.optics["micrograph_pixel_size_angstrom"][0])
    radius = params.diameter_angstrom / 2 / pixel_size
    kind = kinds(run.particles, truth, distance_pixel=radius / 2)
    kept = np.isin(run.particles.uid, scored.uid)
    is_junk = np.isin(kind, _JUNK)
    before, after = _percent(is_junk, np.ones_like(kept)), _percent(is_junk, kept)
    n_whole, n_lost = int((~is_junk).sum()), int((~is_junk & ~kept).sum())
    context.progress.message(
        f"Junk among the particles: {before:.1f} % before the selection, {after:.1f} % after it; "
        f"{n_lost} of {n_whole} whole particles were thrown away with it."
    )
    refined, against = _refined(context, steps, truth, radius)
    map_resolution = against.maps.halves.resolution_angstrom
    context.progress.message(
        f"Map of {len(scored)} particles: {map_resolution:.1f} Å between its halves (FSC 0.143), "
        f"{against.maps.resolution_angstrom:.1f} Å against the truth (FSC 0.5)."
    )
    motion = demo_ctf_report.motion_against_truth(
        steps.corrected.folder, steps.movies.folder / "truth/warp_frameseries", DOSE_PER_FRAME
    )
    ctf = demo_ctf_report.ctf_against_truth(steps.ctf.main_output, steps.simulated.main_output)
    worst_defocus = float(np.abs(ctf.error_angstrom).max())
    context.progress.message(
        f"Motion left in {len(motion.names)} movies: {motion.left_angstrom.mean():.2f} of "
        f"{motion.before_angstrom.mean():.2f} Å; defocus of {len(ctf.names)} micrographs found to "
        f"{worst_defocus:.0f} Å."
    )
    everything = relion.read_autopick(steps.picked.main_output, context.project)
    picks = everything.take(everything.figure_of_merit > MIN_FOM)
    found, rows = _against_truth(context, picks, truth, radius)
    blobs = relion.read_autopick(steps.picked.folder / BLOBS / "autopick.star", context.project)
    names = relion.read_particles(steps.extracted.main_output)["image_name"]
    return Report(
        title="From micrographs to a map",
        summary=(
            f"{params.number} micrographs of {params.specimen} were simulated with ice, carbon, broken particles and "
            f"all other dirt, and their CTF was found. Blobs in {len(blobs.micrographs)} of them, sorted by 2D "
            "classification, taught a network to pick them all. What it found was extracted and classified, the class "
            "ranker chose the classes to keep, and a map was made from nothing but their particles."
        ),
        facts=Facts(
            facts=(
                Fact(
                    label="resolution",
                    value=round(map_resolution, 1),
                    unit="Å",
                    note=f"FSC = 0.143 of the halves{_pixels_end(against, map_resolution)}",
                ),
                Fact(
                    label="against the truth",
                    value=round(against.maps.resolution_angstrom, 1),
                    unit="Å",
                    note=f"FSC = 0.5{_pixels_end(against, against.maps.resolution_angstrom)}",
                ),
                Fact(label="micrographs", value=params.number),
                Fact(label="defocus", value=round(worst_defocus), unit="Å", note="largest error"),
                Fact(
                    label="motion left",
                    value=round(float(motion.left_angstrom.mean()), 2),
                    unit="Å",
                    note=f"of {motion.before_angstrom.mean():.1f} Å, rms",
                ),
                Fact(
                    label="particles found",
                    value=round(100 * found.recall, 1),
                    unit="%",
                    note="whole ones that stand alone",
                ),
                Fact(label="particles kept", value=int(kept.sum()), note=f"of {len(kept)}"),
                Fact(label="junk before", value=round(before, 1), unit="%", note="of what was extracted"),
                Fact(label="junk after", value=round(after, 1), unit="%", note="of what the selection kept"),
                _best_resolution(run.averages),
            )
        ),
        sections=(
            demo_map_report.map_section(refined, map_resolution, against),
            demo_map_report.agreement_section(against),
            Section(
                title="Class averages",
                blocks=_classes(run.averages, run.mask_diameter_angstrom, run.particles["class_number"], kept, is_junk),
                intro="Each is the mean of particles that were turned and moved onto each other, nothing else given. "
                "What the particle looks like from its sides and along its axis comes out by itself, and broken ones "
                "come together in classes of their own.",
            ),
            Section(title="What was kept", blocks=(_counts(kind, kept),)),
            Section(
                title="Picks",
                blocks=(*_picks(context, everything, radius, rows), _taught(context, blobs, picks, truth, radius)),
            ),
            demo_ctf_report.section(ctf, motion),
            stack_report.pictures(context.project, names, _sum_of(context, names)),
            Section(title="Go on from here", blocks=(_steps(context, steps), _next())),
        ),
    )


def _refined(
    context: JobContext, steps: DemoSteps, truth: ParticleSet, radius: float
) -> tuple[Volume, MapAgainstTruth]:
    """Return the map of all particles, not sharpened as the truth is not, and how it compares with the truth."""
    run = read_refinement_run(steps.refined.folder, project=context.project)
    whole = np.flatnonzero(np.isin(truth["halfmapKind"], _JUNK, invert=True))
    true = truth.take(whole)
    rows = true_rows(run.particles, true, distance_pixel=radius / 2)
    reference = mrc.read_volume(steps.simulated.folder / "reference_class001.mrc")
    found = demo_map_report.against_truth(run, true, rows, reference)
    return mrc.read_volume(steps.refined.folder / "run_class001.mrc"), found


def _pixels_end(found: MapAgainstTruth, resolution_angstrom: float) -> str:
    """Return what to add where the map's pixels end before its details do."""
    return "; its pixels end there" if resolution_angstrom < 2.02 * found.truth.grid.pixel_size_angstrom else ""


def _percent(which: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return 100 * float(which[among].mean()) if among.any() else math.nan


def _best_resolution(averages: ClassAverages) -> Fact:
    resolution = averages["frc_resolution_angstrom"]
    if not np.isfinite(resolution).any():
        return Fact(label="best class", value="-", note="no FRC")
    best = int(np.nanargmin(resolution))
    return Fact(
        label="best class", value=round(float(resolution[best]), 1), unit="Å", note="FRC of halves classified apart"
    )


def _classes(
    averages: ClassAverages,
    mask_diameter_angstrom: float,
    class_number: NDArray[np.int64],
    kept: NDArray[np.bool_],
    is_junk: NDArray[np.bool_],
) -> tuple[Block, ...]:
    """Return the averages that were kept and those that were not, the largest first, with their true share of junk."""
    grid = averages.grid
    half = min(grid.side // 2, math.ceil(_SHOWN_SHARE * mask_diameter_angstrom / 2 / grid.pixel_size_angstrom))
    middle = slice(grid.side // 2 - half, grid.side // 2 + half)
    galleries = []
    for title, chosen in (("Kept", True), ("Thrown away", False)):
        images, captions = [], []
        for row in np.argsort(-averages["n_particles"], kind="stable"):
            mine = class_number == averages["class_number"][row]
            if not mine.any() or bool(kept[mine].any()) != chosen:
                continue
            resolution = averages["frc_resolution_angstrom"][row]
            images.append(averages["average"][row][middle, middle])
            captions.append(
                f"{averages['class_number'][row]}: {mine.sum()} particles, {_percent(is_junk, mine):.0f} % junk"
                + (f", {resolution:.1f} Å" if np.isfinite(resolution) else "")
            )
        if images:
            galleries.append(Gallery.of(np.stack(images), captions, title=title, percentiles=(0.5, 99.8)))
    return tuple(galleries)


def _counts(kind: NDArray[np.str_], kept: NDArray[np.bool_]) -> Table:
    rows: list[tuple[Any, ...]] = []
    for name, words in _KINDS:
        mine = kind == name
        rows.append((words, int(mine.sum()), int((mine & kept).sum()), int((mine & ~kept).sum())))
    rows.append(("all", len(kept), int(kept.sum()), int((~kept).sum())))
    return Table(
        title="Against the truth",
        columns=("what was extracted", "before", "kept", "thrown away"),
        rows=rows,
        caption="Junk is what is broken, and windows without a particle. Members of aggregates are whole particles, "
        "though too close to others for most purposes: classes tell views apart, not neighbourhoods.",
    )


def _against_truth(
    context: JobContext, picks: Picks, truth: ParticleSet, radius: float
) -> tuple[Agreement, list[tuple[Any, ...]]]:
    """Compare picks with the particles that lie wholly inside their micrographs."""
    truth = truth.take(truth["halfmapIsJunk"] == "0")
    rows: list[tuple[Any, ...]] = []
    total = Agreement(n_picked=0, n_true=0, n_matched=0)
    for name in picks.micrographs:
        height, width = shape_and_pixel_size(context.resolve(name))[0]
        true = truth["position_pixel"][truth["micrograph_name"] == name]
        mine = picks.in_micrograph(name).position_pixel
        whole = [((one >= radius) & (one < np.array([width, height]) - radius)).all(axis=1) for one in (mine, true)]
        found = agreement(mine[whole[0]], true[whole[1]], distance=radius / 2)
        rows.append((name, found.n_true, found.n_picked, 100 * found.precision, 100 * found.recall))
        total += found
    return total, rows


def _picks(context: JobContext, picks: Picks, radius: float, rows: list[tuple[Any, ...]]) -> tuple[Block, ...]:
    first = picks.micrographs[0]
    shown = picks.in_micrograph(first)
    return (
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
            "particles and aggregates too; what the edge cuts off does not count.",
        ),
    )


def _taught(context: JobContext, blobs: Picks, picks: Picks, truth: ParticleSet, radius: float) -> Table:
    """Compare the blobs that the network has learned from with its own picks in the same micrographs."""
    here = picks.take(np.isin(picks.micrograph_name, blobs.micrographs))
    rows: list[tuple[Any, ...]] = []
    for name, some in (("blobs", blobs), ("network", replace(here, micrographs=blobs.micrographs))):
        total, _ = _against_truth(context, some, truth, radius)
        rows.append((name, total.n_picked, 100 * total.precision, 100 * total.recall, 100 * total.f1))
    return Table(
        title=f"Pupil and teacher on the {len(blobs.micrographs)} micrographs that it learned from",
        columns=("picks by", "picks", "precision (%)", "recall (%)", "F1 (%)"),
        rows=rows,
    )


def _sum_of(context: JobContext, names: NDArray[Any]) -> NDArray[np.float64]:
    images = StackSource(names, context.project)
    sums = np.zeros(images.grid.shape)
    for start in range(0, len(names), 500):
        sums += images.read(np.arange(start, min(start + 500, len(names)))).sum(axis=0, dtype=np.float64)
    return sums


def _steps(context: JobContext, steps: DemoSteps) -> Table:
    folders = [getattr(steps, step.name).folder.relative_to(context.folder).as_posix() for step in fields(steps)]
    commands = [read_record(context.folder / folder)["command"] for folder in folders]
    return Table(
        title="Steps",
        columns=("step", "command"),
        rows=[(folder, f"halfmap {command}") for folder, command in zip(folders, commands, strict=True)],
        addresses=[f"{folder}/report.html" for folder in folders],
        caption="Each is a job with a page of its own, which the first column opens. In the classification's, a click "
        "on a class shows its particles and its FRC; the refinement's holds the sentence for a methods section.",
    )


def _next() -> Note:
    return Note(
        text="With your own movies: halfmap motion Movies/*.tif --gain gain.mrc --pixel-size 0.8 --dose-per-frame 1.2, "
        "then halfmap ctf MotionCorr/job001/corrected_micrographs.star. With micrographs and their CTF: halfmap pick "
        "bootstrap micrographs_ctf.star --diameter 170 --min-fom 0, then halfmap class2d AutoPick/job001 --classes 50 "
        "--mask-diameter 190, then halfmap "
        "select classes Class2D/job002 --auto, then halfmap initial-model Select/job003/particles.star --symmetry D2 "
        "--mask-diameter 190, then halfmap refine3d Select/job003/particles.star --reference InitialModel/job004 "
        "--symmetry D2 --mask-diameter 190."
    )
