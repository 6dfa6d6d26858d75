from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import halfmap
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.picks import Picks
from halfmap.errors import FormatError, InconsistentDataError, InputError, JobFailed, ProjectError
from halfmap.extraction.normalisation import background_mask
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion, star
from halfmap.io.mrc import StackSource
from halfmap.units import Length
from support.projects import PIXEL_SIZE, SHAPE, a_small_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = a_small_project(tmp_path / "project")
    monkeypatch.chdir(made.root)
    return made


def extracted(project, **options):
    settings = {"box_pixel": 48, "float16": False, "workers": 1, **options}
    return halfmap.extract(micrographs=project.micrographs, picks=project.coordinates, **settings)


def images_of(project, particles):
    names = particles["image_name"]
    return StackSource(names, project.root).read(np.arange(len(names)))


def test_every_pick_becomes_a_particle_with_its_micrographs_ctf(project):
    particles = relion.read_particles(extracted(project).main_output)
    assert len(particles) == 18
    assert set(particles["micrograph_name"]) == set(project.positions)
    np.testing.assert_array_equal(np.unique(particles["defocus_u_angstrom"]), [15000, 15500, 16000])
    assert particles.optics["pixel_size_angstrom"][0] == PIXEL_SIZE
    assert particles.optics["image_size_pixel"][0] == 48
    assert not particles.optics["ctf_premultiplied"][0]


def test_particles_lie_on_the_plane_of_defocus_that_was_fitted_to_their_micrograph(project):
    table = relion.read_micrographs(project.micrographs)
    slopes = {"halfmapDefocusSlopeX": "0.5", "halfmapDefocusSlopeY": "-0.25"}
    columns = {name: np.full(len(table), text, dtype=object) for name, text in slopes.items()}
    flat = relion.read_particles(extracted(project).main_output)
    relion.write_micrographs(project.micrographs, table.with_columns(**columns))
    tilted = relion.read_particles(extracted(project).main_output)
    away = (tilted["position_pixel"] - (np.array(SHAPE[::-1]) - 1) / 2) * PIXEL_SIZE
    for name in ("defocus_u_angstrom", "defocus_v_angstrom"):
        np.testing.assert_allclose(tilted[name] - flat[name], away @ [0.5, -0.25], atol=0.01)  # two decimals
    columns["halfmapDefocusSlopeY"][1] = "nan"
    relion.write_micrographs(project.micrographs, table.with_columns(**columns))
    with pytest.raises(InconsistentDataError, match=r"SlopeY must be a finite number; got nan for .*mic2"):
        extracted(project)


def test_what_rounding_cut_off_the_position_stays_in_the_offset(project):
    particles = relion.read_particles(extracted(project).main_output)
    position = particles["position_pixel"] - particles["origin_angstrom"] / PIXEL_SIZE
    np.testing.assert_allclose(position, np.concatenate(list(project.positions.values())), atol=1e-5)  # six decimals
    np.testing.assert_array_equal(particles["position_pixel"], np.rint(particles["position_pixel"]))


def test_applying_the_offset_centres_the_particle(project):
    particles = relion.read_particles(extracted(project).main_output)
    images = images_of(project, particles)
    y, x = np.mgrid[:48, :48] - 24
    weight = np.clip(images, 0, None) * (np.hypot(x, y) < 14)
    centre = np.stack([(weight * x).sum((1, 2)), (weight * y).sum((1, 2))], axis=1) / weight.sum((1, 2))[:, None]
    offset = centre + particles["origin_angstrom"] / PIXEL_SIZE
    # neighbours and noise move single centres; their mean over 18 particles stays within a quarter pixel
    assert np.abs(np.median(offset, axis=0)).max() < 0.25


def test_backgrounds_have_mean_zero_and_deviation_one_in_the_written_file(project):
    particles = relion.read_particles(extracted(project, rescale_pixel=32, float16=True).main_output)
    values = images_of(project, particles)[:, background_mask(32, 12).numpy()].astype(np.float64)
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=0.02)
    np.testing.assert_allclose(values.std(axis=1), 1, atol=0.02)


