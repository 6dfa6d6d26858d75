import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from halfmap.data.particles import ParticleSet
from halfmap.errors import ComputeError, FormatError, InconsistentDataError, InputError, JobFailed
from halfmap.extraction.normalisation import background_mask
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion
from halfmap.io.mapped_stacks import MappedStacks
from halfmap.io.mrc import StackSource, StackWriter
from halfmap.jobs import particle_checks, particle_pass
from halfmap.jobs.particle_inputs import read_particle_inputs
from support.contexts import a_context
from support.shared_data import shared_data
from support.stack_projects import PIXEL_SIZE, SIDE, a_stack_project, some_images, write_stacks, write_table

MASK = 34.5


def read(context, table, **options):
    return read_particle_inputs(
        context, table, **{"mask_diameter_angstrom": MASK, "needs_ctf": True, "n_classes": 5, **options}
    )


def images_of(inputs, rows=None):
    rows = np.arange(len(inputs.particles)) if rows is None else rows
    return np.stack([inputs.images[inputs.source_of[row]].read([inputs.index_in_source[row]])[0] for row in rows])


def refused(root, table, error, **options):
    """Return the message of a refusal that came before any image was read."""
    with a_context(root) as context, pytest.raises(error) as caught:
        read(context, table, **options)
    assert not any("image" in label for label in context.progress.labels)
    said = str(caught.value)
    assert said.count("; ") >= 2, said
    assert "got" in said or "found" in said
    return said


def warnings_of(root, table, **options):
    with a_context(root) as context, read(context, table, **options) as inputs:
        assert [f"Warning: {one}" for one in inputs.warnings] == [
            text for text in context.progress.messages if text.startswith("Warning")
        ]
        return inputs.warnings


# what a good stack gives


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("n_stacks", [1, 7])
@pytest.mark.parametrize("in_one_file", [False, True])
def test_every_particle_has_its_image(tmp_path, monkeypatch, n_stacks, float16, in_one_file):
    monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", 0 if in_one_file else 200)
    project = a_stack_project(tmp_path, n_stacks=n_stacks, float16=float16)
    expected = project.images.astype(np.float16).astype(np.float32) if float16 else project.images
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        assert len(inputs.particles) == 60
        assert len(inputs.images) == 1
        assert inputs.warnings == ()
        assert len(inputs.rejected) == 0
        assert inputs.images[0].grid == ImageGrid.square(SIDE, PIXEL_SIZE)
        np.testing.assert_array_equal(images_of(inputs), expected)
        background = expected[:, background_mask(SIDE, MASK / 2 / PIXEL_SIZE).numpy()].astype(np.float64)
        np.testing.assert_allclose(inputs.background_mean, background.mean(axis=1), atol=1e-6)
        np.testing.assert_allclose(inputs.background_deviation, background.std(axis=1), rtol=1e-5)
        cached = list(tmp_path.rglob("halfmap-images-*/images.mrcs"))
        assert len(cached) == in_one_file
        if in_one_file:
            assert cached[0].stat().st_size == 4096 + 60 * SIDE**2 * (2 if float16 else 4)
        assert len(pickle.dumps(inputs.images[0])) < 8192
    assert not list(tmp_path.rglob("halfmap-images-*"))
    assert not list(context.folder.rglob("*.safetensors"))


def test_images_that_share_a_uid_are_said_unless_they_are_tilts_of_one_particle(tmp_path):
    names = write_stacks(tmp_path, some_images(20), n_stacks=1)
    uid = np.maximum(np.arange(1, 21), 3)  # the first three are one
    for columns, n_said in (({"uid": uid}, 1), ({"uid": uid, "tilt_index": np.arange(20)}, 0), ({}, 0)):
        with a_context(tmp_path) as context, read(context, write_table(tmp_path, names, **columns)) as inputs:
            assert sum("got 2 of 20 with the uid of another image" in one for one in inputs.warnings) == n_said


