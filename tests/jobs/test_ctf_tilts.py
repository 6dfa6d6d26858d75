import numpy as np
import pytest
import torch

import halfmap
from halfmap.ctf_estimation.tilts import depth_gradients
from halfmap.data.image_series import SeriesOptics, TiltSeries
from halfmap.errors import FormatError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion_tomo, star, warp_series
from halfmap.io.relion_tomo_writer import write_tomograms
from support.thon_rings import lens, tilted_film

SHAPE, PIXEL_SIZE = (400, 440), 3.0
DEFOCUS = (31_000.0, 30_000.0)
SETTINGS = {"box_pixel": 192, "max_resolution_angstrom": 9.0, "min_defocus_angstrom": 20_000.0, "extend": False}


def series(names):
    return TiltSeries(
        name="TS_1",
        image_size_angstrom=(SHAPE[1] * PIXEL_SIZE, SHAPE[0] * PIXEL_SIZE),
        dose_e_per_angstrom2=np.array([3.0, 0.0]),
        is_used=np.ones(2, dtype=bool),
        optics=SeriesOptics(pixel_size_angstrom=PIXEL_SIZE, amplitude_contrast=0.1),
        volume_size_angstrom=(1_320.0, 1_200.0, 300.0),
        tilt_angle_degrees=np.array([-40.0, 0.0]),
        axis_angle_degrees=np.full(2, 85.0),
        axis_offset_angstrom=np.zeros((2, 2)),
        movie_names=names,
    )


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with two tilts as Warp and as RELION would describe them."""
    root = tmp_path / "project"
    (root / ".halfmap").mkdir(parents=True)
    made = series(("../frames/a.mrc", "../frames/b.mrc"))
    for name, defocus, gradient in zip("ab", DEFOCUS, depth_gradients(made), strict=True):
        film = tilted_film(lens(defocus), tuple(gradient), shape=SHAPE, pixel_size=PIXEL_SIZE, depth=1.0)
        grid = ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_SIZE)
        mrc.write_image(root / f"frames/average/{name}.mrc", film, grid)
    warp_series.write_series(root / "warp/TS_1.xml", made.with_values(further={"DataDirectory": "../tomostar"}))
    relion = series(("frames/average/a.mrc", "frames/average/b.mrc"))
    write_tomograms(root / "tomograms.star", [relion], project_root=root)
    monkeypatch.chdir(root)
    return root


def defoci(one):
    places = torch.cat([torch.full((2, 2), 0.5, dtype=torch.float64), one.image_time[:, None]], dim=-1)
    return one.defocus_angstrom(places).numpy()


def test_warps_metadata_get_the_defocus_of_each_tilt(root):
    result = halfmap.ctf(micrographs=(root / "warp/TS_1.xml",), workers=1, **SETTINGS)
    written = warp_series.read_series(result.folder / "tiltseries/TS_1.xml")
    # Å: an image of 0.2 megapixels; what M needs is a hundred or two
    assert defoci(written) == pytest.approx(DEFOCUS, abs=200)
    assert (result.folder / "tiltseries" / written.further["DataDirectory"]).resolve() == root / "tomostar"
    listed = star.read(result.main_output)["tilts"]
    assert listed.text("halfmapReason").tolist() == ["none", "none"]
    assert (result.folder / "spectra/TS_1/a_ctf.mrc").is_file()
    assert "The hand is right" in (result.folder / "report.html").read_text()
    again = halfmap.ctf(micrographs=(result.folder / "tiltseries/TS_1.xml",), workers=1, **SETTINGS)
    assert again.main_output.read_text() == result.main_output.read_text()


def test_relions_tilt_series_get_the_defocus_of_each_tilt(root):
    result = halfmap.ctf(micrographs=(root / "tomograms.star",), workers=1, **SETTINGS)
    assert result.main_output.name == "tilt_series_ctf.star"
    written = relion_tomo.read_tomograms(result.main_output, project_root=root).series[0]
    assert defoci(written) == pytest.approx(DEFOCUS, abs=200)


def test_tilt_series_that_cannot_be_treated_are_refused(root):
    with pytest.raises(InputError, match="--patches must be left out"):
        halfmap.ctf(micrographs=(root / "warp/TS_1.xml",), patches=(2, 2), workers=1)
    (root / "frames/average/b.mrc").unlink()
    with pytest.raises(FormatError, match=r"no .*b\.mrc"):
        halfmap.ctf(micrographs=(root / "warp/TS_1.xml",), workers=1, **SETTINGS)
