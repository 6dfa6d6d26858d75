"""References give the same slices however they are divided."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.fourier import slices
from halfmap.geometry.rotations import matrix_from_euler, random_rotations
from halfmap.grid import ImageGrid
from halfmap.inference import references
from halfmap.inference.references import References
from support.model_images import shapes
from support.volume_images import volumes

GRID = ImageGrid.square(24, 4.0)
N_CLASSES, SHELL, GROUP = 3, 9, 4


def some_references(kind: str, **settings: object) -> References:
    if kind == "volumes":
        return References.of(volumes(N_CLASSES, GRID.side, GRID.pixel_size_angstrom), GRID, 2, **settings)
    return References.of(shapes(N_CLASSES, GRID, radius_angstrom=40), GRID, 3, **settings)


def some_rotations(kind: str, n: int = 12) -> torch.Tensor:
    if kind == "volumes":
        return random_rotations(1, "turns", np.arange(n))
    return matrix_from_euler(0.0, 0.0, torch.arange(n) * 27.0)


@pytest.mark.parametrize("kind", ["images", "volumes"])
def test_slices_are_those_of_each_reference_class_by_class(kind: str) -> None:
    found, rotations = some_references(kind), some_rotations(kind)
    values = found.take(slice(1, 3), rotations, SHELL)
    band = found.band.head(SHELL)
    assert values.shape == (2 * len(rotations), len(band))
    if kind == "volumes":
        each = [slices.extract(one, rotations, band) for one in found.transforms[1:]]
    else:
        padded = slices.prepare(shapes(N_CLASSES, GRID, radius_angstrom=40), GRID, padding=3)
        each = list(slices.extract(padded, rotations, band)[1:])
    assert torch.equal(values, torch.cat(each))
    assert found.n_classes == N_CLASSES
    assert found.are_volumes == (kind == "volumes")


@pytest.mark.parametrize("slice_bytes", [1, 20 * 130 * 9, 1 << 28], ids=["one at a time", "a few", "all"])
@pytest.mark.parametrize("group", [1, GROUP])
@pytest.mark.parametrize("used", [None, [0, 1, 5, 7, 8], [2]], ids=["all rows", "some rows", "one class only"])
@pytest.mark.parametrize("kind", ["images", "volumes"])
def test_blocks_hold_the_slices_of_the_rows_that_are_needed(
    kind: str, used: list[int] | None, group: int, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SLICE_BYTES", slice_bytes)
    found, rotations = some_references(kind), some_rotations(kind)
    every = found.take(slice(0, N_CLASSES), rotations, SHELL)
    groups = torch.arange(len(every) // group) if used is None else torch.tensor(used)
    seen = torch.zeros(len(every) // group, dtype=torch.int64)
    for block in found.blocks(rotations, groups, group, SHELL):
        rows = (block.groups[:, None] * group + torch.arange(group)).flatten()
        # a product of several rows at a time may round otherwise
        torch.testing.assert_close(block.values, every[rows], rtol=1e-5, atol=1e-6 * float(every.abs().max()))
        n_classes = block.classes.stop - block.classes.start
        assert len(block.rotations) * n_classes == len(rows)
        torch.testing.assert_close(block.rotations, rotations[rows[: len(block.rotations)] % len(rotations)])
        assert bool((rows // len(rotations) >= block.classes.start).all())
        assert bool((rows // len(rotations) < block.classes.stop).all())
        seen[block.groups] += 1
        place, found_inside = block.place(groups)
        inside = torch.ones(len(groups), dtype=torch.bool) if found_inside is None else found_inside
        assert torch.equal(block.groups[place[inside]], groups[inside])
        assert not bool(torch.isin(groups[~inside], block.groups).any())
    assert seen[groups].tolist() == [1] * len(groups)
    if kind == "volumes":
        assert int(seen.sum()) == len(groups)  # no row that is not needed


def test_blocks_of_volumes_stay_within_the_memory_they_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    found, rotations = some_references("volumes"), some_rotations("volumes")
    K = len(found.band.head(SHELL))
    monkeypatch.setattr(references, "SLICE_BYTES", 5 * 20 * K)
    sizes = [len(block.values) for block in found.blocks(rotations, torch.arange(36), 1, SHELL)]
    assert max(sizes) == 4  # of 12 rows in each class no more than 5 at a time, evenly
    assert sum(sizes) == 36


@pytest.mark.parametrize("kind", ["images", "volumes"])
def test_slices_are_scaled_to_the_power_that_is_asked_for(kind: str) -> None:
    plain, rotations = some_references(kind), some_rotations(kind)
    transfer = torch.linspace(3.0, 0.1, len(plain.band))
    scaled = replace(plain, transfer_power=transfer, slice_power=70.0)
    every = slice(0, N_CLASSES)
    for shell in (4, SHELL):
        values, as_is = scaled.take(every, rotations, shell), plain.take(every, rotations, shell)
        power = values.abs().square().double() @ transfer[: values.shape[1]].double()
        np.testing.assert_allclose(power, 70.0, rtol=1e-5)  # single precision
        factor = values.abs().norm(dim=1) / as_is.abs().norm(dim=1)
        torch.testing.assert_close(values, as_is * factor[:, None], rtol=1e-5, atol=1e-6 * float(values.abs().max()))


def test_slices_of_an_empty_reference_stay_empty_at_any_power() -> None:
    plain = References.of(torch.zeros(1, 24, 24, 24), GRID, 2)
    scaled = replace(plain, transfer_power=torch.ones(len(plain.band)), slice_power=70.0)
    assert bool((scaled.take(slice(0, 1), some_rotations("volumes"), SHELL) == 0).all())
