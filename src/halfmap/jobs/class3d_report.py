"""What the page of a 3D classification shows, after any of its iterations and at the end."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from halfmap.data.class3d_run import Class3DRun
from halfmap.jobs.volume_report import central_slices
from halfmap.report.blocks import Axis, Block, Curve, Fact, Facts, Histogram, Line, Note, Report, Section, Table

_TILE_PIXEL = 138  # six stand side by side beside the page's list of sections
_BINS = 25


def class3d_report(
    run: Class3DRun, *, warnings: Sequence[str] = (), stop_reason: str = "", n_set_aside: int = 0
) -> Report:
    """Return the page of a 3D classification.

    Parameters
    ----------
    run : maps and particles as they are.
    warnings : sentences to be read first.
    stop_reason : why it ended; empty as long as it goes on.
    n_set_aside : number of particles that could not be used.
    """
    progress = "" if stop_reason else f"iteration {run.iteration}"
    kind = "without symmetry" if run.symmetry == "C1" else f"with {run.symmetry} symmetry"
    begin = f"{len(run.particles)} particles in {len(run.maps)} classes, {kind}"
    page = [
        Section(title="Worth a look", blocks=tuple(Note(text=text, level="warning") for text in warnings)),
        Section(title="Classes", blocks=(_classes(run), *_maps(run))),
        Section(title="Course", blocks=tuple(_course(run))),
        Section(
            title="Particles",
            blocks=(
                Histogram.of(
                    run.particles["max_probability"],
                    title="Highest probability of each particle",
                    x=Axis(label="Pmax, of one class and pose", limits=(0, 1)),
                    bins=_BINS,
                    caption="How sure particles are of class and pose, against maps that they helped to make: noise "
                    "that a class has fitted speaks for its own particles. Values near 1 do not tell that classes are "
                    "right. Classify again with another --seed, and trust what comes out twice.",
                ),
            ),
        ),
    ]
    return Report(
        title="3D classification",
        summary=f"{begin}, after {progress}." if progress else f"{begin}.",
        status=progress,
        level="warning" if warnings else ("good" if stop_reason else "plain"),
        facts=Facts(
            facts=[
                Fact(
                    label="Particles",
                    value=len(run.particles),
                    note=f"{n_set_aside} set aside" if n_set_aside else "",
                ),
                Fact(label="Classes", value=len(run.maps)),
                Fact(label="Symmetry", value=run.symmetry),
                Fact(label="Iterations", value=run.iteration, note=stop_reason),
                Fact(label="Box", value=run.grid.side, unit="px", note=f"of {run.grid.pixel_size_angstrom:.5g} Å each"),
            ]
        ),
        sections=tuple(section for section in page if section.blocks),
    )


def _classes(run: Class3DRun) -> Table:
    counts = np.bincount(run.particles["class_number"] - 1, minlength=len(run.maps))
    rows = [
        [
            str(k + 1),
            float(f"{100 * run.fractions[k]:.3g}"),
            int(counts[k]),
            float(f"{run.resolution_angstrom[k]:.4g}") if math.isfinite(run.resolution_angstrom[k]) else None,
        ]
        for k in range(len(run.maps))
    ]
    return Table(
        columns=["class", "expected share (%)", "particles assigned", "model SSNR of 1 (Å)"],
        rows=rows,
        caption="The expected share counts a particle for every class by its probability, the assigned ones for the "
        "most probable class alone. A model SSNR of 1 is where a class's own estimate of signal equals that of noise. "
        "It is no resolution, for no halves were kept apart.",
    )


def _maps(run: Class3DRun) -> list[Block]:
    order = np.argsort(-run.fractions, kind="stable").tolist()
    return [
        replace(
            central_slices(run.maps[k], f"Class {k + 1}, {100 * run.fractions[k]:.0f} % of the particles"),
            tile_pixel=_TILE_PIXEL,
        )
        for k in order
    ]


def _course(run: Class3DRun) -> list[Block]:
    history = run.history
    x = np.asarray(history["iteration"])
    axis = Axis(label="iteration")
    resolution = np.asarray(history["resolution_angstrom"], dtype=np.float64)
    curves = [
        (
            "Particles that change class",
            100 * np.asarray(history["changed_share"]),
            Axis(label="share", unit="%", limits=(0.0, None)),
        ),
        (
            "Log-likelihood a particle",
            np.asarray(history["log_likelihood"]) / max(len(run.particles), 1),
            Axis(label="log-likelihood"),
        ),
        (
            "Best class's model SSNR of 1",
            np.where(np.isfinite(resolution), resolution, np.nan),
            Axis(label="detail", unit="Å"),
        ),
    ]
    return [
        Curve(title=title, lines=[Line(label="", x=x, y=y)], x=axis, y=label)
        for title, y, label in curves
        if np.isfinite(y).any()
    ]