def test_rows_in_any_order_and_images_named_twice_keep_their_images(tmp_path, monkeypatch):
    images = some_images(20)
    names = write_stacks(tmp_path, images, n_stacks=4)
    order = np.random.default_rng(3).integers(0, 20, 45)
    table = write_table(tmp_path, [names[one] for one in order], uid=np.arange(1, 46))
    for most in (200, 0):
        monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", most)
        with a_context(tmp_path) as context, read(context, table) as inputs:
            np.testing.assert_array_equal(inputs.particles.uid, np.arange(1, 46))
            np.testing.assert_array_equal(images_of(inputs), images[order])
            n_copies = len(order) - len(np.unique(order))
            assert any(
                f"got {n_copies} of 45 that name one which an earlier row names" in one for one in inputs.warnings
            )
            if most == 0:
                assert len(inputs.images[0]) == len(np.unique(order))  # each image is kept once


def test_images_read_in_chunks_are_those_read_at_once(tmp_path, monkeypatch):
    project = a_stack_project(tmp_path)
    for most in (200, 0):
        monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", most)
        monkeypatch.setattr(particle_pass, "_CHUNK_BYTES", 17 * 4 * SIDE**2)
        with a_context(tmp_path) as context, read(context, project.table) as inputs:
            assert context.progress.advanced == 4
            np.testing.assert_array_equal(images_of(inputs), project.images)
            background = project.images[:, background_mask(SIDE, MASK / 2 / PIXEL_SIZE).numpy()]
            np.testing.assert_allclose(inputs.background_mean, background.mean(axis=1), atol=1e-6)


@pytest.mark.slow  # starts processes
def test_several_workers_leave_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", 0)
    monkeypatch.setattr(particle_pass, "_CHUNK_BYTES", 20 * 4 * SIDE**2)
    project = a_stack_project(tmp_path)
    found = []
    for workers in (1, 2):
        with a_context(tmp_path, workers=workers) as context, read(context, project.table) as inputs:
            found.append((images_of(inputs), inputs.background_deviation))
            assert context.progress.advanced >= 3
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_groups_with_other_sizes_and_pixel_sizes_have_sources_of_their_own(tmp_path):
    small, large = some_images(24), some_images(24, side=48, seed=3)
    names = write_stacks(tmp_path, small, name="Extract/small")
    names += write_stacks(tmp_path, large, name="Extract/large", pixel_size_angstrom=1.0)
    order = np.random.default_rng(5).permutation(48)
    table = write_table(tmp_path, [names[one] for one in order])
    particles = relion.read_particles(table)
    optics = type(particles.optics)(
        columns={name: np.repeat(values, 3, axis=0) for name, values in particles.optics.columns.items()}
        | {
            "optics_group": np.array([1, 2, 3]),
            "name": np.array(["a", "b", "c"], dtype=object),
            "pixel_size_angstrom": np.array([1.5, 1.0, 1.5]),
            "image_size_pixel": np.array([32, 48, 32]),
        }
    )
    group = np.where(order >= 24, 2, np.where(order % 2, 1, 3))
    columns = {**particles.columns, "optics_group": group}
    relion.write_particles(table, ParticleSet(columns=columns, optics=optics))
    with a_context(tmp_path) as context, read(context, table) as inputs:
        assert [source.grid for source in inputs.images] == [ImageGrid.square(32, 1.5), ImageGrid.square(48, 1.0)]
        np.testing.assert_array_equal(inputs.source_of, order >= 24)
        for row in (0, 7, 30):
            image = images_of(inputs, [row])[0]
            np.testing.assert_array_equal(image, small[order[row]] if order[row] < 24 else large[order[row] - 24])
        assert "images of 2 kinds, 32 px of 1.5 Å, 48 px of 1 Å: each is read on its own grid" in inputs.warnings[0]


def test_names_hold_from_the_project_folder_and_keep_their_uids(tmp_path):
    project = a_stack_project(tmp_path / "elsewhere")
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        assert inputs.particles["image_name"][0] == "000001@elsewhere/Extract/stack0.mrcs"
        np.testing.assert_array_equal(inputs.particles.uid, relion.read_particles(project.table).uid)


def test_single_images_without_number_are_read(tmp_path):
    images = some_images(4)
    names = []
    for number, image in enumerate(images):
        names.append(f"Extract/one{number}.mrc")
        (tmp_path / "Extract").mkdir(exist_ok=True)
        mrc.write_image(tmp_path / names[-1], image, ImageGrid.square(SIDE, PIXEL_SIZE))
    with a_context(tmp_path) as context, read(context, write_table(tmp_path, names), n_classes=1) as inputs:
        np.testing.assert_array_equal(images_of(inputs), images)


