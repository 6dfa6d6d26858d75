"""The page of ``halfmap refine-template``: scores before and after, and what has changed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from halfmap.geometry.rotations import matrix_from_euler, rotation_vector_from_matrix
from halfmap.io.leopard import LeopardColumns
from halfmap.jobs.per_micrograph import Rejected
from halfmap.report.blocks import Axis, Block, Fact, Facts, Histogram, Note, Report, Scatter, Section, Table
from halfmap.template_matching.params import RefineTemplateParams

if TYPE_CHECKING:
    from halfmap.template_matching.refine import Refined

ROWS_SHOWN = 2000
"""Particles in the table of the page, the best first."""


def page(
    before: LeopardColumns,
    after: LeopardColumns,
    refined: "Refined",
    rows: NDArray[np.int64],
    rejected: Mapping[int, Rejected],
    params: RefineTemplateParams,
    warnings: Sequence[str],
) -> Report:
    """Return the page.

    Parameters
    ----------
    before, after : the table read and the table written.
    refined, rows : what was found, and of which rows.
    rejected : reason of each row set aside.
    params : the settings.
    warnings : sentences to be read first.
    """
    import torch

    def values(table: LeopardColumns, name: str) -> NDArray[np.float64]:
        return table.best(name, f"refined_{name}")[rows]

    turns = [
        matrix_from_euler(*(torch.from_numpy(values(table, name)) for name in ("phi", "theta", "psi")))
        for table in (before, after)
    ]
    vector = np.rad2deg(rotation_vector_from_matrix(turns[1] @ turns[0].mT).numpy())
    moved = np.stack([values(after, f"pos_{a}_img") - values(before, f"pos_{a}_img") for a in "xy"], axis=-1)
    defocus = values(after, "relative_defocus") - values(before, "relative_defocus")
    start, z, mip = refined.start_z.numpy(), refined.z.numpy(), refined.mip.numpy()
    angle, tilt = np.linalg.norm(vector, axis=-1), np.linalg.norm(vector[:, :2], axis=-1)
    known_start = bool(np.isfinite(start).all())
    facts = [Fact(label="particles", value=len(rows)), Fact(label="mean z", value=round(float(z.mean()), 2))]
    if known_start:
        facts.append(Fact(label="gain in z", value=round(float((z - start).mean()), 2), note="mean, from the start"))
    facts += [
        Fact(label="turned by", value=round(float(np.median(angle)), 2), unit="°", note="median"),
        Fact(label="moved by", value=round(float(np.median(np.linalg.norm(moved, axis=-1))), 2), unit="px",
             note="median"),
        Fact(label="defocus changed by", value=round(float(np.median(np.abs(defocus)))), unit="Å", note="median"),
    ]  # fmt: skip
    if rejected:
        facts.append(Fact(label="set aside", value=len(rejected), level="warning"))
    sections = [Section(title="What to know", blocks=tuple(Note(text=text, level="warning") for text in warnings))]
    scores: list[Block] = []
    if known_start:
        scores.append(
            Scatter(
                title="Scores before and after",
                points=np.stack([start, z], axis=-1),
                x=Axis(label="z before"),
                y=Axis(label="z after"),
                colours=angle,
                colour=Axis(label="turned by", unit="°"),
                equal=True,
                caption="Before: at the pose, position and defocus of the table, by the same score.",
            )
        )
    scores.append(Histogram.of(z, title="Scores after", x=Axis(label="z")))
    sections.append(Section(title="Scores", blocks=tuple(scores)))
    sections.append(
        Section(
            title="What has changed",
            blocks=(
                Histogram.of({"tilt": tilt, "in the plane": np.abs(vector[:, 2])}, title="Turns",
                             x=Axis(label="turned by", unit="°")),
                Histogram.of(defocus, title="Defocus", x=Axis(label="change", unit="Å")),
                Scatter(title="Positions", points=moved, x=Axis(label="moved along x", unit="px"),
                        y=Axis(label="moved along y", unit="px"), colours=z, colour=Axis(label="z after"), equal=True),
            ),
        )
    )  # fmt: skip
    if params.polish and params.compat == "none":
        sections.append(_uncertainties(refined))
    sections.append(_table(after, rows, refined, start, angle, moved, defocus))
    if rejected:
        sections.append(
            Section(
                title="Set aside",
                blocks=(
                    Table(
                        columns=("line of the table", "reason"),
                        rows=[(row + 2, one.reason) for row, one in sorted(rejected.items())],
                    ),
                ),
                intro="These particles keep their rows, with what was known of them before.",
            )
        )
    return Report(
        title="Template refinement",
        facts=Facts(facts=facts),
        sections=tuple(section for section in sections if section.blocks),
        summary=f"Mean score {mip.mean():.2f} in standard deviations of white noise, z {z.mean():.2f}.",
    )


def _uncertainties(refined: "Refined") -> Section:
    errors = refined.uncertainty.numpy()
    return Section(
        title="Uncertainties",
        blocks=(
            Histogram.of({"x": errors[:, 0], "y": errors[:, 1]}, title="Position", x=Axis(label="σ", unit="Å")),
            Histogram.of(
                {"tilts": errors[:, 3:5].ravel(), "in the plane": errors[:, 5]},
                title="Angles",
                x=Axis(label="σ", unit="°"),
            ),
            Histogram.of(errors[:, 2], title="Defocus", x=Axis(label="σ", unit="Å")),
        ),
        intro="Standard deviations that the noise alone causes: the Cramér–Rao bound where each particle was found. A "
        "template that differs from the particle adds to them.",
    )


def _table(
    after: LeopardColumns,
    rows: NDArray[np.int64],
    refined: "Refined",
    start: NDArray[np.float64],
    angle: NDArray[np.float64],
    moved: NDArray[np.float64],
    defocus: NDArray[np.float64],
) -> Section:
    z, mip = refined.z.numpy(), refined.mip.numpy()
    best = np.argsort(-z, kind="stable")[:ROWS_SHOWN]
    names = after.columns["micrograph_path"]
    cells = [
        (
            int(rows[i]) + 2,
            str(names[rows[i]]).rsplit("/", 1)[-1],
            round(float(z[i]), 2),
            round(float(start[i]), 2) if np.isfinite(start[i]) else None,
            round(float(mip[i]), 2),
            round(float(angle[i]), 2),
            round(float(np.hypot(*moved[i])), 2),
            round(float(defocus[i])),
        )
        for i in best.tolist()
    ]
    caption = "" if len(rows) <= ROWS_SHOWN else f"The best {ROWS_SHOWN} of {len(rows)}; all are in particles.csv."
    return Section(
        title="Particles",
        blocks=(
            Table(
                columns=("line", "micrograph", "z", "z before", "score", "turned (°)", "moved (px)", "defocus (Å)"),
                rows=cells,
                caption=caption,
            ),
        ),
    )
