"""Exported particles: whoever reconstructs from images and tables alone gets the map that halfmap gets."""

import shutil
import subprocess
from dataclasses import replace
from functools import lru_cache, reduce
from operator import add

import numpy as np
import pytest
import torch

from halfmap.data.image_series import SeriesOptics
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import crop_or_pad, rescale_to_pixel_size
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import image_size, views
from halfmap.imaging.image_model import ctf_of_rows
from halfmap.imaging.projection import magnified
from halfmap.imaging.series_transfer import ctf_values, image_ctf, image_weights
from halfmap.io import mrc, relion
from halfmap.multiparticle.export import (
    exported_images,
    image_table,
    memory_bytes,
    particles_at_dose,
    rigid_geometry,
)
from halfmap.multiparticle.export_params import ExportParams
from halfmap.multiparticle.reconstruction import accumulate, combine
from halfmap.multiparticle.reconstruction_params import ReconstructionParams
from halfmap.multiparticle.sub_tomograms import sub_tomograms
from halfmap.splines.grids import LinearGrid, SplineGrid
from support.series_scenes import PIXEL_ANGSTROM, Scene, fsc_within, particles, scenes, species, tilt_series

UP_TO_NINE_TENTHS = slice(3, 17)
"""Of 18 shells that the map reaches; the first two tell of its mean, which is not determined."""

MAGNIFIED = SeriesOptics(pixel_size_angstrom=PIXEL_ANGSTROM, magnification=np.array([[1.02, 0.01], [0.0, 0.98]]))


@lru_cache(maxsize=1)
def deformed() -> list[Scene]:
    return scenes(2, optics=MAGNIFIED)


@lru_cache(maxsize=1)
def internal() -> torch.Tensor:
    params = ReconstructionParams()
    total = reduce(add, [accumulate(one.series, one.source, one.particles, species(), params) for one in deformed()])
    maps = combine(total, species(), params)
    return (maps.half1.values + maps.half2.values) / 2


def images_in_order(one: Scene, params: ExportParams) -> torch.Tensor:
    return torch.cat(
        [part.images for part in exported_images(one.series, one.source, one.particles, species(), params)]
    )


def test_memory_is_that_of_the_particles_that_are_there_and_holds_the_images():
    one, grid = deformed()[0], deformed()[0].source.grid
    few = one.particles.take(np.arange(2))
    for box in (32, 200):
        params = ExportParams(image_box_pixel=box)
        of_few, of_all = (memory_bytes(one.series, some, species(), params, grid) for some in (few, one.particles))
        images = 4 * box**2
        assert of_few > 2 * images
        assert of_all - of_few > (len(one.particles) - 2) * images
        assert of_few < 40 * 2 * images + 100 * grid.n_pixels + (2 << 20)