# where images are read from


def test_scratch_takes_the_file_and_is_left_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", 2)
    project = a_stack_project(tmp_path)
    with a_context(tmp_path, scratch=tmp_path / "scratch") as context, read(context, project.table) as inputs:
        assert inputs.images[0].headers[0].path.is_relative_to(tmp_path / "scratch")
        assert any(
            "60 images of 32 px in 3 stacks go into one file of 244.0 KiB" in text
            and "removed when the job ends" in text
            for text in context.progress.messages
        )
    assert list((tmp_path / "scratch").iterdir()) == []


def test_few_stacks_are_mapped_where_they_lie_and_that_is_said(tmp_path):
    project = a_stack_project(tmp_path)
    with a_context(tmp_path, scratch=tmp_path / "scratch") as context, read(context, project.table) as inputs:
        assert [header.path.name for header in inputs.images[0].headers] == [f"stack{n}.mrcs" for n in range(3)]
        assert any("3 stacks are read where they lie; they fit into memory" in one for one in context.progress.messages)
    with a_context(tmp_path, memory="200kB") as context, read(context, project.table):
        assert any("do not fit into 195.3 KiB of memory and are read" in one for one in context.progress.messages)


def test_stacks_on_the_network_go_to_scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(particle_pass, "is_on_network", lambda path: "Extract" in str(path))
    project = a_stack_project(tmp_path)
    with a_context(tmp_path, scratch=tmp_path / "scratch") as context, read(context, project.table):
        assert list((tmp_path / "scratch").glob("*/images.mrcs"))
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        assert len(inputs.images[0].headers) == 3


def test_without_room_images_are_read_from_their_stacks(tmp_path, monkeypatch):
    monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", 2)
    monkeypatch.setattr(particle_pass.ImageCache, "has_room", lambda *_: False)
    project = a_stack_project(tmp_path)
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        assert isinstance(inputs.images[0], MappedStacks)
        np.testing.assert_array_equal(images_of(inputs), project.images)
        assert any("has no room in" in text and "--scratch" in text for text in context.progress.messages)
        assert not list(context.folder.glob("halfmap-images-*"))


def test_images_of_four_bits_are_unpacked_into_one_file_or_read_from_their_stack(tmp_path, monkeypatch):
    values = np.random.default_rng(2).integers(0, 16, (30, SIDE, SIDE)).astype(np.uint8)
    names = write_stacks(tmp_path, values.astype(np.float32))
    stack = tmp_path / "Extract/stack0.mrcs"
    header = bytearray(stack.read_bytes()[:1024])
    header[12:16] = np.int32(101).tobytes()
    stack.write_bytes(bytes(header) + (values[:, :, ::2] | values[:, :, 1::2] << 4).tobytes())
    table = write_table(tmp_path, names)
    with a_context(tmp_path) as context, read(context, table) as inputs:
        assert isinstance(inputs.images[0], MappedStacks)
        np.testing.assert_array_equal(images_of(inputs), values)
    monkeypatch.setattr(particle_pass.ImageCache, "has_room", lambda *_: False)
    with a_context(tmp_path) as context, read(context, table) as inputs:
        assert isinstance(inputs.images[0], StackSource)
        np.testing.assert_array_equal(images_of(inputs), values)


def test_a_job_that_goes_on_reads_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", 0)
    project = a_stack_project(tmp_path)
    with a_context(tmp_path) as context:
        first = read(context, project.table)
        for cache in first.caches:
            os.close(cache._lock)  # as when the process is killed
    monkeypatch.setattr(particle_pass, "_pass", None)
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        np.testing.assert_array_equal(inputs.background_mean, first.background_mean)
        np.testing.assert_array_equal(images_of(inputs), project.images)
        assert any("are in" in text and "already" in text for text in context.progress.messages)
    assert not list(tmp_path.rglob("halfmap-images-*"))


