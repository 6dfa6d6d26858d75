"""Neighbours are taken off the windows of particles that lie near them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from halfmap.data.image_source import ArraySource
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.multiparticle.cutting import CutImages, Windows
from halfmap.multiparticle.neighbours import WithoutNeighbours
from halfmap.multiparticle.series_model import SpeciesModel
from support.tilt_windows import DIAMETER, normal, scene, tilt_series

PIXEL = 4.0
GRID = ImageGrid(shape=(92, 90), pixel_size_angstrom=PIXEL)
"Of no whole steps of binning, so that binned images reach beyond it."


def cut_images(sides, places, n_images, *, memory_bytes=1e9):
    """Return windows of images of noise around places, (P, T, 2) of each species."""
    noise = np.random.default_rng(1).normal(size=(n_images, *GRID.shape)).astype(np.float32)
    squares = [ImageGrid.square(side, PIXEL) for side in sides]
    return CutImages(
        ArraySource(images=noise, grid=GRID), [Windows(grid=one, band=FourierBand(one)) for one in squares], places,
        resolution_angstrom=2 * PIXEL, coarsest_angstrom=400.0, used=np.ones(n_images, dtype=bool),
        memory_bytes=memory_bytes,
    )  # fmt: skip


def test_windows_hold_what_particles_of_all_species_show_in_them_within_the_image():
    places = [60.0 + 200 * normal(f"places {n}", n, 1, 2).abs() for n in (3, 2)]
    images = cut_images((16, 24), places, 1)
    bands = [
        FourierBand(ImageGrid.square(side, images.centre_angstrom[0].new_tensor(PIXEL).item())) for side in (16, 24)
    ]
    shown = [torch.complex(*normal(f"shown {len(p)}", len(p), 2, len(b)).unbind(1)).to(torch.complex64)
             for p, b in zip(places, bands, strict=True)]  # fmt: skip
    boxes = [band.grid.irfft(band.scatter(values)) for band, values in zip(bands, shown, strict=True)]
    found = images.of_neighbours(0, shown)
    corners = [torch.round(p[:, 0] / PIXEL).long() - side // 2 + 200 for p, side in zip(places, (16, 24), strict=True)]
    every = [(corner, box) for part in zip(corners, boxes, strict=True) for corner, box in zip(*part, strict=True)]
    number, beyond = 0, 0.0
    for band, values in zip(bands, found, strict=True):
        for one in values:
            canvas = torch.zeros(500, 500)
            for other, ((x, y), box) in enumerate(every):
                if other != number:
                    canvas[y : y + len(box), x : x + len(box)] += box
            is_beyond = torch.ones(500, 500, dtype=torch.bool)
            is_beyond[200 : 200 + GRID.shape[0], 200 : 200 + GRID.shape[1]] = False
            beyond += float(canvas[is_beyond].abs().sum())
            canvas[is_beyond] = 0
            (x, y), side = every[number][0], band.grid.side
            expected = band.gather(band.grid.rfft(canvas[y : y + side, x : x + side]))
            torch.testing.assert_close(one, expected, atol=1e-6, rtol=1e-4)
            number += 1
    assert beyond > 0


@dataclass(frozen=True)
class Crowded:
    """Windows that hold neighbours too."""

    cut: CutImages
    observed: torch.Tensor
    keeps: bool

    def of_neighbours(self, t, shown):
        return self.cut.of_neighbours(t, shown)

    def __iter__(self):
        for t in range(self.observed.shape[1]):
            yield t, [self.observed[:, t]]


@pytest.mark.parametrize("keeps", [False, True])
def test_true_models_leave_what_a_particle_shows_alone(keeps):
    drawn = scene(n=8, n_tilts=3, box=32, snr=1.0, true_series=tilt_series(3))
    series, state = drawn.true
    near = replace(state, position_angstrom=0.1 * state.position_angstrom)
    seen = drawn.seen(series, near).position_angstrom
    cut = cut_images((32,), [seen - seen.amin((0, 1))], 3)
    centre, band = cut.centre_angstrom[0] + seen.amin((0, 1)), drawn.images.bands[0]
    everything = torch.ones(8, 3, dtype=torch.bool)
    model = SpeciesModel(series, near, band, centre, everything)
    alone = torch.stack([model.modelled(t, torch.arange(8), ())[:, 0] for t in range(3)], dim=1)
    neighbours = torch.stack([cut.of_neighbours(t, [alone[:, t]])[0] for t in range(3)], dim=1)
    assert float(seen[:, 0].std(0).mean()) < DIAMETER  # they overlap
    assert float(neighbours.abs().square().sum() / alone.abs().square().sum()) > 0.5
    images = Crowded(cut, alone + neighbours, keeps)
    head = band.head(10)
    few = SpeciesModel(series, near, head, centre, everything)
    for one, reached, tolerance in ((model, band, 1e-5), (few, head, 0.15)):
        clean = WithoutNeighbours(images, [one], [torch.ones(3)], [torch.ones(8, dtype=torch.bool)])
        for _ in range(2):  # as kept, too
            left = torch.stack([windows[0] for _, windows in clean], dim=1) - alone[..., : len(reached)]
            # fewer shells of a neighbour, cut anew, differ near the last one
            assert float(left.norm() / neighbours[..., : len(reached)].norm()) < tolerance
    nobody = WithoutNeighbours(images, [model], [torch.ones(3)], [torch.zeros(8, dtype=torch.bool)])
    torch.testing.assert_close(torch.stack([windows[0] for _, windows in nobody], dim=1), images.observed)
