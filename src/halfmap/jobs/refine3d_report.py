"""What the page of a 3D refinement shows, after any of its iterations and at the end."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from halfmap.data.refinement_run import RefinementRun
from halfmap.data.volumes import Volume
from halfmap.geometry.symmetry_names import order as n_equivalents
from halfmap.jobs import refine3d_figures as figures
from halfmap.jobs.postprocess_report import methods_table, methods_text, postprocess_facts, postprocess_sections
from halfmap.jobs.volume_report import central_slices
from halfmap.postprocessing.postprocess import PostprocessResult, mean_map
from halfmap.report.blocks import Block, Cell, Fact, Facts, Level, Note, Report, Section, Table
from halfmap.report.html import format_number

_TILE_PIXEL = 138  # six stand side by side beside the page's list of sections
_NEAR_NYQUIST = 1.1


def refine3d_report(
    run: RefinementRun,
    *,
    postprocessed: PostprocessResult | None = None,
    is_mask_automatic: bool = True,
    warnings: Sequence[str] = (),
    stop_reason: str = "",
    resolution_by_number: Sequence[tuple[int, float]] = (),
    n_set_aside: int = 0,
    title: str = "3D refinement",
    facts: Sequence[Fact] = (),
    sections: Sequence[Section] = (),
    methods_rows: Sequence[Sequence[Cell]] = (),
) -> Report:
    """Return the page of a 3D refinement.

    Parameters
    ----------
    run : maps and particles as they are; while it is not final, the page shows what there is.
    postprocessed : of its half maps; None before the end.
    is_mask_automatic : whether the mask of post-processing was made from the half maps.
    warnings : sentences to be read first.
    stop_reason : why the refinement ended; empty as long as it goes on.
    resolution_by_number : number of particles and the resolution that they give, in Å.
    n_set_aside : number of particles that could not be used.
    title : of the page.
    facts, sections : more tiles, and more sections before the last.
    methods_rows : more rows of what a methods section needs: name, value, unit.
    """
    found = [*warnings, *_warnings(run)]
    level = _level(postprocessed, found, is_ended=bool(stop_reason))
    progress = f"iteration {run.iteration}"
    shared = (
        _sections_of_run(run)
        if postprocessed is None
        else postprocess_sections(postprocessed, is_mask_automatic=is_mask_automatic)[:-1]
    )
    by_number = figures.number_curve(resolution_by_number)
    if by_number is not None:
        shared[0] = replace(shared[0], blocks=(*shared[0].blocks, by_number))
    if postprocessed is not None:
        shared[1] = replace(shared[1], blocks=(*shared[1].blocks, *_maps(run)))
    page = [
        Section(title="Worth a look", blocks=tuple(Note(text=text, level="warning") for text in found)),
        *shared,
        figures.view_section(run),
        figures.course_section(run),
        figures.pose_section(run),
        *sections,
        _methods(run, postprocessed, is_mask_automatic, methods_rows),
    ]
    return Report(
        title=title,
        summary=_summary(run, postprocessed, progress if not stop_reason else ""),
        status="" if stop_reason else progress,
        level=level,
        facts=Facts(facts=(*_facts(run, postprocessed, stop_reason, n_set_aside), *facts)),
        sections=tuple(section for section in page if section.blocks),
    )


def _summary(run: RefinementRun, postprocessed: PostprocessResult | None, progress: str) -> str:
    symmetry = "without symmetry" if n_equivalents(run.symmetry) == 1 else f"with symmetry {run.symmetry}"
    sizes = " and ".join(_spaced(int(np.count_nonzero(run.particles["random_subset"] == half))) for half in (1, 2))
    begin = f"{_spaced(len(run.particles))} particles in halves of {sizes}, {symmetry}"
    if postprocessed is not None:
        return f"{begin}: {postprocessed.resolution_angstrom:.2f} Å at FSC = 0.143 between the halves."
    return f"{begin}, after {progress}." if progress else f"{begin}."


def _facts(
    run: RefinementRun, postprocessed: PostprocessResult | None, stop_reason: str, n_set_aside: int
) -> list[Fact]:
    facts = [] if postprocessed is None else postprocess_facts(postprocessed)
    if postprocessed is None:
        known = math.isfinite(run.resolution_angstrom)
        facts.append(
            Fact(
                label="Resolution so far",
                value=float(f"{run.resolution_angstrom:.4g}") if known else "none",
                unit="Å" if known else "",
                note=f"FSC = {0.143 if run.is_final else 0.5:g} between the halves",
            )
        )
        facts.append(Fact(label="Nyquist", value=float(f"{2 * run.grid.pixel_size_angstrom:.4g}"), unit="Å"))
    facts += [
        Fact(
            label="Particles",
            value=len(run.particles),
            note=f"{_spaced(n_set_aside)} set aside" if n_set_aside else "",
        ),
        Fact(
            label="Symmetry",
            value=run.symmetry,
            note="" if n_equivalents(run.symmetry) == 1 else f"{n_equivalents(run.symmetry)} equivalent views",
        ),
        Fact(label="Iterations", value=run.iteration, note=stop_reason),
        Fact(
            label="Step of angles",
            value=float(f"{run.rotation_step_degrees:.3g}"),
            unit="°",
            note=_accuracy(run.rotation_accuracy_degrees, "°") + (", local search" if run.is_local else ""),
        ),
        Fact(
            label="Step of offsets",
            value=float(f"{run.offset_step_angstrom:.3g}"),
            unit="Å",
            note=_accuracy(run.offset_accuracy_angstrom, " Å"),
        ),
        Fact(
            label="Box",
            value=run.grid.side,
            unit="px",
            note=f"of {run.grid.pixel_size_angstrom:.5g} Å each",
        ),
    ]
    return facts


def _accuracy(value: float, unit: str) -> str:
    return f"accuracy {value:.3g}{unit}" if math.isfinite(value) else "accuracy not estimated"


def _level(postprocessed: PostprocessResult | None, found: Sequence[str], *, is_ended: bool) -> Level:
    levels = [] if postprocessed is None else [concern.level for concern in postprocessed.concerns]
    if "bad" in levels:
        return "bad"
    if "warning" in levels or found:
        return "warning"
    return "good" if is_ended else "plain"


def _warnings(run: RefinementRun) -> list[str]:
    views = figures.orientation_warning(run)
    found = [] if views is None else [views]
    nyquist = 2 * run.grid.pixel_size_angstrom
    if not run.is_final and run.resolution_angstrom < _NEAR_NYQUIST * nyquist:
        found.append(
            f"The half maps agree up to the Nyquist frequency, {nyquist:.3g} Å: the sampling limits the resolution. "
            "Extract the particles again with smaller pixels."
        )
    return found


def _sections_of_run(run: RefinementRun) -> list[Section]:
    """Return resolution and maps as long as there is no post-processing."""
    sections = []
    blocks: list[Block] = []
    if np.isfinite(run.fsc).any():
        blocks.append(figures.fsc_of_run(run))
    sections.append(Section(title="Resolution", blocks=tuple(blocks)))
    sections.append(Section(title="Maps", blocks=tuple(_maps(run))))
    return sections


def _maps(run: RefinementRun) -> list[Block]:
    """Return central slices and projections of what the refinement itself has made."""
    shown: dict[str, Volume] = {}
    if run.joined is not None:
        shown["Map of all particles, as refined"] = run.joined
    elif not run.is_final:
        shown["Mean of both halves, regularised"] = mean_map(*(half.map for half in run.halves))
        shown["Half 1, regularised"] = run.halves[0].map
        shown["Half 2, regularised"] = run.halves[1].map
    return [replace(central_slices(volume, title), tile_pixel=_TILE_PIXEL) for title, volume in shown.items()]


def _methods(
    run: RefinementRun,
    postprocessed: PostprocessResult | None,
    is_mask_automatic: bool,
    more: Sequence[Sequence[Cell]],
) -> Section:
    rows = [*_rows_of_run(run), *more]
    text = _methods_text(run)
    if postprocessed is not None:
        rows += methods_table(postprocessed).rows
        text += " " + methods_text(postprocessed, is_mask_automatic=is_mask_automatic)
    else:
        grid = run.grid
        rows += [["pixel size", float(f"{grid.pixel_size_angstrom:.5g}"), "Å"], ["box", grid.side, "px"]]
    # as text: in a column of numbers all would have the decimals that the largest leaves room for
    spelled = [(row[0], format_number(row[1]), *row[2:]) for row in rows]
    return Section(
        title="For the methods section",
        blocks=(Note(text=text), Table(columns=("", "value", "unit"), rows=spelled)),
    )


def _methods_text(run: RefinementRun) -> str:
    symmetry = "" if n_equivalents(run.symmetry) == 1 else f" with {run.symmetry} symmetry"
    joined = ""
    if math.isfinite(run.join_resolution_angstrom):
        joined = f", whose maps were joined up to {run.join_resolution_angstrom:g} Å after each iteration"
    return (
        f"{_spaced(len(run.particles))} particles were refined{symmetry} in two independent halves{joined}, in "
        f"{run.iteration} iterations, to steps of {run.rotation_step_degrees:.3g}° and "
        f"{run.offset_step_angstrom:.3g} Å; the estimated accuracies are "
        f"{_spelled(run.rotation_accuracy_degrees)}° and {_spelled(run.offset_accuracy_angstrom)} Å."
    )


def _rows_of_run(run: RefinementRun) -> list[Sequence[Cell]]:
    particles = run.particles
    rows: list[Sequence[Cell]] = [
        ["particles", len(particles), ""],
        ["particles of half 1", int(np.count_nonzero(particles["random_subset"] == 1)), ""],
        ["particles of half 2", int(np.count_nonzero(particles["random_subset"] == 2)), ""],
        ["micrographs", len(np.unique(particles["group_name"].astype(str))) if "group_name" in particles else None, ""],
        ["symmetry", run.symmetry, ""],
        ["mask diameter", float(run.mask_diameter_angstrom), "Å"],
        ["halves joined up to", _finite(run.join_resolution_angstrom), "Å"],
        ["iterations", run.iteration, ""],
        ["step of angles", float(f"{run.rotation_step_degrees:.4g}"), "°"],
        ["step of offsets", float(f"{run.offset_step_angstrom:.4g}"), "Å"],
        ["accuracy of rotations", _finite(run.rotation_accuracy_degrees), "°"],
        ["accuracy of offsets", _finite(run.offset_accuracy_angstrom), "Å"],
        ["deviation of offsets along an axis", _finite(run.halves[0].offset_sigma_angstrom), "Å"],
        ["regularisation T", float(run.regularisation), ""],
    ]
    for column, label, unit in (
        ("voltage_kv", "acceleration voltage", "kV"),
        ("spherical_aberration_mm", "spherical aberration", "mm"),
        ("amplitude_contrast", "amplitude contrast", ""),
    ):
        if column in particles.optics:
            values = np.unique(particles.optics[column])
            rows.append(
                [label, float(values[0]) if len(values) == 1 else ", ".join(f"{one:g}" for one in values), unit]
            )
    if "defocus_u_angstrom" in particles and "defocus_v_angstrom" in particles and len(particles):
        defocus = (particles["defocus_u_angstrom"] + particles["defocus_v_angstrom"]) / 2e4
        rows.append(["defocus", f"{defocus.min():.2f} to {defocus.max():.2f}", "µm"])
    if "max_probability" in particles and np.isfinite(particles["max_probability"]).any():
        rows.append(["mean Pmax", _finite(float(np.nanmean(particles["max_probability"]))), ""])
    return rows


def _finite(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _spelled(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _spaced(number: float) -> str:
    return f"{int(number):,}".replace(",", "\u2009")