def test_another_mask_or_moved_stacks_are_read_again_and_changed_ones_refused(tmp_path):
    project = a_stack_project(tmp_path)

    def interrupted(error=KeyboardInterrupt, **options):
        with (
            a_context(tmp_path) as context,
            pytest.raises(error) as caught,
            read(context, project.table, **options) as made,
        ):
            raise KeyboardInterrupt
        return made if error is KeyboardInterrupt else str(caught.value), context.progress.labels

    first, labels = interrupted()
    assert labels == ["Checking images"]
    assert interrupted()[1] == []
    other, labels = interrupted(mask_diameter_angstrom=30)
    assert labels == ["Checking images"]
    assert not np.allclose(other.background_mean, first.background_mean)
    write_stacks(tmp_path, project.images, n_stacks=3)
    again, labels = interrupted(mask_diameter_angstrom=30)
    assert labels == ["Checking images"]
    np.testing.assert_array_equal(again.background_mean, other.background_mean)
    changed = project.images.copy()
    changed[[5, 8]] *= 1.01
    write_stacks(tmp_path, changed, n_stacks=3)
    for _ in range(2):  # asking again does not help
        said, _ = interrupted(InconsistentDataError, mask_diameter_angstrom=30)
        assert "those that the job began with; got 2 others among 60" in said
    write_stacks(tmp_path, project.images, n_stacks=3)
    interrupted(mask_diameter_angstrom=30)


def test_what_was_cached_goes_when_the_job_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", 0)
    project = a_stack_project(tmp_path)

    def fail(inputs):
        with inputs:
            assert list(tmp_path.rglob("halfmap-images-*"))
            raise ComputeError("the device is gone")

    with a_context(tmp_path) as context, pytest.raises(ComputeError):
        fail(read(context, project.table))
    assert not list(tmp_path.rglob("halfmap-images-*"))
    monkeypatch.setattr(particle_checks, "stack_warnings", None)
    with a_context(tmp_path) as context, pytest.raises(TypeError):
        read(context, project.table)
    assert not list(tmp_path.rglob("halfmap-images-*"))


def test_the_memory_of_reading_is_told_and_kept(tmp_path):
    project = a_stack_project(tmp_path)
    with a_context(tmp_path, memory="100kB") as context, read(context, project.table):
        assert "Needs at most 96.0 KiB of memory for reading and checking images." in context.progress.messages
    with a_context(tmp_path, memory="10kB") as context, pytest.raises(InputError, match="raise --memory"):
        read(context, project.table)


# single bad images


def spoiled(tmp_path, n_bad=2, **options):
    images = some_images(60)
    bad = [7, 31, 40, 41, 42, 50, 51][:n_bad]
    for row in bad:
        images[row, 3, 4] = np.nan
    return a_stack_project(tmp_path, images=images, **options), bad


@pytest.mark.parametrize("in_one_file", [False, True])
def test_bad_images_are_set_aside_with_their_reasons(tmp_path, monkeypatch, in_one_file):
    monkeypatch.setattr(particle_pass, "MOST_MAPPED_STACKS", 0 if in_one_file else 200)
    project, bad = spoiled(tmp_path)
    given = relion.read_particles(project.table)
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        kept = np.setdiff1d(np.arange(60), bad)
        np.testing.assert_array_equal(inputs.particles.uid, given.uid[kept])
        np.testing.assert_array_equal(images_of(inputs), project.images[kept])
        assert len(inputs.background_mean) == 58
        aside = relion.read_particles(context.folder / "rejected.star")
        np.testing.assert_array_equal(aside.uid, given.uid[bad])
        np.testing.assert_array_equal(aside.uid, inputs.rejected.uid)
        assert "1 of 1024 values are NaN or infinite" in aside["halfmapReason"][0]
        np.testing.assert_array_equal(aside["defocus_u_angstrom"], given["defocus_u_angstrom"][bad])
        said = [text for text in context.progress.messages if "Set aside" in text]
        assert said == ["Set aside 2 of 60 particles, listed with their reasons in Class2D/job001/rejected.star."]


def test_more_than_a_tenth_of_bad_images_ends_the_job(tmp_path):
    project, _ = spoiled(tmp_path, n_bad=7)
    with a_context(tmp_path) as context, pytest.raises(JobFailed) as caught:
        read(context, project.table)
    assert "At most a tenth of the particles may be bad; got 7 bad ones among 60" in str(caught.value)
    assert "values are NaN or infinite" in str(caught.value)
    assert "mend or remove them" in str(caught.value)


