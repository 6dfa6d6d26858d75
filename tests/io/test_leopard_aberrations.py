"""Leopard-EM's aberrations mean in our CTF what they mean in its own, torch-ctf."""

import numpy as np
import pytest
import torch

from halfmap.errors import FormatError
from halfmap.io import leopard_aberrations
from halfmap.io.leopard import NEEDED, LeopardColumns
from halfmap.io.leopard_aberrations import (
    StoredAberrations,
    aberration_cells,
    coefficients,
    magnification_of,
)
from halfmap.optics.aberrations import magnify, odd_phase
from halfmap.optics.ctf import ctf

torch_ctf = pytest.importorskip("torch_ctf")
N, PIXEL = 64, 1.5


def theirs(**more):
    return torch_ctf.calculate_ctf_2d(
        defocus=0.9, astigmatism=0.02, astigmatism_angle=30.0, voltage=300.0, spherical_aberration=2.7,
        amplitude_contrast=0.07, phase_shift=0.0, pixel_size=PIXEL, image_shape=(N, N), rfft=True, fftshift=False,
        **more,
    )[1 : N // 2, 1:-1]  # fmt: skip


def ours(stored):
    y, x = torch.meshgrid(torch.fft.fftfreq(N, d=PIXEL), torch.fft.rfftfreq(N, d=PIXEL), indexing="ij")
    matrix = np.reshape(stored.magnification, (2, 2))
    frequencies = magnify(torch.stack([x, y], dim=-1).double(), matrix)[1 : N // 2, 1:-1]
    values = ctf(
        frequencies, defocus_u_angstrom=9200.0, defocus_v_angstrom=8800.0, defocus_angle_degrees=30.0, voltage_kv=300.0,
        spherical_aberration_mm=2.7, amplitude_contrast=0.07, even_zernike=stored.even_zernike,
    )  # fmt: skip
    phase = odd_phase(frequencies, odd_zernike=stored.odd_zernike, voltage_kv=300.0, spherical_aberration_mm=2.7)
    return values * torch.polar(torch.ones_like(phase), phase)


@pytest.mark.parametrize("name", ["Z42c", "Z42s", "Z44c", "Z44s", "Z60", "Z31c", "Z31s", "Z33c", "Z33s"])
def test_each_coefficient_is_that_of_torch_ctf(name):
    kind = "odd_zernikes" if name[1] == "3" else "even_zernikes"
    named = {name: 35.0}
    stored = StoredAberrations(**{kind.removesuffix("s"): coefficients(named, kind)})
    expected = theirs(**{f"{kind.removesuffix('s')}_coeffs": named})
    assert float((ours(stored) - expected).abs().max()) < 1e-3  # its phases are float32
    assert float((expected - theirs()).abs().max()) > 0.1


def test_the_magnification_is_that_of_torch_ctf_and_leads_back():
    matrix = (1.02, 0.013, -0.004, 0.985)
    expected = theirs(transform_matrix=torch.tensor(matrix).reshape(2, 2))
    stored = StoredAberrations(magnification=magnification_of(matrix))
    assert float((ours(stored) - expected).abs().max()) < 1e-3
    assert float((expected - theirs()).abs().max()) > 0.1
    assert magnification_of(stored.magnification) == pytest.approx(matrix)


def table(**columns):
    return LeopardColumns(path="p.csv", columns={**{name: ["1", "1"] for name in NEEDED}, **columns})


def test_a_table_gives_back_what_was_written():
    stored = StoredAberrations(
        even_zernike=(0.0, 0.1, 0.2), odd_zernike=(0.5,), magnification=(1.01, 0.002, -0.003, 0.99)
    )
    cells = aberration_cells(stored)
    read = table(**{name: [text, ""] for name, text in cells.items()}).aberrations()
    assert read[0].even_zernike == stored.even_zernike
    assert read[0].odd_zernike == stored.odd_zernike
    assert read[0].magnification == pytest.approx(stored.magnification)
    assert read[1] == StoredAberrations()
    named = table(even_zernikes=['{"Z44c": 2}', "{}"], mag_matrix=["[1.0, 0.0, 0.0, 1.0]", ""]).aberrations()
    assert named[0].even_zernike[8] == 2
    assert named[0].magnification == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"even_zernikes": ["", '{"Z99": 1}']}, "line 3: .*Z99, where Z42c, .* in column even_zernikes"),
        ({"odd_zernikes": ['{"Z31c": "x"}', ""]}, "line 2: .*'x' for Z31c"),
        ({"mag_matrix": ["[1, 0]", ""]}, r"line 2: .*four numbers of an invertible matrix .* in column mag_matrix"),
        ({leopard_aberrations.EVEN: ["{", ""]}, "which is no JSON"),
    ],
)
def test_what_is_no_aberration_is_told_with_its_place(columns, said):
    with pytest.raises(FormatError, match=said):
        table(**columns).aberrations()
