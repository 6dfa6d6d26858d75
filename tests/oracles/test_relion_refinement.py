"""RELION 3.1.3 and ours: it goes on from a 3D refinement that we write, and what it then leaves is read."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.io import mrc, relion, star
from halfmap.io.relion_refinement import read_refinement_run
from support.half_maps import sphere_mask
from support.refinement_runs import a_refinement_run, relion_refine_mpi, some_refinable_particles, written

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_relion_goes_on_from_what_is_written_and_its_end_is_read(tmp_path, symmetry):
    particles = relion.read_particles(some_refinable_particles(tmp_path, symmetry=symmetry))
    run = a_refinement_run(side=16, n_particles=len(particles), symmetry=symmetry, iteration=5, healpix_order=1)
    names = ("rotation", "origin_angstrom", "norm_correction", "max_probability", "log_likelihood", "n_significant")
    columns = {name: run.particles[name] for name in names}
    particles = particles.with_columns(**columns, group_name=particles["micrograph_name"])
    written(tmp_path, replace(run, particles=particles))
    (tmp_path / "Refine3D/job008").mkdir()
    said = relion_refine_mpi(
        tmp_path,
        *("--continue", "Refine3D/job007/run_it005_optimiser.star", "--o", "Refine3D/job008/run"),
        *("--force_converge", "--j", "1", "--pad", "1"),
    )
    assert "Final reconstruction from all particles is saved as: Refine3D/job008/run_class001.mrc" in said
    read = read_refinement_run(tmp_path / "Refine3D/job008", project=tmp_path)
    assert read.is_final
    assert (read.symmetry, read.grid, read.mask_diameter_angstrom) == (symmetry, run.grid, run.mask_diameter_angstrom)
    order = read.particles.rows_of_uids(particles.uid)
    np.testing.assert_array_equal(read.particles["random_subset"][order], particles["random_subset"])
    np.testing.assert_array_equal(read.particles["group_name"][order], particles["group_name"])
    model = star.read(tmp_path / "Refine3D/job008/run_model.star")
    np.testing.assert_allclose(read.used_fsc, model["model_class_1"].numbers("rlnGoldStandardFsc"))
    assert len(star.read(tmp_path / "Refine3D/job008/run_sampling.star")["sampling_directions"]) == 48 // (
        4 if symmetry == "D2" else 1
    )
    unfiltered = torch.from_numpy(
        np.array(mrc.map_data(tmp_path / "Refine3D/job008/run_half2_class001_unfil.mrc"), dtype=np.float32)
    )
    torch.testing.assert_close(read.halves[1].unregularised.values, unfiltered, rtol=0, atol=0)
    # Noise of deviation 1 has σ² = 1 / (2 n_pixels) of a real component, RELION's as ours.
    assert np.median(read.halves[0].noise.noise_variance[0, 4:]) == pytest.approx(1 / (2 * 16**2), rel=0.5)


def test_relion_post_processes_half_maps_that_are_written(tmp_path):
    if shutil.which("relion_postprocess") is None:
        pytest.skip("RELION is not installed: apt-get install relion")
    run = a_refinement_run(is_final=True)
    folder = written(tmp_path, run).parent
    mask = sphere_mask(run.grid, radius_angstrom=32, edge_angstrom=12)
    mrc.write_volume(tmp_path / "mask.mrc", mask)  # without one RELION stumbles over its own plots
    half = str(folder / "run_half1_class001_unfil.mrc")
    subprocess.run(
        ["relion_postprocess", "--i", half, "--o", str(tmp_path / "out"), "--mask", str(tmp_path / "mask.mrc")],
        check=True,
        capture_output=True,
        timeout=60,
    )
    table = star.read(tmp_path / "out.star")["fsc"]
    # RELION counts coefficients with kx = 0 twice, which matters in shells of few: 0.014 here at most
    np.testing.assert_allclose(table.numbers("rlnFourierShellCorrelationUnmaskedMaps")[1:], run.fsc[1:], atol=0.03)
    assert table.numbers("rlnAngstromResolution")[1] == pytest.approx(24 * 4.0)
