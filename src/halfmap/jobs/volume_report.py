"""What pages and lines say about maps: their central slices, their correlation, their headers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.grid import ImageGrid
from halfmap.io import mrc, star
from halfmap.io.mrc_values import RunningStatistics
from halfmap.report.blocks import Axis, Cell, Curve, Fact, Facts, Gallery, Line, Mark, Note, Report, Section, Table

_THRESHOLDS = (0.5, 0.143)
_LABEL_OF = {
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
}


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where a correlation curve first falls below a threshold.

    Parameters
    ----------
    curve : ``unmasked`` or ``masked``.
    threshold : the correlation.
    resolution_angstrom : where; the last shell's if the curve never falls below, infinite if it begins below.
    is_reached : whether the curve falls below at all.
    """

    curve: str
    threshold: float
    resolution_angstrom: float
    is_reached: bool

    @property
    def label(self) -> str:
        """Name of the figure, which says what it is."""
        return f"FSC = {self.threshold:g}, {self.curve}"

    @property
    def text(self) -> str:
        """The figure in words."""
        if not math.isfinite(self.resolution_angstrom):
            return "the curve begins below it"
        if not self.is_reached:
            return f"finer than {self.resolution_angstrom:.4g} Å, where the curve ends"
        return f"{self.resolution_angstrom:.4g} Å"