def test_a_masked_stack_ends_the_job_with_the_reason(tmp_path):
    images = some_images(30)
    images[:, background_mask(SIDE, 11).numpy()] = 0
    project = a_stack_project(tmp_path, images=images)
    with (
        a_context(tmp_path) as context,
        pytest.raises(JobFailed, match=r"outside the mask, is constant .* is it masked"),
    ):
        read(context, project.table)


def test_images_of_one_broken_stack_among_many_are_set_aside(tmp_path):
    project = a_stack_project(tmp_path, n_stacks=20)
    os.truncate(tmp_path / "Extract/stack3.mrcs", 3000)
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        np.testing.assert_array_equal(images_of(inputs), np.delete(project.images, [9, 10, 11], axis=0))
        assert all("the file is truncated" in reason for reason in inputs.rejected["halfmapReason"])


def test_a_broken_stack_that_holds_all_images_ends_the_job_with_the_reason(tmp_path):
    project = a_stack_project(tmp_path, n_stacks=1)
    os.truncate(tmp_path / "Extract/stack0.mrcs", 3000)
    with a_context(tmp_path) as context, pytest.raises(JobFailed, match=r"got 60 bad ones .* the file is truncated"):
        read(context, project.table)


def test_images_that_cannot_be_read_are_set_aside_one_by_one(tmp_path, monkeypatch):
    project = a_stack_project(tmp_path)

    def unreadable(header, sections):
        if header.path.name == "stack1.mrcs" and 4 in sections:
            raise OSError(5, "Input/output error")
        return read_sections(header, sections)

    read_sections = particle_pass.read_sections
    monkeypatch.setattr(particle_pass, "read_sections", unreadable)
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        assert inputs.rejected["halfmapReason"].tolist() == ["it cannot be read: Input/output error"]
        np.testing.assert_array_equal(images_of(inputs), np.delete(project.images, 24, axis=0))


def test_what_is_odd_about_the_images_is_told(tmp_path):
    project = a_stack_project(tmp_path, images=some_images(60) * -37.2 + 1204)
    warnings = warnings_of(tmp_path, project.table)
    assert "got mean 1204 and deviation 37." in warnings[0]
    assert "should be brighter than what is around them" in warnings[1]


# tables that are refused before any image is read


def test_wrong_tables_are_told_without_loading_torch():
    loaded = "import sys, halfmap.jobs.particle_inputs; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "False"


def test_a_table_without_rows_or_images_is_refused(tmp_path):
    project = a_stack_project(tmp_path)
    particles = relion.read_particles(project.table)
    relion.write_particles(project.table, particles.without_columns("image_name"))
    said = refused(tmp_path, project.table, InconsistentDataError)
    assert "must have the column _rlnImageName; got none; extract the particles first" in said
    relion.write_particles(project.table, particles.take([]))
    said = refused(tmp_path, project.table, InputError)
    assert "must list particles; got none; choose a file with rows" in said


def test_more_classes_than_particles_are_refused(tmp_path):
    said = refused(tmp_path, a_stack_project(tmp_path).table, InputError, n_classes=61)
    assert "--classes must not exceed the number of particles; got 61 classes for 60 particles; ask for fewer" in said


def test_missing_stacks_are_named_with_where_they_were_looked_for(tmp_path):
    project = a_stack_project(tmp_path, n_stacks=10)
    for number in range(2, 9):
        (tmp_path / f"Extract/stack{number}.mrcs").unlink()
    said = refused(tmp_path, project.table, InputError)
    assert f"got 7 below {tmp_path} that do not, with 42 of 60 particles: Extract/stack2.mrcs, " in said
    assert "Extract/stack6.mrcs and 2 more; bring them back, or remove their particles" in said
    for path in (tmp_path / "Extract").glob("*.mrcs"):
        path.unlink()
    said = refused(tmp_path, project.table, FormatError)
    assert "such as Extract/stack0.mrcs; found none of them below" in said
    assert str(tmp_path / "Extract") in said
    assert "run in the project folder" in said


