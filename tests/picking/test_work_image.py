import numpy as np
import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.picking.work_image import reduce
from support.blob_micrographs import noise


@pytest.mark.parametrize("shape", [(200, 240), (201, 239), (331, 127)])
@pytest.mark.parametrize("pixel_size", [1.0, 1.77, 3.3, 12.0])
def test_a_slope_has_its_recorded_values_at_the_recorded_positions(shape, pixel_size):
    y, x = np.mgrid[: shape[0], : shape[1]]
    work = reduce(2.0 * x - 3.0 * y, pixel_size_angstrom=pixel_size, work_pixel_angstrom=10)
    assert work.grid.pixel_size_angstrom == max(10, pixel_size)
    rows, columns = np.mgrid[3 : work.grid.shape[0] - 3, 3 : work.grid.shape[1] - 3]  # the window reaches 3 pixels
    at = work.to_micrograph(np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(float))
    expected = 2.0 * at[:, 0] - 3.0 * at[:, 1]
    # 0.02 px of the micrograph: the windowed sinc is sampled coarsely where the step is small
    np.testing.assert_allclose(work.values.numpy()[rows, columns].ravel(), expected, atol=0.1)


def test_a_constant_stays_itself_up_to_the_edge():
    image = np.full((97, 131), 7.0, dtype=np.float32)
    image[40, 50] = 7.001
    work = reduce(image, pixel_size_angstrom=1.3, work_pixel_angstrom=10)
    torch.testing.assert_close(work.values, torch.full_like(work.values, 7.0), atol=1e-3, rtol=0)


def test_hot_pixels_leave_no_trace_beyond_the_counting_statistics():
    image = noise((300, 300)).astype(np.float32)
    hot = image.copy()
    hot[100, 120] = 1e6
    clean, spoilt = (reduce(one, pixel_size_angstrom=2, work_pixel_angstrom=10).values for one in (image, hot))
    # a pixel clipped at 6 σ is a twenty-fifth of a work pixel
    assert float((clean - spoilt).abs().max()) < 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(bad):
    image = noise((64, 64)).astype(np.float32)
    image[5, 6] = bad
    with pytest.raises(InputError, match="pixels must be finite"):
        reduce(image, pixel_size_angstrom=2, work_pixel_angstrom=10)


def test_an_empty_micrograph_is_refused():
    with pytest.raises(InputError, match="pixels must vary; all are 3"):
        reduce(np.full((64, 64), 3.0), pixel_size_angstrom=2, work_pixel_angstrom=10)


def test_a_stack_is_refused():
    with pytest.raises(ShapeError, match="two axes"):
        reduce(np.zeros((2, 64, 64)), pixel_size_angstrom=2, work_pixel_angstrom=10)


@pytest.mark.parametrize("integers", [np.int16, np.uint16, np.uint8])
def test_integer_micrographs_are_taken(integers):
    image = (100 + 20 * noise((120, 140))).astype(integers)
    work = reduce(image.astype(np.int32), pixel_size_angstrom=2, work_pixel_angstrom=10)
    assert work.values.dtype == torch.float32


def test_replicated_rows_and_columns_are_measured():
    image = noise((400, 500)).astype(np.float32)
    image[:20] = image[20]
    image[:, 460:] = image[:, 459:460]
    work = reduce(image, pixel_size_angstrom=5, work_pixel_angstrom=10)
    top, bottom, left, right = work.border_pixel
    assert (bottom, left) == (0, 0)
    assert top == pytest.approx(20, abs=1)
    assert right == pytest.approx(40, abs=1)
