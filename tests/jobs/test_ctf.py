import numpy as np
import pytest

import halfmap
from halfmap.errors import InconsistentDataError, InputError, JobFailed
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion, star
from support.thon_rings import lens, thon_micrograph, thon_spectra

PIXEL_SIZE = 2.0
SHAPE = (420, 440)
TRUTHS = {"mic1": lens(14_000, astigmatism=600, angle_degrees=30), "mic2": lens(9_000)}


class Project:
    def __init__(self, root):
        (root / ".halfmap").mkdir(parents=True)
        self.root = root
        for seed, (name, truth) in enumerate(TRUTHS.items()):
            self.write(name, thon_micrograph(truth, shape=SHAPE, pixel_size=PIXEL_SIZE, depth=1.0, seed=seed))
        self.list(TRUTHS)

    def write(self, name, image):
        grid = ImageGrid(shape=image.shape, pixel_size_angstrom=PIXEL_SIZE)
        mrc.write_image(self.root / f"Micrographs/{name}.mrc", image.astype(np.float32), grid)

    def list(self, names, optics="1 one 2.0 300 2.7 0.1", spectra=None):
        rows = [f"Micrographs/{name}.mrc 1" + (f" {spectra[name]}" if spectra else "") for name in names]
        (self.root / "micrographs.star").write_text(
            "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnMicrographPixelSize\n_rlnVoltage\n"
            f"_rlnSphericalAberration\n_rlnAmplitudeContrast\n{optics}\n\n"
            "data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n"
            + ("_rlnCtfPowerSpectrum\n" if spectra else "")
            + "\n".join(rows)
            + "\n"
        )

    def ctf(self, **options):
        given = {"micrographs": (self.root / "micrographs.star",), "box_pixel": 256, "workers": 1, **options}
        return halfmap.ctf(**given)


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path / "project")
    monkeypatch.chdir(made.root)
    return made


def noise(seed=9):
    return np.random.default_rng(seed).normal(50, 3, size=SHAPE)


def test_table_has_what_relion_and_later_jobs_read(project):
    result = project.ctf()
    assert result.main_output == result.folder / "micrographs_ctf.star"
    table = relion.read_micrographs(result.main_output)
    for row, truth in enumerate(TRUTHS.values()):
        found = [float(table[f"defocus_{axis}_angstrom"][row]) for axis in "uv"]
        # a micrograph of 0.2 megapixels holds a hundredth of the rings of one from the detector
        assert np.mean(found) == pytest.approx(truth.defocus_angstrom, abs=150)
        assert found[0] - found[1] == pytest.approx(table["ctf_astigmatism_angstrom"][row], abs=1e-3)
        picture = project.root / str(table["ctf_image_name"][row])
        assert mrc.read_image(picture).shape == (256, 256)
        assert picture.with_suffix(".png").is_file()
    assert float(table.optics["voltage_kv"][0]) == 300
    labels = set(star.read(result.main_output)["micrographs"].labels)
    assert {"rlnCtfMaxResolution", "rlnCtfFigureOfMerit", "rlnCtfIceRingDensity", "halfmapCtfConcerns"} <= labels
    assert "Power spectra" in (result.folder / "report.html").read_text()


def test_micrographs_without_rings_are_told_and_left_out(project):
    project.write("empty", noise())
    project.list([*TRUTHS, "empty"])
    result = project.ctf()
    assert len(relion.read_micrographs(result.main_output)) == 2
    failed = next(iter(star.read(result.folder / "failed.star")))
    assert failed.text("rlnMicrographName").tolist() == ["Micrographs/empty.mrc"]
    assert "no rings" in failed.text("halfmapReason")[0]