def central_slices(volume: Volume, title: str) -> Gallery:
    """Return the slices through the centre voxel across z, y and x, and the projections along them."""
    values = volume.values.numpy()
    z, y, x = volume.grid.centre
    planes = [values[z], values[:, y], values[:, :, x], values.sum(0), values.sum(1), values.sum(2)]
    side = max(volume.grid.shape)
    squares = np.zeros((6, side, side), dtype=np.float32)
    for square, plane in zip(squares, planes, strict=True):
        top, left = ((side - extent) // 2 for extent in plane.shape)
        square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    names = ["slice x, y", "slice x, z", "slice y, z", "projection along z", "projection along y", "projection along x"]
    return Gallery.of(squares, names, title=title, tile_pixel=170, max_side=360, percentiles=(0.5, 99.9))


def map_report(title: str, source: Path, before: Volume, after: Volume, note: str) -> Report:
    """Return the page of a command that turned one map into another."""
    rows: list[list[Cell]] = [
        [what, _sides(volume.grid), volume.grid.pixel_size_angstrom, *_statistics(volume)]
        for what, volume in (("before", before), ("after", after))
    ]
    table = Table(columns=["", "sides (px)", "pixel size (Å)", "minimum", "maximum", "mean", "deviation"], rows=rows)
    return Report(
        title=title,
        summary=f"From {source.name}. {note}".strip(),
        facts=Facts(
            facts=[
                ("Sides", _sides(after.grid), "px"),
                ("Pixel size", after.grid.pixel_size_angstrom, "Å"),
                ("Field", max(after.grid.shape) * after.grid.pixel_size_angstrom, "Å"),
                ("Nyquist", 2 * after.grid.pixel_size_angstrom, "Å"),
            ]
        ),
        sections=[
            Section(title="Map", blocks=[central_slices(after, "After"), central_slices(before, "Before")]),
            Section(title="Numbers", blocks=[table]),
        ],
    )


def crossings(curves: Mapping[str, Tensor], grid: ImageGrid) -> list[Crossing]:
    """Return where each curve first falls below 0.5 and 0.143, interpolated between shells."""
    return [
        Crossing(
            curve=name,
            threshold=threshold,
            resolution_angstrom=shells.resolution_at_threshold(curve, grid, threshold),
            is_reached=bool((curve < threshold).any()),
        )
        for name, curve in curves.items()
        for threshold in _THRESHOLDS
    ]


def write_fsc(path: Path, curves: Mapping[str, Tensor], found: Sequence[Crossing], grid: ImageGrid) -> None:
    """Write the curves under RELION's labels, and the crossings in a table of their own."""
    frequencies = shells.shell_frequencies(grid).tolist()
    columns = {
        "rlnSpectralIndex": [str(number) for number in range(len(frequencies))],
        "rlnResolution": [f"{frequency:.6f}" for frequency in frequencies],
        "rlnAngstromResolution": [f"{1 / frequency:.6f}" if frequency else "999.000000" for frequency in frequencies],
    }
    columns |= {_LABEL_OF[name]: [f"{value:.6f}" for value in curve.tolist()] for name, curve in curves.items()}
    reached = [crossing for crossing in found if math.isfinite(crossing.resolution_angstrom)]
    crossing_columns = {
        "halfmapCurve": [crossing.curve for crossing in reached],
        "halfmapFscThreshold": [f"{crossing.threshold:g}" for crossing in reached],
        "halfmapAngstromResolution": [f"{crossing.resolution_angstrom:.4f}" for crossing in reached],
        "halfmapIsReached": [str(int(crossing.is_reached)) for crossing in reached],
    }
    tables = [star.StarTable(name="crossings", columns=_text_columns(crossing_columns))] if reached else []
    star.write(path, [*tables, star.StarTable(name="fsc", columns=_text_columns(columns))])


def fsc_report(
    paths: Sequence[Path], volumes: Sequence[Volume], curves: Mapping[str, Tensor], found: Sequence[Crossing]
) -> Report:
    """Return the page of two maps' correlation."""
    grid = volumes[0].grid
    frequencies = shells.shell_frequencies(grid).numpy()
    lines = [Line(label=name, x=frequencies[1:], y=curve.numpy()[1:]) for name, curve in curves.items()]
    plot = Curve(
        title="Fourier shell correlation",
        lines=lines,
        x=Axis(label="resolution", unit="Å", scale="resolution", limits=(0.0, float(frequencies[-1]))),
        y=Axis(label="FSC", limits=(min(-0.1, *(float(curve[1:].min()) for curve in curves.values())), 1.03)),
        marks=[Mark(value=threshold, axis="y", label=f"{threshold:g}") for threshold in _THRESHOLDS],
    )
    notes = [
        Note(
            text="The crossing of 0.143 is a resolution only if the two maps are independent half maps; that of 0.5 if "
            "one of them is a reference known beforehand. Nothing in the files says which they are."
        )
    ]
    if "masked" in curves:
        notes.append(
            Note(
                text="A mask that both maps share correlates by itself. The masked curve is not corrected for it.",
                level="warning",
            )
        )
    return Report(
        title="Fourier shell correlation",
        summary=f"{paths[0].name} with {paths[1].name}",
        facts=Facts(
            facts=[
                *(_tile(crossing) for crossing in found),
                ("Sides", _sides(grid), "px"),
                ("Pixel size", grid.pixel_size_angstrom, "Å"),
            ]
        ),
        sections=[
            Section(title="Curve", blocks=[plot, *notes]),
            Section(
                title="Maps",
                blocks=[central_slices(volume, path.name) for path, volume in zip(paths, volumes, strict=True)],
            ),
        ],
    )


def described(path: Path, block_values: int) -> Iterator[str]:
    """Yield lines about one MRC file, read in blocks of about so many values."""
    header = mrc.read_header(path)
    sizes = header.voxel_size_angstrom
    n, y, x = header.shape
    yield str(path)
    yield f"  sides        {x} × {y}" + (f" × {n}" if n > 1 else "")
    yield f"  mode         {header.mode} ({header.dtype.name}, {_byte_order(header.dtype)}-endian)"
    yield "  pixel size   " + (
        "not in the header" if sizes is None else " × ".join(f"{size:g}" for size in sizes) + " Å"
    )
    yield f"  cell         {' × '.join(f'{side:g}' for side in header.cell_angstrom)} Å"
    yield f"  start        {', '.join(map(str, header.start_pixel))}"
    yield f"  origin       {', '.join(f'{value:g}' for value in header.origin_angstrom)} Å"
    yield f"  space group  {header.space_group}"
    if header.axis_order != (1, 2, 3):
        yield f"  axis order   {', '.join(map(str, header.axis_order))} (read as x, y, z)"
    if header.n_extended_bytes:
        yield f"  extended     {header.n_extended_bytes} bytes {header.extended_type}".rstrip()
    if header.file_bytes > header.expected_bytes:
        yield f"  surplus      {header.file_bytes - header.expected_bytes} bytes after the values"
    for label in header.labels:
        yield f"  label        {label}"
    if header.dtype.kind == "c":
        return
    values = mrc.map_data(path)
    step = max(1, block_values // (y * x))
    statistics = RunningStatistics()
    n_bad = 0
    for start in range(0, n, step):
        block = np.asarray(values[start : start + step], dtype=np.float64)
        finite = np.isfinite(block)
        n_bad += int(block.size - np.count_nonzero(finite))
        if finite.any():
            statistics.add(block[finite][np.newaxis])
    if statistics.count:
        for name, value in zip(("minimum", "maximum", "mean", "deviation"), statistics.as_tuple(), strict=True):
            yield f"  {name:<12} {value:.6g}"
    if n_bad:
        yield f"  not finite   {n_bad} values are NaN or infinite"


def _text_columns(columns: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    return {label: np.array(values, dtype=object) for label, values in columns.items()}


def _tile(crossing: Crossing) -> Fact:
    if not math.isfinite(crossing.resolution_angstrom):
        return Fact(label=crossing.label, value="never above")
    note = "" if crossing.is_reached else "not reached: the curve ends here"
    return Fact(label=crossing.label, value=float(f"{crossing.resolution_angstrom:.4g}"), unit="Å", note=note)


def _sides(grid: ImageGrid) -> str:
    return str(grid.side) + "³" if len(set(grid.shape)) == 1 else " × ".join(map(str, grid.shape[::-1]))


def _statistics(volume: Volume) -> list[float]:
    values = volume.values.double()
    return [float(values.min()), float(values.max()), float(values.mean()), float(values.std(correction=0))]


def _byte_order(dtype: np.dtype) -> str:
    return "big" if dtype.byteorder == ">" else "little"