def test_a_number_beyond_its_stack_is_refused(tmp_path):
    names = write_stacks(tmp_path, some_images(6))
    table = write_table(tmp_path, [*names, "000009@Extract/stack0.mrcs"])
    said = refused(tmp_path, table, InputError)
    assert "000009@Extract/stack0.mrcs must be one of the 6 images" in said
    assert "got a number beyond the stack (1 such names); check that" in said


def test_a_stack_named_as_one_image_is_refused(tmp_path):
    write_stacks(tmp_path, some_images(6))
    said = refused(tmp_path, write_table(tmp_path, ["Extract/stack0.mrcs"]), InputError, n_classes=1)
    assert "must be a single image; got 6 sections" in said
    assert "name one image as 000001@file" in said


def test_a_mask_wider_than_the_box_is_refused_with_the_widest(tmp_path):
    project = a_stack_project(tmp_path)
    said = refused(tmp_path, project.table, InputError, mask_diameter_angstrom=48.1)
    assert "--mask-diameter must not exceed the box; got 48.1 Å for images of 32 px of 1.5 Å in optics group 1" in said
    assert "choose at most 48 Å, or extract larger images" in said
    with a_context(tmp_path) as context, read(context, project.table, mask_diameter_angstrom=48):
        pass


def test_a_mask_of_a_few_pixels_is_refused(tmp_path):
    project = a_stack_project(tmp_path)
    said = refused(tmp_path, project.table, InputError, mask_diameter_angstrom=11.9)
    assert "--mask-diameter must span at least 8 px; got 11.9 Å where a pixel is 1.5 Å" in said
    assert "not in nm" in said


@pytest.mark.parametrize("lost", ["defocus_u_angstrom", "defocus_v_angstrom"])
def test_particles_without_ctf_are_refused_only_where_it_is_needed(tmp_path, lost):
    project = a_stack_project(tmp_path)
    relion.write_particles(project.table, relion.read_particles(project.table).without_columns(lost))
    said = refused(tmp_path, project.table, InconsistentDataError)
    label = {"u": "_rlnDefocusU", "v": "_rlnDefocusV"}[lost[8]]
    assert (
        f"must have the columns of the CTF; got no {label}; add them, or leave the CTF uncorrected with --no-ctf"
        in said
    )
    with a_context(tmp_path) as context, read(context, project.table, needs_ctf=False) as inputs:
        assert len(inputs.particles) == 60


def test_optics_without_voltage_aberration_and_contrast_are_refused(tmp_path):
    project = a_stack_project(tmp_path)
    particles = relion.read_particles(project.table)
    optics = particles.optics.without_columns("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
    relion.write_particles(project.table, replace(particles, optics=optics))
    said = refused(tmp_path, project.table, InconsistentDataError)
    assert "got no _rlnVoltage, _rlnSphericalAberration, _rlnAmplitudeContrast; add them" in said
    assert "--no-ctf" in said


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (
            {"defocus_u_angstrom": np.full(60, 1.8), "defocus_v_angstrom": np.full(60, 1.6)},
            ("must be in Å; got at most 1.7, which looks like µm", "by 10000"),
        ),
        (
            {"defocus_u_angstrom": np.full(60, 2e6), "defocus_v_angstrom": np.full(60, 2e6)},
            ("must be in Å and below 100 µm; got a median of 2e+06 Å", "--no-ctf"),
        ),
        (
            {"defocus_u_angstrom": np.zeros(60), "defocus_v_angstrom": np.zeros(60)},
            ("must not be 0; got 0 for all", "--no-ctf"),
        ),
        ({"voltage_kv": [0.0]}, ("must be in kV, such as 300; got 0", "correct _rlnVoltage")),
        ({"voltage_kv": [300000.0]}, ("must be in kV, such as 300; got 300000", "correct _rlnVoltage")),
        ({"spherical_aberration_mm": [-1.0]}, ("must be in mm, such as 2.7; got -1", "correct _rlnSpherical")),
        ({"amplitude_contrast": [10.0]}, ("must be from 0 to 1, such as 0.1; got 10", "correct _rlnAmplitude")),
    ],
)
def test_values_that_no_microscope_has_are_refused(tmp_path, columns, parts):
    table = write_table(tmp_path, write_stacks(tmp_path, some_images(60)), **columns)
    said = refused(tmp_path, table, InconsistentDataError)
    for part in parts:
        assert part in said
    with a_context(tmp_path) as context, read(context, table, needs_ctf=False):
        pass


