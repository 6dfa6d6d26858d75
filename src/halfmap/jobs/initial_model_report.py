"""What the page of an initial model shows, after any of its mini-batches and at the end."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from halfmap.jobs.volume_report import central_slices
from halfmap.refinement.initial_model.result import InitialModel
from halfmap.report.blocks import Axis, Block, Curve, Fact, Facts, Histogram, Line, Mark, Note, Report, Section

_TILE_PIXEL = 138  # six stand side by side beside the page's list of sections
_BINS = 25


def initial_model_report(
    model: InitialModel, *, n_iterations: int, warnings: Sequence[str] = (), n_set_aside: int = 0
) -> Report:
    """Return the page of an initial model.

    Parameters
    ----------
    model : as it is; while it is not final, the page shows what there is.
    n_iterations : mini-batches asked for.
    warnings : sentences to be read first.
    n_set_aside : number of particles that could not be used.
    """
    done = len(model.history)
    progress = "" if model.is_final else f"mini-batch {done} of {n_iterations}"
    many = "" if len(model.volumes) == 1 else f" in {len(model.volumes)} classes"
    begin = f"{len(model.particles)} particles{many}, with {model.symmetry} symmetry imposed"
    if model.symmetry == "C1":
        begin = f"{len(model.particles)} particles{many}, without symmetry"
    page = [
        Section(title="Worth a look", blocks=tuple(Note(text=text, level="warning") for text in warnings)),
        Section(title="Maps", blocks=tuple(_maps(model))),
        Section(title="Course", blocks=tuple(_course(model))),
        Section(title="Particles", blocks=tuple(_particles(model))),
    ]
    return Report(
        title="Initial model",
        summary=f"{begin}, after {progress}." if progress else f"{begin}.",
        status=progress,
        level="warning" if warnings else ("good" if model.is_final else "plain"),
        facts=Facts(facts=_facts(model, n_set_aside)),
        sections=tuple(section for section in page if section.blocks),
    )


def _facts(model: InitialModel, n_set_aside: int) -> list[Fact]:
    correlation = float(model.symmetry_correlation[0])
    grid = model.volumes[0].grid
    facts = [
        Fact(
            label="Details of the model",
            value=float(f"{model.resolution_angstrom:.3g}"),
            unit="Å",
            note="what it was made to hold; no resolution",
        ),
        Fact(label="Particles", value=len(model.particles), note=f"{n_set_aside} set aside" if n_set_aside else ""),
        Fact(label="Symmetry", value=model.symmetry),
        Fact(label="Mini-batches", value=len(model.history)),
        Fact(label="Box", value=grid.side, unit="px", note=f"of {grid.pixel_size_angstrom:.5g} Å each"),
    ]
    if math.isfinite(correlation):
        facts.append(
            Fact(
                label="Symmetry of the map",
                value=float(f"{correlation:.3f}"),
                note="correlation with its symmetrised self, when its axes were found",
            )
        )
    return facts


def _maps(model: InitialModel) -> list[Block]:
    blocks: list[Block] = [
        Note(text="The hand of the map is not known: images cannot tell it. Compare with a model, or look at helices.")
    ]
    for number, (volume, share) in enumerate(zip(model.volumes, model.fractions.tolist(), strict=True), start=1):
        title = "Map" if len(model.volumes) == 1 else f"Class {number}, {100 * share:.0f} % of the particles"
        blocks.append(replace(central_slices(volume, title), tile_pixel=_TILE_PIXEL))
    return blocks


def _course(model: InitialModel) -> list[Block]:
    history = model.history
    if len(history) == 0:
        return []
    x = np.asarray(history["iteration"])
    axis = Axis(label="mini-batch")
    imposed = np.flatnonzero(np.diff(np.asarray(history["has_symmetry"]), prepend=history["has_symmetry"][0]) > 0)
    marks = [Mark(value=float(x[i]), label="symmetry imposed") for i in imposed]
    agreement = np.asarray(history["agreement_angstrom"], dtype=np.float64)
    return [
        Curve(
            title="Details",
            lines=[
                Line(label="compared with images", x=x, y=history["resolution_angstrom"], style="steps"),
                Line(label="pseudo-halves agree to", x=x, y=np.where(np.isfinite(agreement), agreement, np.nan)),
            ],
            x=axis,
            y=Axis(label="detail", unit="Å", limits=(0.0, None)),
            marks=marks,
            caption="Pseudo-halves are aligned to one map, so where they agree (FSC 0.5) is no resolution.",
        ),
        Curve(
            title="How sure poses are",
            lines=[Line(label="", x=x, y=history["mean_max_probability"])],
            x=axis,
            y=Axis(label="mean Pmax", limits=(0.0, 1.0)),
            marks=marks,
        ),
        Curve(
            title="Particles of each mini-batch",
            lines=[Line(label="", x=x, y=history["n_particles"], style="steps")],
            x=axis,
            y=Axis(label="particles", limits=(0.0, None)),
        ),
    ]


def _particles(model: InitialModel) -> list[Block]:
    if not model.is_final:
        return []
    particles = model.particles
    offsets = np.linalg.norm(particles["origin_angstrom"], axis=1)
    return [
        Histogram.of(
            {"": particles["max_probability"]},
            title="Highest probability of each particle",
            x=Axis(label="Pmax, of one pose", limits=(0, 1)),
            bins=_BINS,
        ),
        Histogram.of(
            {"": offsets},
            title="Distance from the middle of the box",
            x=Axis(label="distance", unit="Å", limits=(0.0, None)),
            bins=_BINS,
        ),
    ]