def test_the_result_is_the_same_for_any_number_of_workers(project):
    alone = extracted(project)
    together = extracted(project, workers=2)
    for name in ("mic1", "mic2", "mic3"):
        first = (alone.folder / f"Micrographs/{name}.mrcs").read_bytes()
        assert first == (together.folder / f"Micrographs/{name}.mrcs").read_bytes()


@pytest.mark.parametrize("n_picks", [6, 1])
def test_a_window_without_any_variation_is_set_aside_alone(project, n_picks):
    path, where = project.root / "Micrographs/mic1.mrc", project.positions["Micrographs/mic1.mrc"]
    image, (x, y) = mrc.read_image(path), np.rint(where[0]).astype(int)
    image[max(y - 24, 0) : y + 24, max(x - 24, 0) : x + 24] = 7.0
    mrc.write_image(path, image, ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE))
    picks = Picks.of_micrograph("Micrographs/mic1.mrc", where[:n_picks], source="truth")
    relion.write_coordinates(project.coordinates / "mic1_pick.star", picks)
    result = extracted(project)
    particles = relion.read_particles(result.main_output)
    assert len(particles) == 12 + n_picks - 1
    assert np.isfinite(images_of(project, particles)).all()
    aside = star.read(result.folder / "rejected.star")["particles"]
    np.testing.assert_array_equal(aside.text("halfmapReason"), ["background is constant"])


def test_box_wholly_outside_is_set_aside_with_its_reason(project):
    far = project.coordinates / "mic2_pick.star"
    far.write_text(far.read_text().rstrip() + "\n5000 5000 0 0 0 77\n")
    result = extracted(project)
    assert len(relion.read_particles(result.main_output)) == 18
    rejected = star.read(result.folder / "rejected.star")["particles"]
    assert rejected.text("rlnMicrographName").tolist() == ["Micrographs/mic2.mrc"]
    assert "wholly outside" in rejected.text("halfmapReason")[0]


def test_micrographs_without_picks_and_picks_without_micrograph_are_named(project):
    (project.coordinates / "mic3_pick.star").rename(project.coordinates / "mic9_pick.star")
    result = extracted(project)
    log = (result.folder / "run.log").read_text()
    assert "1 micrographs have no picks: Micrographs/mic3.mrc" in log
    assert "6 picks lie in 1 micrographs that the table does not have: mic9" in log


def test_nothing_matching_is_an_error_that_shows_both_names(project):
    for path in project.coordinates.glob("*.star"):
        path.rename(path.with_name("other_" + path.name))
    with pytest.raises(InconsistentDataError, match=r"must lie in micrographs .* other_mic1.* Micrographs/mic1.mrc"):
        extracted(project)


@pytest.mark.parametrize("damage", ["nan", "short"])
def test_one_bad_micrograph_is_set_aside_and_the_job_goes_on(project, damage):
    path = project.root / "Micrographs/mic2.mrc"
    spoil(path, damage)
    result = extracted(project)
    assert set(relion.read_particles(result.main_output)["micrograph_name"]) == {
        "Micrographs/mic1.mrc",
        "Micrographs/mic3.mrc",
    }
    table = star.read(result.folder / "rejected.star")["micrographs"]
    assert table.text("rlnMicrographName").tolist() == ["Micrographs/mic2.mrc"]
    assert {"nan": "x=7, y=5", "short": "bytes"}[damage] in table.text("halfmapReason")[0]


def test_mostly_bad_micrographs_end_the_job_with_the_first_reasons(project):
    spoil(project.root / "Micrographs/mic1.mrc", "nan")
    spoil(project.root / "Micrographs/mic2.mrc", "nan")
    with pytest.raises(JobFailed, match=r"At most a tenth .*mic1.mrc.*finite"):
        extracted(project)


def test_micrograph_of_another_size_is_set_aside(project):
    grid = ImageGrid(shape=(64, 64), pixel_size_angstrom=PIXEL_SIZE)
    mrc.write_image(project.root / "Micrographs/mic3.mrc", np.ones((64, 64), np.float32), grid)
    result = extracted(project)
    table = star.read(result.folder / "rejected.star")["micrographs"]
    assert f"{SHAPE[1]}×{SHAPE[0]} px; got 64×64 px" in table.text("halfmapReason")[0]