def test_odd_but_possible_optics_are_told(tmp_path):
    defocus = np.full(60, 15000.0)
    defocus[[3, 8]] = -200, 1.5e6
    names = write_stacks(tmp_path, some_images(60))
    columns = {"defocus_u_angstrom": defocus, "defocus_v_angstrom": defocus, "ctf_premultiplied": [True]}
    table = write_table(tmp_path, names, spherical_aberration_mm=[0.0], **columns)
    warnings = warnings_of(tmp_path, table)
    assert "got -200 to 1.5e+06 Å for 2 of 60 particles" in warnings[0]
    assert "should be that of the microscope; got 0 mm; correct" in warnings[1]
    assert "multiplied by their CTF already." in warnings[2]
    assert warnings_of(tmp_path, table, needs_ctf=False) == (
        "The images are multiplied by their CTF already, and stay so without a correction: averages carry its square.",
    )


def without_pixel_size(table):
    particles = relion.read_particles(table)
    relion.write_particles(table, replace(particles, optics=particles.optics.without_columns("pixel_size_angstrom")))


def test_a_pixel_size_that_the_table_lacks_is_taken_from_the_headers(tmp_path):
    project = a_stack_project(tmp_path)
    without_pixel_size(project.table)
    with a_context(tmp_path) as context, read(context, project.table) as inputs:
        assert inputs.images[0].grid.pixel_size_angstrom == PIXEL_SIZE
        assert (
            "states no pixel size for optics group 1 (opticsGroup1): the 1.5 Å of the header of" in inputs.warnings[0]
        )
    for path in (tmp_path / "Extract").glob("*.mrcs"):
        raw = bytearray(path.read_bytes())
        raw[40:52] = bytes(12)
        path.write_bytes(raw)
    said = refused(tmp_path, project.table, InconsistentDataError)
    assert "must be known; got none in its table and none in the header of" in said
    assert "add the column _rlnImagePixelSize" in said


@pytest.mark.parametrize("size", [0.0, -1.5])
def test_a_pixel_size_that_is_not_positive_is_refused(tmp_path, size):
    table = write_table(tmp_path, write_stacks(tmp_path, some_images(60)), pixel_size_angstrom=[size])
    said = refused(tmp_path, table, InconsistentDataError)
    assert f"must be positive; got {size:g} Å; correct _rlnImagePixelSize" in said


@pytest.mark.parametrize(("size", "is_told"), [(1.52, False), (1.55, True), (0.75, True)])
def test_a_pixel_size_unlike_the_headers_is_told_with_both(tmp_path, size, is_told):
    table = write_table(tmp_path, write_stacks(tmp_path, some_images(60)), pixel_size_angstrom=[size])
    warnings = warnings_of(tmp_path, table, mask_diameter_angstrom=20)
    assert len(warnings) == is_told
    if is_told:
        assert f"got {size:g} Å in the table and 1.5 Å in the header of" in warnings[0]
        assert "correct _rlnImagePixelSize if it is the wrong one" in warnings[0]


def test_stacks_of_one_group_with_several_pixel_sizes_are_refused(tmp_path):
    names = write_stacks(tmp_path, some_images(30), name="Extract/a")
    names += write_stacks(tmp_path, some_images(30), name="Extract/b", pixel_size_angstrom=2.0)
    said = refused(tmp_path, write_table(tmp_path, names), InconsistentDataError)
    assert "must have one pixel size; got 1.5 Å in the header of" in said
    assert "and 2 Å in that of" in said
    assert "give them optics groups of their own" in said


def test_images_of_one_group_with_several_sizes_are_refused(tmp_path):
    names = write_stacks(tmp_path, some_images(30), name="Extract/a")
    names += write_stacks(tmp_path, some_images(30, side=40), name="Extract/b")
    said = refused(tmp_path, write_table(tmp_path, names), InconsistentDataError)
    assert "must have one size; got 32 × 32 pixels in" in said
    assert "and 40 × 40 pixels in" in said
    assert "give them optics groups of their own" in said