@pytest.mark.parametrize(("spoil", "said"), [(np.nan, "finite"), (None, "must vary")])
def test_a_broken_micrograph_is_set_aside(project, spoil, said):
    image = noise()
    if spoil is None:
        image[:] = 3.0
    else:
        image[5, 7] = spoil
    project.write("broken", image)
    project.list([*TRUTHS, "broken"])
    result = project.ctf()
    rejected = next(iter(star.read(result.folder / "rejected.star")))
    assert rejected.text("rlnMicrographName").tolist() == ["Micrographs/broken.mrc"]
    assert said in rejected.text("halfmapReason")[0]
    assert len(relion.read_micrographs(result.main_output)) == 2


@pytest.mark.slow
def test_number_of_workers_changes_nothing(project):
    one, two = project.ctf(workers=1), project.ctf(workers=2)
    texts = [result.main_output.read_text().replace(result.folder.name, "job") for result in (one, two)]
    assert texts[0] == texts[1]


def test_micrographs_can_be_given_without_a_table(project):
    images = tuple(project.root / f"Micrographs/{name}.mrc" for name in TRUTHS)
    optics = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
    folder = project.root / "Micrographs"
    table = relion.read_micrographs(project.ctf(micrographs=(folder,), **optics).main_output)
    expected = relion.read_micrographs(project.ctf().main_output)
    np.testing.assert_array_equal(table["defocus_u_angstrom"], expected["defocus_u_angstrom"])
    with pytest.raises(InconsistentDataError, match="--voltage --spherical-aberration --amplitude-contrast"):
        project.ctf(micrographs=images)


def test_spectra_that_motion_correction_left_are_used(project):
    other = lens(20_000)
    power = thon_spectra(other, box=256, pixel_size=PIXEL_SIZE).power[0]
    rows = -np.arange(256) % 256
    whole = np.fft.fftshift(np.concatenate([power, power[rows][:, 1:128].flip(1)], axis=1))
    mrc.write_image(project.root / "ps.mrc", np.sqrt(whole), ImageGrid.square(256, PIXEL_SIZE))
    project.list(["mic2"], spectra={"mic2": "ps.mrc"})
    given = relion.read_micrographs(project.ctf().main_output)
    assert float(given["defocus_u_angstrom"][0]) == pytest.approx(20_000, abs=100)  # Å, of one window's worth
    own = relion.read_micrographs(project.ctf(given_spectra=False).main_output)
    assert float(own["defocus_u_angstrom"][0]) == pytest.approx(9_000, abs=250)


def test_defocus_of_patches_is_listed(project):
    result = project.ctf(patches=(2, 2), box_pixel=128, max_resolution_angstrom=7.0)
    patches = star.read(result.folder / "local_defocus.star")["local_defocus"]
    assert len(patches) == 8
    assert "halfmapDefocusSlopeX" in star.read(result.main_output)["micrographs"].labels


def test_inputs_that_cannot_work_are_refused_before_work_starts(project):
    with pytest.raises(InputError, match=r"--max-resolution must be 2\.1 pixels of 2 Å"):
        project.ctf(max_resolution_angstrom=3.0)
    with pytest.raises(InputError, match="one STAR file, or micrographs alone"):
        project.ctf(micrographs=(project.root / "micrographs.star", project.root / "Micrographs/mic1.mrc"))
    with pytest.raises(InputError, match="--known-phase-shift"):
        project.ctf(phase_shift=True, known_phase_shift_degrees=90.0)
    with pytest.raises(InputError, match="four or more"):
        project.ctf(patches=(1, 2))
    with pytest.raises(InconsistentDataError, match="at most 1000 kV; got 300000 kV"):
        project.ctf(voltage_kv=300_000.0)
    (project.root / "Empty").mkdir()
    with pytest.raises(InputError, match=r"must hold some .* got none in .*Empty"):
        project.ctf(micrographs=(project.root / "Empty",))


def test_micrographs_too_small_for_the_box_fail_with_what_to_do(project):
    with pytest.raises(JobFailed, match="smaller --box"):
        project.ctf(box_pixel=512)
    with pytest.raises(JobFailed, match="got 8,8 patches of 440×420 px; give fewer"):
        project.ctf(patches=(8, 8))
