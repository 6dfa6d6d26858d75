import numpy as np
import pytest
import torch

import halfmap
from halfmap.errors import InconsistentDataError, InputError, JobFailed
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion, star
from halfmap.io.relion_motion import read_corrected_movies

SHAPE, PIXEL_SIZE, N = (192, 224), 2.0, 6
GRID = ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE)
DRIFT_PIXEL = np.stack([np.arange(N) * 1.5, -0.8 * np.arange(N)], axis=-1)
HOT = (50, 60)


def gain_values():
    return np.random.default_rng(7).normal(1, 0.05, SHAPE).astype(np.float32)


def raw_frames(seed):
    """Frames of mean 20 whose content drifts by minus DRIFT_PIXEL, as a detector of that gain counts them."""
    generator = np.random.default_rng(seed)
    k_y, k_x = np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[1])[None]
    transform = np.fft.rfft2(generator.normal(0, 1, SHAPE)) * np.exp(-60 * (k_x**2 + k_y**2))
    sigma = np.fft.irfft2(transform, s=SHAPE).std()
    frames = []
    for x, y in DRIFT_PIXEL:
        moved = np.fft.irfft2(transform * np.exp(2j * np.pi * (k_x * x + k_y * y)), s=SHAPE) / sigma
        frame = (20 + 2 * moved + generator.normal(0, 4, SHAPE)) / gain_values()
        frame[HOT] += 200
        frames.append(frame.astype(np.float32))
    return frames


class Project:
    def __init__(self, root):
        (root / ".halfmap").mkdir(parents=True)
        self.root = root
        for number in (1, 2):
            self.write(f"m{number}", raw_frames(number))
        mrc.write_image(root / "gain.mrc", gain_values(), GRID)
        self.list("m1", "m2")

    def write(self, name, frames):
        path = self.root / f"Movies/{name}.mrc"
        path.parent.mkdir(exist_ok=True)
        with mrc.StackWriter(path, ImageGrid(shape=frames[0].shape, pixel_size_angstrom=PIXEL_SIZE)) as writer:
            for frame in frames:
                writer.write(frame)

    def list(self, *names):
        (self.root / "movies.star").write_text(
            "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnMicrographOriginalPixelSize\n_rlnVoltage\n"
            f"_rlnSphericalAberration\n_rlnAmplitudeContrast\n1 one {PIXEL_SIZE} 200 2.7 0.1\n\n"
            "data_movies\n\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\n"
            + "".join(f"Movies/{name}.mrc 1\n" for name in names)
        )

    def motion(self, **options):
        given = {
            "movies": (self.root / "movies.star",),
            "gain": self.root / "gain.mrc",
            "patches": (2, 2),
            "dose_per_frame_e_per_angstrom2": 1.5,
            "spectrum_pixel": 128,
            "workers": 1,
            **options,
        }
        return halfmap.motion(**given)


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = Project(tmp_path / "project")
    monkeypatch.chdir(made.root)
    return made


def test_sums_and_tables_are_those_that_relion_and_later_jobs_read(project):
    result = project.motion(save_halves=True)
    assert result.main_output == result.folder / "corrected_micrographs.star"
    table = relion.read_micrographs(result.main_output)
    assert table.optics["micrograph_pixel_size_angstrom"].tolist() == [PIXEL_SIZE]
    assert table.optics["voltage_kv"].tolist() == [200.0]
    assert [str(name) for name in table["micrograph_name"]] == [
        f"MotionCorr/job001/Movies/{name}.mrc" for name in ("m1", "m2")
    ]
    read = read_corrected_movies(result.main_output, project_root=project.root)
    for series in read.series:
        shift = torch.stack([series.movement_x_angstrom.values, series.movement_y_angstrom.values], dim=-1)
        # pixels: drift in a movie of 0.04 megapixels; the wobble of local motion is in the global part as well
        np.testing.assert_allclose(shift.reshape(N, 2).numpy() / PIXEL_SIZE, DRIFT_PIXEL, atol=0.3)
    step = np.hypot(*(DRIFT_PIXEL[1] - DRIFT_PIXEL[0])) * PIXEL_SIZE
    totals = [float(value) for value in table["rlnAccumMotionTotal"]]
    np.testing.assert_allclose(totals, (N - 1) * step, rtol=0.15)
    for name in ("m1", "m2"):
        folder = result.folder / "Movies"
        weighted, plain, odd, even = (
            mrc.read_image(folder / f"{name}{end}.mrc") for end in ("", "_noDW", "_ODD", "_EVN")
        )
        np.testing.assert_allclose(odd + even, weighted, atol=1e-3)
        # six frames of mean 20, whose weights add up to √6 at zero frequency
        assert plain.mean() == pytest.approx(6 * 20, rel=0.01)
        assert weighted.mean() == pytest.approx(plain.mean() / np.sqrt(6), rel=1e-3)
        assert abs(plain[HOT] - 120) < 60  # not the 1200 counts of the hot pixel
    spectrum = mrc.read_image(project.root / str(table["rlnCtfPowerSpectrum"][0]))
    assert spectrum.shape == (128, 128)
    np.testing.assert_allclose(spectrum[1:, 1:], spectrum[1:, 1:][::-1, ::-1], rtol=1e-4)  # Friedel's mates
    assert (result.folder / "report.html").exists()


