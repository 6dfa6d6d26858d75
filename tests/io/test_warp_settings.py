import pytest

from halfmap.errors import FormatError
from halfmap.io.warp_settings import WarpSettings, read_settings, write_settings


def test_settings_round_trip(tmp_path):
    path = tmp_path / "warp_tiltseries.settings"
    settings = WarpSettings(
        pixel_size_angstrom=0.7894,
        data_folder="tomostar",
        processing_folder="warp_tiltseries",
        exposure_e_per_angstrom2=2.64,
        gain_path="gain.mrc",
        gain_flip_y=True,
        tomo_dimensions_pixel=(4400.0, 6000.0, 1000.0),
        amplitude_contrast=0.1,
    )
    write_settings(path, settings)
    assert '<Param Name="DosePerAngstromFrame" Value="-2.64" />' in path.read_text()
    again = read_settings(path)
    assert vars(again) == vars(settings)
    assert again.processing_path(path) == tmp_path / "warp_tiltseries"
    assert again.data_path(path) == tmp_path / "tomostar"


def test_a_positive_dose_is_that_of_a_frame(tmp_path):
    path = tmp_path / "x.settings"
    write_settings(
        path, WarpSettings(pixel_size_angstrom=1.0, dose_per_frame_e_per_angstrom2=1.5, data_folder="frames")
    )
    again = read_settings(path)
    assert (again.dose_per_frame_e_per_angstrom2, again.exposure_e_per_angstrom2) == (1.5, None)
    assert again.processing_path(path) == tmp_path / "frames"


def test_settings_of_old_versions_are_read(tmp_path):
    path = tmp_path / "old.settings"
    text = """<?xml version="1.0" encoding="utf-16"?>
<Settings>
\t<Param Name="PixelSizeX" Value="1,35" />
\t<Import>
\t\t<Param Name="Folder" Value="D:\\data" />
\t\t<Param Name="Extension" Value="*.mrc" />
\t</Import>
</Settings>"""
    path.write_bytes(text.encode("utf-16"))
    settings = read_settings(path)
    assert (settings.pixel_size_angstrom, settings.data_folder, settings.extension) == (1.35, "D:\\data", "*.mrc")


def test_settings_without_pixel_size_or_of_something_else_are_refused(tmp_path):
    path = tmp_path / "x.settings"
    path.write_text("<Settings><Import></Import></Settings>")
    with pytest.raises(FormatError, match="PixelSize"):
        read_settings(path)
    path.write_text("<Movie></Movie>")
    with pytest.raises(FormatError, match="settings of Warp"):
        read_settings(path)
