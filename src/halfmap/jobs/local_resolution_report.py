"""The page of local resolution: where it is how good."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.volumes import Volume
from halfmap.jobs.postprocess_report import concern_notes
from halfmap.jobs.volume_report import central_slices
from halfmap.postprocessing.concerns import Concern
from halfmap.postprocessing.local_resolution import LocalResolution
from halfmap.report.blocks import Axis, Block, Fact, Facts, Gallery, Histogram, Mark, Note, Report, Section
from halfmap.report.figure import colour_scale
from halfmap.report.pictures import Picture, enlarge, shrink

_SIDE = 360
_BEHIND = 0.35  # brightness of what is in the mask but has no density
_RANGE = (0.02, 0.98)


def local_resolution_report(
    found: LocalResolution,
    filtered: Volume,
    mask: Volume,
    global_angstrom: float,
    b_factor_angstrom2: float,
    halves: Sequence[Path],
    concerns: Sequence[Concern],
) -> Report:
    """Return the page.

    Parameters
    ----------
    found : the local resolution.
    filtered : the map filtered by it.
    mask : of where it was measured.
    global_angstrom : resolution of the whole map within the mask.
    b_factor_angstrom2 : of the filtered map.
    halves : the two files.
    concerns : about the half maps.
    """
    points = found.point_resolution_angstrom.numpy()
    low, middle, high = np.quantile(points, [0.05, 0.5, 0.95])
    inside = found.resolution.values.numpy()[mask.values.numpy() > 0.5]
    blocks: list[Block] = [
        *concern_notes(concerns),
        coloured_slices(found.resolution, filtered, mask, limits=_limits(inside)),
        Histogram.of(
            inside,
            title="Resolution of the voxels in the mask",
            x=Axis(label="local resolution", unit="Å"),
            bins=40,
            marks=[Mark(value=global_angstrom, label="whole map")] if np.isfinite(global_angstrom) else [],
        ),
        Histogram.of(points, title="Resolution at the points", x=Axis(label="local resolution", unit="Å"), bins=40),
    ]
    if found.n_at_worst:
        blocks.append(
            Note(
                text=f"At {found.n_at_worst} of {len(points)} points the halves have nothing in common down to the "
                "worst resolution allowed: solvent in the mask, or parts that move.",
                level="warning" if found.n_at_worst > 0.1 * len(points) else "plain",
            )
        )
    if found.n_at_finest:
        blocks.append(
            Note(
                text=f"At {found.n_at_finest} of {len(points)} points the halves agree up to {points.min():.3g} Å, "
                "where the band of the refinement's last iteration ends; these may be finer than is told."
            )
        )
    return Report(
        title="Local resolution",
        summary=f"{halves[0].name} with {halves[1].name}, at {len(points)} points.",
        facts=Facts(
            facts=[
                Fact(label="Median", value=float(f"{middle:.3g}"), unit="Å"),
                Fact(label="Best 5 %", value=float(f"{low:.3g}"), unit="Å", note="or better"),
                Fact(label="Worst 5 %", value=float(f"{high:.3g}"), unit="Å", note="or worse"),
                _whole_map(global_angstrom),
                Fact(label="B-factor", value=round(b_factor_angstrom2), unit="Å²", note="of the filtered map"),
            ]
        ),
        sections=[
            Section(title="Local resolution", blocks=blocks),
            Section(title="Locally filtered map", blocks=[central_slices(filtered, "Locally filtered")]),
        ],
    )


def _whole_map(global_angstrom: float) -> Fact:
    if not np.isfinite(global_angstrom):
        return Fact(label="Whole map", value="none", note="FSC = 0.143, corrected")
    return Fact(label="Whole map", value=float(f"{global_angstrom:.3g}"), unit="Å", note="FSC = 0.143, corrected")


def coloured_slices(resolution: Volume, density: Volume, mask: Volume, *, limits: tuple[float, float]) -> Gallery:
    """Return the central slices of a map, coloured by the local resolution where the mask is.

    Parameters
    ----------
    limits : resolutions in Å that have the first and the last colour.
    """
    colours = np.array([[int(name[i : i + 2], 16) for i in (1, 3, 5)] for name in reversed(colour_scale(256))])
    volumes = [volume.values.numpy() for volume in (resolution, density, mask)]
    top = max(float(np.quantile(volumes[1], 0.999)), 1e-30)
    z, y, x = density.grid.centre
    pictures = []
    for cut in (np.s_[z], np.s_[:, y], np.s_[:, :, x]):
        where, grey, inside = (_to_size(values[cut]) for values in volumes)
        place = np.clip((where - limits[0]) / max(limits[1] - limits[0], 1e-6), 0, 1)
        colour = colours[np.round(place * 255).astype(int)]
        bright = _BEHIND * np.clip(inside, 0, 1) + (1 - _BEHIND) * np.clip(grey / top, 0, 1)
        shown = np.where(inside[..., None] > 0.5, colour, np.full_like(colour, 160)) * bright[..., None]
        pictures.append(Picture.png(np.round(shown).astype(np.uint8)))
    scale = np.tile(colours[None, :, :], (24, 1, 1)).astype(np.uint8)
    return Gallery(
        pictures=[*pictures, Picture.png(scale)],
        captions=["slice x, y", "slice x, z", "slice y, z", f"{limits[0]:.1f} Å (left) to {limits[1]:.1f} Å (right)"],
        title="Map coloured by local resolution",
        caption="Bright colours are fine, dark ones coarse; grey is outside the mask.",
        tile_pixel=230,
    )


def _limits(inside: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.quantile(inside, _RANGE)
    return float(low), float(high)


def _to_size(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    return enlarge(shrink(plane, _SIDE), 240)