def test_odd_box_is_refused_before_anything_is_made(project):
    with pytest.raises(InputError, match="--box must be even; got 47; use 48"):
        extracted(project, box_pixel=47)
    assert not (project.root / "Extract").exists()


def test_box_larger_than_the_micrograph_is_refused_before_a_window_is_cut(project):
    with pytest.raises(InconsistentDataError, match=r"--box must not exceed the micrographs; got 242 px .* 240 × 200"):
        extracted(project, box_pixel=242)
    assert not list(project.root.glob("Extract/**/*.mrcs"))


def test_particles_that_the_disk_cannot_hold_are_refused_before_they_are_cut(project, monkeypatch):
    needed = 18 * 48 * 48 * 4
    free = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr("halfmap.jobs.extract_micrograph.disk_usage", lambda folder: free)
    with pytest.raises(ProjectError, match="must hold the particles"):
        extracted(project)
    free.free = needed
    assert extracted(project).main_output.exists()


def test_missing_column_names_file_and_label(project):
    path = project.coordinates / "mic1_pick.star"
    path.write_text(path.read_text().replace("_rlnCoordinateY", "_rlnSomethingElse"))
    with pytest.raises(FormatError, match=r"mic1_pick.star.*_rlnCoordinateY"):
        extracted(project)


def test_picks_are_kept_above_the_figure_of_merit_asked_for(project):
    path = project.coordinates / "mic1_pick.star"
    star_file = star.read(path)
    table = next(iter(star_file))
    merit = [str(value) for value in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0)]
    star.write(path, [star.StarTable(name="", columns={**table.columns, "rlnAutopickFigureOfMerit": merit})])
    result = extracted(project, min_fom=0.5)
    particles = relion.read_particles(result.main_output)
    np.testing.assert_array_equal(particles["figure_of_merit"], [1, 2, 3])


def test_boxes_over_the_edge_can_be_left_out(project):
    path = project.coordinates / "mic1_pick.star"
    path.write_text(path.read_text().rstrip() + "\n2 100 0 0 0 78\n")
    assert len(relion.read_particles(extracted(project).main_output)) == 19
    assert len(relion.read_particles(extracted(project, max_outside=0.25).main_output)) == 18


def test_reextraction_leaves_the_particle_where_it_is_and_its_uid(project):
    first = relion.read_particles(extracted(project).main_output)
    moved = first.with_columns(origin_angstrom=first["origin_angstrom"] + np.array([7.3, -4.9]))
    path = project.root / "moved.star"
    relion.write_particles(path, moved)
    again = relion.read_particles(
        halfmap.extract(reextract=path, recenter_angstrom=(0, 0, 0), box_pixel=64, float16=False).main_output
    )
    np.testing.assert_array_equal(again.uid, first.uid)
    np.testing.assert_allclose(
        again["position_pixel"] - again["origin_angstrom"] / PIXEL_SIZE,
        moved["position_pixel"] - moved["origin_angstrom"] / PIXEL_SIZE,
        atol=1e-5,
    )
    assert np.abs(again["origin_angstrom"]).max() <= PIXEL_SIZE / 2 + 1e-6


def test_reextraction_without_recentring_changes_scale_alone(project):
    first = extracted(project)
    again = relion.read_particles(
        halfmap.extract(reextract=first.main_output, box_pixel=48, rescale_pixel=24, float16=False).main_output
    )
    before = relion.read_particles(first.main_output)
    np.testing.assert_array_equal(again["position_pixel"], before["position_pixel"])
    np.testing.assert_array_equal(again["origin_angstrom"], before["origin_angstrom"])
    assert again.optics["pixel_size_angstrom"][0] == 2 * PIXEL_SIZE


@pytest.mark.parametrize("correction", ["premultiply_ctf", "phase_flip"])
def test_ctf_is_applied_without_the_phases_of_a_beam_tilt_which_stay_in_the_optics(project, correction):
    plain = relion.read_particles(extracted(project, **{correction: True}).main_output)
    micrographs = relion.read_micrographs(project.micrographs)
    tilted = micrographs.optics.with_columns(beam_tilt_mrad=np.array([[3.0, -2.0]]))
    relion.write_micrographs(project.micrographs, replace(micrographs, optics=tilted))
    particles = relion.read_particles(extracted(project, **{correction: True}).main_output)
    np.testing.assert_array_equal(particles.optics["beam_tilt_mrad"], [[3.0, -2.0]])
    np.testing.assert_array_equal(images_of(project, particles), images_of(project, plain))


