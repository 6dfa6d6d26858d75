import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import InputError
from halfmap.extraction import images as extraction_images
from halfmap.extraction.images import particle_images
from halfmap.extraction.normalisation import background_mask
from halfmap.extraction.params import ExtractParams
from halfmap.fourier.resample import crop_or_pad
from halfmap.grid import ImageGrid
from halfmap.units import Length


@pytest.fixture(scope="module")
def micrograph() -> torch.Tensor:
    return torch.as_tensor(
        100 + 5 * keyed_random.normal(1, "micrograph", np.array([1]), size=(300, 260))[0], dtype=torch.float32
    )


def extracted(micrograph, centres, params, **kwargs):
    runs = list(
        particle_images(
            micrograph, np.asarray(centres), np.arange(len(centres)), params, pixel_size_angstrom=1.5, **kwargs
        )
    )
    return torch.cat([run.images for run in runs])


def test_without_treatment_a_particle_is_its_window(micrograph):
    params = ExtractParams(box_pixel=32, invert_contrast=False, normalise=False)
    image = extracted(micrograph, [[100, 150]], params)[0]
    assert torch.equal(image, micrograph[150 - 16 : 150 + 16, 100 - 16 : 100 + 16])


def test_inversion_is_the_last_thing_done(micrograph):
    plain = extracted(micrograph, [[100, 150]], ExtractParams(box_pixel=32, invert_contrast=False))
    inverted = extracted(micrograph, [[100, 150]], ExtractParams(box_pixel=32))
    assert torch.equal(plain, -inverted)


def test_background_is_normalised_after_rescaling_in_a_circle_given_in_angstrom(micrograph):
    params = ExtractParams(box_pixel=64, rescale_pixel=32, background_diameter=Length(60.0))
    image = extracted(micrograph, [[100, 150]], params)[0]
    assert params.background_radius_pixel(1.5) == 10
    values = image[background_mask(32, 10)]
    assert abs(float(values.mean())) < 1e-5
    assert abs(float(values.std(correction=0)) - 1) < 1e-5


def test_particles_do_not_depend_on_how_many_are_done_at_once(micrograph, monkeypatch):
    centres = [[20 * i, 25 * i] for i in range(1, 11)]
    params = ExtractParams(box_pixel=48, rescale_pixel=24, white_dust=2.5)
    together = extracted(micrograph, centres, params)
    monkeypatch.setattr(extraction_images, "CHUNK_BYTES", 3 * 4 * 48**2)
    np.testing.assert_allclose(extracted(micrograph, centres, params), together, atol=2e-6)  # order of float32 sums


def test_premultiplying_by_a_ctf_of_one_changes_nothing(micrograph):
    centres = [[100, 150], [3, 4]]
    plain = extracted(micrograph, centres, ExtractParams(box_pixel=32))
    params = ExtractParams(box_pixel=32, premultiply_ctf=True, premultiply_box_pixel=64)
    filtered = extracted(micrograph, centres, params, ctf=lambda grid, _: torch.ones(1, *grid.rfft_shape))
    np.testing.assert_allclose(filtered, plain, atol=2e-5)  # float32 transforms of grey values near 100


def test_premultiplication_in_a_larger_window_brings_delocalised_signal_back(micrograph):
    def shifted_by_20_pixels(grid, _):
        return torch.exp(-2j * torch.pi * grid.frequencies()[..., 0] * 20 * grid.pixel_size_angstrom)[None].to(
            torch.complex64
        )

    params = ExtractParams(
        box_pixel=32, premultiply_ctf=True, premultiply_box_pixel=96, normalise=False, invert_contrast=False
    )
    image = extracted(micrograph, [[100, 150]], params, ctf=shifted_by_20_pixels)[0]
    np.testing.assert_allclose(image, micrograph[134:166, 64:96], atol=1e-3)


def test_phase_flipping_uses_the_sign_alone(micrograph):
    grid = ImageGrid.square(32, 1.5)
    ctf = torch.where(grid.frequencies().norm(dim=-1) > 0.1, -0.3, 0.3).float()[None]
    params = ExtractParams(box_pixel=32, phase_flip=True, normalise=False, invert_contrast=False)
    image = extracted(micrograph, [[100, 150]], params, ctf=lambda *_: ctf)[0]
    window = micrograph[134:166, 84:116]
    np.testing.assert_allclose(image, grid.irfft(grid.rfft(window) * ctf[0].sign()), atol=1e-4)


def test_cropping_keeps_the_centre_of_the_rescaled_image(micrograph):
    options = {"box_pixel": 64, "rescale_pixel": 32, "normalise": False, "invert_contrast": False}
    whole = extracted(micrograph, [[100, 150]], ExtractParams(**options))
    cropped = extracted(micrograph, [[100, 150]], ExtractParams(**options, crop_pixel=20))
    np.testing.assert_allclose(cropped, crop_or_pad(whole, ImageGrid.square(32, 3.0), (20, 20))[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box_pixel": 97}, "--box must be even; got 97"),
        ({"box_pixel": 96, "rescale_pixel": 33}, "--rescale must be even"),
        ({"box_pixel": 96, "crop_pixel": 128}, "--crop must not exceed"),
        ({"box_pixel": 96, "premultiply_ctf": True, "phase_flip": True}, "must not go with --phase-flip"),
        ({"box_pixel": 96, "premultiply_box_pixel": 128}, "must have a CTF"),
        ({"box_pixel": 96, "premultiply_ctf": True, "premultiply_box_pixel": 64}, "at least the box"),
    ],
)
def test_impossible_settings_are_refused_with_the_remedy(options, message):
    with pytest.raises(InputError, match=message):
        ExtractParams(**options)


def test_a_background_circle_larger_than_the_image_is_refused():
    with pytest.raises(InputError, match="--background-diameter must leave pixels"):
        ExtractParams(box_pixel=64, background_diameter=Length(500.0)).background_radius_pixel(1.5)


def test_background_radius_is_that_of_relion():
    # acceptance numbers: box 256, circle 200 px, rescaled to 64; and the default of 75 % of a box of 128
    assert (
        ExtractParams(
            box_pixel=256, rescale_pixel=64, background_diameter=Length(200, in_pixels=True)
        ).background_radius_pixel(0.885)
        == 25
    )
    assert ExtractParams(box_pixel=128).background_radius_pixel(1.0) == 48
