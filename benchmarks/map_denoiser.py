"""The map denoiser: what it does to simulated half maps, with CPU seconds and memory.

    python benchmarks/map_denoiser.py

β-galactosidase and a ribosome with white noise, such that their unmasked FSC is 0.143 at the resolution named.
Truth: FSC of the mean of the halves with the truth, mean over the shells to a fifth beyond that resolution, without a
mask and in one made from the truth. Leak: mean FSC of a denoised half with the noise of the other, in deviations of
that with noise that it cannot know.
"""

import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.volumes import Volume
from halfmap.denoising.denoise import BEYOND, denoise, memory_bytes
from halfmap.fourier import filters, shells
from halfmap.grid import ImageGrid
from halfmap.io.mrc import read_volume
from halfmap.postprocessing.masks import automatic_mask

SHARED = Path(__file__).parents[2] / "shared" / "data" / "maps"
MAPS = (
    ("betagal_sharpened_72.mrc", 9.0),
    ("betagal_sharpened_72.mrc", 14.0),
    ("ribosome70s_4v5a_96.mrc", 8.5),
    ("ribosome70s_4v5a_96.mrc", 12.0),
)


def white(grid: ImageGrid, number: int) -> Tensor:
    return torch.from_numpy(keyed_random.normal(1, "noise of half maps", number, size=grid.shape)).float()


def fsc(first: Tensor, second: Tensor, grid: ImageGrid) -> Tensor:
    return shells.fsc(grid.rfft(first.double()), grid.rfft(second.double()), grid)


def main() -> None:
    print(
        "| map | FSC 0.143 at | truth: mean of halves | denoised | in the mask: mean | denoised | leak | CPU s | MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, angstrom in MAPS:
        truth = read_volume(SHARED / name)
        grid, values = truth.grid, truth.values.float()
        field = grid.side * grid.pixel_size_angstrom
        near = slice(round(field / angstrom) - 1, round(field / angstrom) + 2)
        power = [shells.power_spectrum(grid.rfft(one.double()), grid)[near].mean() for one in (values, white(grid, 0))]
        deviation = float(power[0] / power[1] * (1 - 0.143) / 0.143) ** 0.5
        noises = [deviation * white(grid, number) for number in (1, 2)]
        one, two = (Volume(values=values + noise, grid=grid) for noise in noises)
        to = max(angstrom / BEYOND, 2 * grid.pixel_size_angstrom)
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        found = denoise(one, two, to)
        spent, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        mask = automatic_mask(
            Volume(values=filters.apply_filter(values, grid, filters.low_pass(grid, 12.0)), grid=grid)
        )
        seen = slice(1, round(field / to) + 1)
        row = []
        for weight in (torch.ones(()), mask.values):
            for shown in ((one.values + two.values) / 2, found.mean.values):
                row.append(f"{float(fsc(shown * weight, values * weight, grid)[seen].mean()):.3f}")
        with_noise = [float(fsc(found.half1.values, white(grid, n), grid)[seen].mean()) for n in range(10, 30)]
        leak = float(fsc(found.half1.values, noises[1], grid)[seen].mean()) / float(np.std(with_noise))
        stated = memory_bytes(grid, to) / 1e6
        print(
            f"| {name}, {grid.side} px | {angstrom:g} Å | {' | '.join(row)} | {leak:+.1f} | {spent:.0f} | "
            f"{grown / 1e3:.0f} of {stated:.0f} stated |",
            flush=True,
        )


if __name__ == "__main__":
    main()
