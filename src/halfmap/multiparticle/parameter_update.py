"""The exact change of a series and of its particles by parameters."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfmap.data.image_series import ImageSeries
from halfmap.geometry.rotations import matrix_from_rotation_vector
from halfmap.multiparticle.parameter_layout import Block, Layout
from halfmap.splines.grids import SplineGrid


def with_shared(series: ImageSeries, theta: Tensor, layout: Layout) -> ImageSeries:
    """Return the series with its shared parameters changed.

    Parameters
    ----------
    series : with grids of the sizes that the layout asks for.
    theta : shape (n_shared,).
    """
    fields: dict[str, Any] = {}
    optics: dict[str, Any] = {}
    astigmatism: list[Tensor] = []
    for block in layout.blocks:
        change = theta[block.first : block.first + block.n_parameters]
        if len(block.shape) == 1:
            optics[block.field] = _changed_optics(block, series, optics, change)
            continue
        change = torch.cat([torch.zeros(block.n_frozen, dtype=change.dtype), change]).reshape(block.shape)
        if block.field == "astigmatism_angstrom":
            astigmatism.append(change)
        else:
            fields[block.field] = _changed_grid(fields.get(block.field, getattr(series, block.field)), block, change)
    if astigmatism:
        fields.update(_changed_astigmatism(series, *astigmatism))
    if optics:
        fields["optics"] = replace(series.optics, **optics)
    return series.with_values(**fields)


def with_own(position_angstrom: Tensor, rotation: Tensor, theta: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return positions and rotations with particles' own parameters changed; theta has shape (P, n_particle)."""
    n, axes = layout.n_samples, layout.position_axes
    parts = torch.split(theta, [n * axes, n * layout.angle_axes, int(layout.has_own_defocus)], dim=-1)
    if axes:
        moved = parts[0].reshape(-1, n, axes)
        position_angstrom = position_angstrom + torch.nn.functional.pad(moved, (0, 3 - axes))
    if layout.has_own_defocus:
        position_angstrom = position_angstrom + torch.nn.functional.pad(parts[2], (2, 0))[:, None]
    if layout.angle_axes:
        rotation = matrix_from_rotation_vector(parts[1].reshape(-1, n, 3)) @ rotation
    return position_angstrom, rotation


def names_of_optics(block: Block) -> list[dict[str, float]]:
    """Return for each parameter of a block that is no grid the local parameters that it changes, and by how much."""
    if block.field == "magnification":
        return [{f"magnification_{entry}": 1.0} for entry in ("11", "12", "21", "22")]
    if block.field == "spherical_aberration_mm":
        return [{"spherical_aberration": 1.0}]
    return [{f"{block.field}_{i}": factor for i, factor in one.items()} for one in block.coefficients]


def _changed_grid(grids: Any, block: Block, change: Tensor) -> Any:
    if isinstance(grids, tuple):
        return tuple(
            replace(grid, values=grid.values + change) if level == block.level else grid
            for level, grid in enumerate(grids)
        )
    return replace(grids, values=grids.values + change)


def _changed_optics(block: Block, series: ImageSeries, changed: dict[str, Any], change: Tensor) -> Any:
    before = changed.get(block.field, getattr(series.optics, block.field))
    values = change.detach().numpy()
    if block.field == "magnification":
        return before + values.reshape(2, 2)
    if block.field == "spherical_aberration_mm":
        return before + float(values[0])
    after = np.array(before, dtype=np.float64)
    for value, coefficients in zip(values, block.coefficients, strict=True):
        for i, factor in coefficients.items():
            after[i] += factor * value
    return after


def _changed_astigmatism(series: ImageSeries, change_a: Tensor, change_b: Tensor) -> dict[str, SplineGrid]:
    """Change the vector of U − V at each node.

    Where values are interpolated over space, angles stay within 45° of their mean and U − V may turn negative, so that
    neighbours never lie half a turn apart and what lies between them stays near both.
    """
    size, angle = series.astigmatism_angstrom, series.astigmatism_angle_degrees
    double = 2 * torch.deg2rad(angle.values)
    a, b = size.values * double.cos() + change_a, size.values * double.sin() + change_b
    axis = torch.zeros((), dtype=torch.float64)
    sign = torch.ones_like(a)
    if a[0].numel() > 1:
        axis = torch.atan2(b.mean(), a.mean()).detach()
        sign = torch.where((a * axis.cos() + b * axis.sin()).detach() < 0, -1.0, 1.0)
    along, across = sign * (a * axis.cos() + b * axis.sin()), sign * (b * axis.cos() - a * axis.sin())
    return {
        "astigmatism_angstrom": replace(size, values=sign * torch.hypot(a, b)),
        "astigmatism_angle_degrees": replace(angle, values=torch.rad2deg((torch.atan2(across, along) + axis) / 2)),
    }