@pytest.mark.parametrize("options", [{}, {"recenter_angstrom": (0, 0, 0)}, {"reset_offsets": True}])
def test_fractions_of_positions_that_were_never_extracted_are_kept(project, options):
    where = np.concatenate(list(project.positions.values()))
    first = relion.read_particles(extracted(project).main_output).without_columns("image_name")
    path = project.root / "known.star"
    relion.write_particles(path, first.with_columns(position_pixel=where, origin_angstrom=np.zeros((18, 2))))
    again = relion.read_particles(
        halfmap.extract(reextract=path, box_pixel=48, float16=False, workers=1, **options).main_output
    )
    np.testing.assert_allclose(again["position_pixel"] - again["origin_angstrom"] / PIXEL_SIZE, where, atol=2e-6)
    np.testing.assert_array_equal(again["position_pixel"], np.rint(again["position_pixel"]))


def test_offsets_can_be_reset(project):
    first = extracted(project)
    again = relion.read_particles(
        halfmap.extract(reextract=first.main_output, reset_offsets=True, box_pixel=48, float16=False).main_output
    )
    assert not again["origin_angstrom"].any()


def test_columns_that_are_not_known_survive_reextraction(project):
    first = extracted(project)
    particles = relion.read_particles(first.main_output).with_columns(rlnHelicalTubeID="3")
    path = project.root / "helical.star"
    relion.write_particles(path, particles)
    again = halfmap.extract(reextract=path, box_pixel=48, float16=False)
    assert set(relion.read_particles(again.main_output)["rlnHelicalTubeID"]) == {"3"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of --picks and --reextract; got neither"),
        ({"picks": "Coordinates", "reextract": "x.star"}, "got both"),
        ({"picks": "Coordinates"}, "must know the micrographs"),
        ({"reextract": "x.star", "recenter_angstrom": (0, 0, 0), "reset_offsets": True}, "must not go with"),
    ],
)
def test_contradicting_inputs_are_refused(project, options, message):
    with pytest.raises(InputError, match=message):
        halfmap.extract(**options)


def spoil(path, damage):
    if damage == "short":
        path.write_bytes(path.read_bytes()[:-1000])
        return
    data = bytearray(path.read_bytes())
    offset = 1024 + 4 * (5 * SHAPE[1] + 7)
    data[offset : offset + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(bytes(data))


def test_optics_groups_of_several_pixel_sizes_are_extracted_shown_and_measured_together(project):
    micrographs = relion.read_micrographs(project.micrographs)
    optics = OpticsGroups(
        columns={
            "optics_group": [1, 2],
            "voltage_kv": [300.0, 200.0],
            "spherical_aberration_mm": [2.7, 2.7],
            "amplitude_contrast": [0.1, 0.1],
            "micrograph_pixel_size_angstrom": [PIXEL_SIZE, 1.5],
        }
    )
    table = replace(micrographs, optics=optics).with_columns(optics_group=np.array([1, 2, 2]))
    relion.write_micrographs(project.micrographs, table)
    output = extracted(project, rescale_pixel=32, background_diameter=Length(60.0)).main_output
    particles = relion.read_particles(output)
    np.testing.assert_allclose(particles.optics["pixel_size_angstrom"], [3.0, 2.25])
    images = StackSource(particles["image_name"], project.root, ImageGrid.square(32, 1.0)).read(np.arange(18))
    for number, radius in ((1, 10), (2, 13)):
        values = images[particles["optics_group"] == number][:, background_mask(32, radius).numpy()]
        np.testing.assert_allclose(values.std(axis=1), 1.0, atol=1e-5)
    assert halfmap.report_stack(particles=output, background_diameter=Length(60.0), workers=1).main_output.exists()
    assert halfmap.select_statistics(particles=output, workers=1).main_output.exists()