def test_the_result_is_the_same_for_any_number_of_workers(project):
    sums, tables = [], []
    for workers in (1, 2):
        result = project.motion(workers=workers)
        found = halfmap.ctf(micrographs=(result.main_output,), box_pixel=128, workers=workers)
        sums.append([path.read_bytes() for path in sorted(result.folder.rglob("m?.mrc"))])
        tables.append(relion.read_micrographs(found.main_output)["defocus_u_angstrom"].tolist())
    assert len(sums[0]) == 2
    assert sums[0] == sums[1]
    assert tables[0] == tables[1]


def test_the_ctf_is_found_from_the_spectrum_that_is_left(project):
    result = project.motion(dose_weighting=False)
    again = halfmap.ctf(micrographs=(result.main_output,), box_pixel=128, workers=1)
    assert (again.folder / "report.html").exists()


def test_binned_sums_cover_the_same_field(project):
    result = project.motion(bin=2.0)
    table = relion.read_micrographs(result.main_output)
    assert table.optics["micrograph_pixel_size_angstrom"].tolist() == [2 * PIXEL_SIZE]
    image = mrc.read_image(result.folder / "Movies/m1_noDW.mrc")
    assert image.shape == (SHAPE[0] // 2, SHAPE[1] // 2)
    assert image.mean() == pytest.approx(4 * 120, rel=0.01)  # four pixels in one


def test_the_pixel_size_in_the_table_is_that_of_sums_whose_sides_are_even(project):
    result = project.motion(bin=1.3, dose_per_frame_e_per_angstrom2=None, movies=(project.root / "Movies/m1.mrc",))
    table = relion.read_micrographs(result.main_output)
    header = mrc.read_header(result.folder / "Movies/m1.mrc")
    assert header.shape[2] == 172  # 224 / 1.3 = 172.3
    assert table.optics["micrograph_pixel_size_angstrom"].tolist() == [pytest.approx(header.pixel_size_angstrom)]
    assert header.pixel_size_angstrom == pytest.approx(PIXEL_SIZE * SHAPE[1] / 172)
    assert "rlnAccumMotionTotal" in table
    assert "rlnAccumMotionEarly" not in table  # nothing tells early from late


def test_bad_movies_are_set_aside_with_their_reason(project):
    path = project.root / "Movies/m2.mrc"
    path.write_bytes(path.read_bytes()[: -4 * SHAPE[0] * SHAPE[1]])  # one frame less than its header says
    result = project.motion()
    assert [str(name) for name in relion.read_micrographs(result.main_output)["micrograph_name"]] == [
        "MotionCorr/job001/Movies/m1.mrc"
    ]
    rejected = star.read(result.folder / "rejected.star")["micrographs"]
    assert rejected.text("rlnMicrographName").tolist() == ["Movies/m2.mrc"]
    assert "truncated" in rejected.text("halfmapReason")[0]
    project.list("m2")
    with pytest.raises(JobFailed, match="bad ones among 1"):
        project.motion()


def test_a_turned_gain_stops_the_job_before_it_starts(project):
    with pytest.raises(InputError, match="turned by --no-gain-flip-x"):
        project.motion(gain_flip_x=True)
    assert not list((project.root / "MotionCorr/job001").glob("Movies/*"))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"gain_flip_x": True, "gain": None}, InputError, "give --gain"),
        ({"dose_per_frame_e_per_angstrom2": 0.0}, InputError, "dose"),
        ({"voltage_kv": 1000.0}, InputError, "80 to 300 kV"),
        ({"gain": "other.mrc"}, JobFailed, "must have the sides"),
        ({"defects": "defects.txt"}, JobFailed, "defects.txt"),
        ({"bin": 10.0}, JobFailed, "--bin must leave 64 pixels"),
        ({"hot_pixels": False, "movies": "nan.mrc"}, JobFailed, "Frames must hold numbers; got 1 pixels with others"),
        ({"movies": "one.mrc"}, JobFailed, "two or more frames"),
    ],
)
def test_bad_input_is_said_before_work_begins(project, options, error, said):
    mrc.write_image(
        "other.mrc", np.ones((50, 60), dtype=np.float32), ImageGrid(shape=(50, 60), pixel_size_angstrom=1.0)
    )
    (project.root / "defects.txt").write_text("1000 1000 5 5\n")
    frames = raw_frames(1)
    frames[2][5, 5] = np.nan
    for name, some in (("nan", frames), ("one", frames[:1])):
        project.write(f"../{name}", some)
    paths = {key: project.root / value if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(error, match=said):
        project.motion(**paths)


def test_a_folder_stands_for_the_movies_in_it(project):
    result = project.motion(movies=(project.root / "Movies",), pixel_size_angstrom=PIXEL_SIZE, save_unweighted=False)
    assert len(relion.read_micrographs(result.main_output)) == 2
    (project.root / "Empty").mkdir()
    with pytest.raises(InputError, match=r"must hold some .* got none in .*Empty"):
        project.motion(movies=(project.root / "Empty",))


def test_movies_need_a_pixel_size(project):
    text = (project.root / "movies.star").read_text()
    (project.root / "movies.star").write_text(text.replace("_rlnMicrographOriginalPixelSize", "_rlnDetectorPixelSize"))
    result = project.motion()  # of the first movie's header
    assert relion.read_micrographs(result.main_output).optics["micrograph_pixel_size_angstrom"].tolist() == [PIXEL_SIZE]
    (project.root / "Movies/m1.tif").write_bytes(b"")
    text = (project.root / "movies.star").read_text()
    (project.root / "movies.star").write_text(text.replace("m1.mrc", "m1.tif"))
    with pytest.raises(InconsistentDataError, match="--pixel-size"):
        project.motion()