@pytest.mark.parametrize("premultiply", [True, False])
def test_reconstruction_from_images_and_table_alone_gives_the_same_map(premultiply):
    params = ExportParams(image_box_pixel=64, premultiply_ctf=premultiply)
    band = FourierBand(ImageGrid.square(64, PIXEL_ANGSTROM))
    padded = slices.PaddedGrid(ImageGrid.cubic(64, PIXEL_ANGSTROM), padding=1)
    data, weight = torch.zeros(padded.shape, dtype=torch.complex64), torch.zeros(padded.shape)
    for one in deformed():
        rows = image_table(one.series, one.particles, species(), params)
        transfer = ctf_of_rows(rows, band.frequencies)
        values = band.gather(band.grid.rfft(images_in_order(one, params)))
        values = values if premultiply else values * transfer
        rotation = magnified(torch.tensor(rows["rotation"]), torch.from_numpy(MAGNIFIED.magnification))
        added = slices.insert(values, transfer.square(), rotation, band, padded)
        data, weight = data + added[0], weight + added[1]
    quotient = slices.PaddedTransform(values=data / weight.clamp(min=1e-3 * float(weight.mean())), grid=padded)
    found, _ = crop_or_pad(slices.to_reference(quotient), padded.grid, 40)
    fsc = fsc_within(found, internal(), deformed()[0].truth.grid)
    assert fsc[UP_TO_NINE_TENTHS].min() > 0.99


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed")
def test_relion_reconstructs_the_same_map_from_the_export(tmp_path):
    params = ExportParams(image_box_pixel=64, premultiply_ctf=False)
    one = deformed()[0]
    rows = image_table(one.series, one.particles, species(), params)
    with mrc.StackWriter(tmp_path / "a.mrcs", ImageGrid.square(64, PIXEL_ANGSTROM)) as stack:
        stack.write(images_in_order(one, params).numpy())
    names = np.array([f"{number + 1:06d}@a.mrcs" for number in range(len(rows))], dtype=object)
    relion.write_particles(tmp_path / "a.star", replace(rows, columns={**rows.columns, "image_name": names}))
    command = ["relion_reconstruct", "--i", "a.star", "--o", "a.mrc", "--ctf", "--pad", "2"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    read = mrc.read_volume(tmp_path / "a.mrc", PIXEL_ANGSTROM)
    found, grid = crop_or_pad(read.values, read.grid, 40)
    total = accumulate(one.series, one.source, one.particles, species(), ReconstructionParams())
    maps = combine(total, species(), ReconstructionParams())
    assert fsc_within(found, maps.half1.values + maps.half2.values, grid)[UP_TO_NINE_TENTHS].min() > 0.99


def test_average_of_sub_tomograms_is_the_map():
    one = deformed()[0]
    grid = one.truth.grid
    data, kernel = torch.zeros(grid.shape), torch.zeros(grid.shape)
    middle = particles_at_dose(one.series, one.particles)
    found = list(
        sub_tomograms(one.series, one.source, one.particles, species(), ExportParams(), memory_bytes=4e6)  # of one
    )
    assert [part.row for part in found] == list(range(9))
    for part in found:
        turn = torch.from_numpy(middle.rotation[part.row, 0])
        data += rotate_volume(part.data.values, grid, turn)
        kernel += rotate_volume(grid.irfft(part.weight.to(torch.complex64)), grid, turn)
    transform, weight = grid.rfft(data), grid.rfft(kernel).real
    mean = grid.irfft(transform / weight.clamp(min=0.02 * float(weight.max())))
    # turned twice by interpolation, poses of one dose alone: two samples differ by 0.01 rad and 3 Å
    assert fsc_within(mean, one.truth.values, grid)[3:12].min() > 0.95


def test_images_are_the_same_at_other_pixel_sizes_and_boxes():
    one = deformed()[0]
    fine = images_in_order(one, ExportParams(image_box_pixel=64, premultiply_ctf=False))
    params = ExportParams(image_box_pixel=33, image_pixel_size_angstrom=6.0, premultiply_ctf=False)
    coarse = images_in_order(one, params)
    expected, _ = rescale_to_pixel_size(fine, ImageGrid.square(64, PIXEL_ANGSTROM), 6.0, 33)
    band = FourierBand(ImageGrid.square(33, 6.0), max_shell=13)
    got, wanted = (band.gather(band.grid.rfft(images)) for images in (coarse, expected))
    scale = float((got * wanted.conj()).sum().real / wanted.abs().square().sum())  # of images' deviations
    assert float((got - scale * wanted).norm() / got.norm()) < 0.03


def test_table_tells_the_ctf_with_its_fading_although_relion_magnifies_it():
    one = deformed()[0]
    rows = image_table(one.series, one.particles, species(), ExportParams())
    frequencies = FourierBand(ImageGrid.square(40, PIXEL_ANGSTROM)).frequencies
    position = torch.from_numpy(one.particles.position_angstrom)
    seen = views(one.series, position, torch.from_numpy(one.particles.rotation))
    exact = ctf_values(one.series, image_ctf(one.series, position, seen), frequencies)
    exact = exact * image_weights(one.series, seen, frequencies, of_whole_series=True)
    tilt, row = (torch.from_numpy(np.array(rows[name])) for name in ("tilt_index", "uid"))
    row = row - 1
    # what stays is of the spherical aberration and the fading, at frequencies that differ by 2 %
    assert torch.allclose(ctf_of_rows(rows, frequencies), exact[row, tilt], atol=0.02)


def test_rigid_geometry_of_an_undeformed_series_is_its_own():
    none, flat = SplineGrid.constant(0.0), LinearGrid.constant(0.0)
    series = tilt_series(
        movement_x_angstrom=none, movement_y_angstrom=none, volume_warp_x_angstrom=flat, stage_angle_y_degrees=none
    )
    still = particles(series)
    still = still.with_poses(still.position_angstrom[:, :1], still.rotation[:, :1])
    rigid = rigid_geometry(series, still, ExportParams())
    assert np.abs(rigid.particles.position_angstrom - still.position_angstrom).max() < 1e-6
    assert rigid.residual_angstrom.max() < 1e-6
    seen = views(series, torch.from_numpy(still.position_angstrom), torch.from_numpy(still.rotation))
    assert np.abs(rigid.rotation @ still.rotation - seen.rotation.numpy()).max() < 1e-9
    inside = torch.from_numpy(still.position_angstrom[:, 0] - np.array(series.volume_size_angstrom) / 2)
    at = torch.einsum("tij,pj->pti", torch.from_numpy(rigid.rotation)[:, :2], inside)
    at = at + torch.from_numpy(rigid.shift_angstrom) + image_size(series) / 2
    assert float((at - seen.position_angstrom).abs().max()) < 1e-6


def test_rigid_geometry_says_how_far_it_is_from_what_is_seen():
    one = deformed()[0]
    residual = rigid_geometry(one.series, one.particles, ExportParams()).residual_angstrom
    assert 1 < np.median(residual) < 8  # warps of 4 Å


def test_tilts_that_are_not_used_have_no_say_in_rigid_geometry():
    one = deformed()[0]
    found = []
    for far_off in (0.0, 500.0):
        values = one.series.movement_x_angstrom.values.clone()
        values[3] += far_off * torch.linspace(0, 1, values.shape[-1], dtype=torch.float64)
        series = one.series.with_values(
            movement_x_angstrom=SplineGrid(values=values), is_used=np.arange(len(one.series)) != 3
        )
        found.append(rigid_geometry(series, one.particles, ExportParams()))
    assert np.abs(found[1].particles.position_angstrom - found[0].particles.position_angstrom).max() < 1e-6


def test_poses_at_a_dose_run_from_the_first_sample_to_the_last():
    series = tilt_series()
    found = particles(series)
    for dose, sample in ((0.0, 0), (20.0, 1), (1000.0, 1)):
        assert (
            np.abs(
                particles_at_dose(series, found, dose).position_angstrom[:, 0] - found.position_angstrom[:, sample]
            ).max()
            < 1e-9
        )