def test_images_of_another_size_than_the_table_says_or_not_square_are_refused(tmp_path):
    names = write_stacks(tmp_path, some_images(30))
    said = refused(tmp_path, write_table(tmp_path, names, side=64), InconsistentDataError)
    assert "must have the 64 × 64 pixels of _rlnImageSize; got 32 × 32 pixels in" in said
    assert "check that the table belongs to the stacks" in said
    with StackWriter(tmp_path / "Extract/stack0.mrcs", ImageGrid(shape=(30, 32), pixel_size_angstrom=1.5)) as writer:
        writer.write(some_images(30)[:, :30])
    said = refused(tmp_path, write_table(tmp_path, names), InconsistentDataError)
    assert "must be square; got 32 × 30 pixels in" in said
    assert "extract them again" in said


def test_volumes_are_refused(tmp_path):
    table = write_table(tmp_path, write_stacks(tmp_path, some_images(30)), image_dimensionality=[3])
    said = refused(tmp_path, table, InconsistentDataError)
    assert "Particles must be images; got volumes (_rlnImageDimensionality 3) in optics group 1" in said
    assert "choose the table of their two-dimensional images" in said


# real tables


@pytest.mark.parametrize(
    ("name", "n", "grid"),
    [
        ("cryodrgn_tests/relion31.star", 5, ImageGrid.square(256, 2.806)),
        ("cryodrgn_tests/relion31.v2.star", 5, ImageGrid.square(256, 2.806)),
        ("cryodrgn_tests/sta_testing_bin8.star", 219, ImageGrid.square(64, 1.96)),
    ],
)
def test_real_stacks_of_relion_are_read(tmp_path, name, n, grid):
    table = shared_data(f"particles/{name}")
    with a_context(tmp_path) as context, read(context, table, mask_diameter_angstrom=100) as inputs:
        assert len(inputs.particles) == n
        assert inputs.images[0].grid == grid
        assert "1 Å in the header of" in inputs.warnings[0]
        images = images_of(inputs, [0, n - 1])
        names = inputs.particles["image_name"][[0, n - 1]]
        np.testing.assert_array_equal(images, StackSource(names, tmp_path, grid).read([0, 1]))


def test_a_real_stack_of_dark_particles_in_the_layout_of_relion_3_0_is_told(tmp_path):
    folder = shared_data("particles/tomodrgn_10076_simulated")
    (tmp_path / "data").symlink_to(folder)
    shutil.copy(folder / "10076_classE_32_sim.star", tmp_path)
    with a_context(tmp_path) as context:
        inputs = read(context, tmp_path / "10076_classE_32_sim.star", mask_diameter_angstrom=300)
        assert inputs.images[0].grid == ImageGrid.square(32, 13.1)
        assert len(inputs.particles) == 720
        assert "got mean 1.364 and deviation 6.796" in inputs.warnings[0]
        assert "they seem to be dark" in inputs.warnings[1]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (
            "star/scipion_esrf_input_particles.star",
            "such as Runs/000759_ProtRelionClassify2D/extra/input/mic_000001.mrcs",
        ),
        ("star/aspire/sample_particles_relion30.star", "such as sample.mrcs"),
        ("star/aspire/sample_particles_relion31.star", "such as sample.mrcs"),
        ("star/simplecryoem_bgal_tutorial/relion_proj_batch.star", "such as relion_proj_batch.mrcs"),
        ("particles/cryodrgn_tests/relion5.star", "such as toy_images_a.mrcs"),
        ("particles/cryodrgn_tests/relion31.6opticsgroups.star", "such as Polish/job520/Micrographs/0003_shiny.mrcs"),
        ("star/cryocat/relion_3.0.star", "got no _rlnDefocusU, _rlnDefocusV, _rlnAmplitudeContrast"),
        ("star/aspire/sample_incomplete_ctf_params.star", "got no _rlnVoltage"),
    ],
)
def test_real_tables_whose_images_are_not_here_are_refused_with_reason(tmp_path, name, part):
    table = shared_data(name)
    with a_context(tmp_path) as context, pytest.raises((FormatError, InconsistentDataError)) as caught:
        read(context, table, n_classes=1, mask_diameter_angstrom=100)
    assert part in str(caught.value)
