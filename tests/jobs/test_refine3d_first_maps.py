"""A refinement whose reference tells no rotations: it says so, and its halves begin with first maps of their own."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.jobs import refine3d_first_maps, refine3d_run
from halfmap.jobs.refine3d import JOB, Refine3DJobParams
from halfmap.project.job import JobContext
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job
from halfmap.refinement import first_maps
from support.volume_images import volumes

SIDE, PIXEL_ANGSTROM = 24, 7.0
OPTIONS = {"workers": 1, "threads": 1, "devices": "cpu"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(JobContext, "report", lambda *_: None)
    monkeypatch.setattr(first_maps, "MINIBATCHES", 10)
    monkeypatch.setattr(first_maps, "LEAST_AGREEMENT", -1.0)  # a dozen particles make no right map
    halfmap.simulate_particles(
        specimen=("ferritin-like-o-130",),
        number=24,
        box_pixel=SIDE,
        pixel_size_angstrom=PIXEL_ANGSTROM,
        snr=1.0,
        out="made",
        workers=1,
    )
    return tmp_path


def refined(out):
    return halfmap.refine3d(
        particles="made/particles.star",
        reference="made/reference_class001.mrc",
        symmetry="O",
        mask_diameter_angstrom=150.0,
        initial_low_pass_angstrom=60.0,
        healpix_order=2,
        max_iterations=1,
        offset_range="2px",
        local_resolution=False,
        out=out,
        **OPTIONS,
    )


@pytest.mark.slow
def test_a_round_reference_is_told_and_each_half_begins_with_a_first_map_of_its_own(project):
    folder = refined("whole").folder
    log = (folder / "run.log").read_text()
    assert "Low-passed at 60 Å the reference looks alike from all sides" in log
    for half in (1, 2):
        assert re.search(rf"First map of half {half}: Mini-batch 11 of 11: \d+ particles, details of 19 Å", log)
    assert "First maps of both halves agree" in log
    assert not list((folder / "state").glob("first_map*"))
    one, two = (mrc.read_volume(folder / f"run_half{half}_class001_unfil.mrc").values for half in (1, 2))
    assert not torch.equal(one, two)


@pytest.mark.slow
def test_without_first_maps_that_agree_the_refinement_is_that_from_the_reference(project, monkeypatch):
    monkeypatch.setattr(first_maps, "LEAST_AGREEMENT", 2.0)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(refine3d_run.refine3d, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refined("after")
    continue_job("after", JOB, options=RunOptions(**OPTIONS))
    after = project / "after"
    said = (after / "run.log").read_text()
    assert said.count("from the reference after all") == 2  # once more for the page of the job that goes on
    monkeypatch.setattr(refine3d_first_maps, "begins_by_itself", lambda *_: False)
    at_once = refined("at_once").folder
    for name in ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc"):
        one, two = (mrc.read_volume(folder / name).values for folder in (after, at_once))
        np.testing.assert_array_equal(one.numpy(), two.numpy(), err_msg=name)


def test_details_of_first_maps_must_be_compared():
    given = Refine3DJobParams(
        particles=(),
        symmetry="O",
        mask_diameter_angstrom=150.0,
        initial_low_pass_angstrom=60.0,
        max_resolution_angstrom=25.0,
    )
    with pytest.raises(InputError, match=r"finer than 18\.8 Å, the details of first maps"):
        refine3d_first_maps.with_first_maps(SimpleNamespace(), given, ())
    local = replace(given, max_resolution_angstrom=None, healpix_order=5)
    with pytest.raises(InputError, match=r"the start \(order 5\) must come with the map that the angles hold for"):
        refine3d_first_maps.with_first_maps(SimpleNamespace(), local, ())


@pytest.mark.slow
def test_first_maps_that_were_interrupted_go_on_to_the_same_maps(project, monkeypatch):
    whole = refined("whole").folder
    advance = refine3d_first_maps.ab_initio.advance
    seen = []

    def interrupted(problem, params, state, executor, progress):
        seen.append(params.seed)
        if len(set(seen)) == 2 and state.iteration == 3:
            raise KeyboardInterrupt
        return advance(problem, params, state, executor, progress)

    with monkeypatch.context() as patch:
        patch.setattr(refine3d_first_maps.ab_initio, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refined("parted")
    continue_job("parted", JOB, options=RunOptions(**OPTIONS))
    for name in ("run_class001.mrc", "run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc"):
        one, two = (mrc.read_volume(folder / name).values for folder in (whole, project / "parted"))
        np.testing.assert_array_equal(one.numpy(), two.numpy(), err_msg=name)


def test_first_maps_are_made_until_a_pair_agrees_else_the_first_ones_are_begun_with_and_a_warning_says_so(monkeypatch):
    grid = ImageGrid.cubic(32, 5.0)
    lumpy = [Volume(values=one, grid=grid) for one in volumes(5, 32, 5.0, radius_angstrom=45.0, symmetry="O", seed=4)]
    settings = Refine3DJobParams(particles="none.star", symmetry="O", mask_diameter_angstrom=130.0)
    with_reference = replace(settings, reference="some.mrc")
    for given, made, expected in (
        (settings, [0, 1, 2, 0], (0, 0)),
        (settings, [0, 1, 2, 3, 4, 2], (2, 2)),
        (settings, [0, 1, 2, 3, 4, 3], (0, 1)),
        (with_reference, [0, 1, 2, 3, 4, 3], None),
    ):
        left, said, asked = list(made), [], []
        monkeypatch.setattr(
            refine3d_first_maps,
            "_first_map",
            lambda *taken, left=left, asked=asked: (asked.append(taken[3:]), lumpy[left.pop(0)])[1],
        )
        context = SimpleNamespace(progress=SimpleNamespace(message=lambda text: None))
        found = refine3d_first_maps.first_maps(context, None, given, said.append)
        assert asked == [(half, number) for number in range(len(made) // 2) for half in (0, 1)]
        if expected is None:
            assert found is None
            assert "from the reference after all" in said[0]
        else:
            assert [one is lumpy[number] for one, number in zip(found, expected, strict=True)] == [True, True]
            assert len(said) == (0 if expected[0] == expected[1] else 1)
