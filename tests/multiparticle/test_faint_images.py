"""Images too faint to be placed: a search says how little is known of them, and they spoil nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.imaging.projection import shift_phases
from halfmap.multiparticle.faint_images import FaintImages
from halfmap.multiparticle.fit import visit
from halfmap.multiparticle.params import ParameterChoice, PriorWidths
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.series_model import SpeciesModel
from halfmap.multiparticle.sub_iterations import fit_windows
from halfmap.multiparticle.window_search import image_shifts
from support.tilt_windows import DrawnImages, normal, scene, tilt_series

N_TILTS, N_NOISE = 9, 2
EXPECTED = 8.0
"Å, along each axis."


def drawn_exactly(*, n, n_tilts, snr):
    return scene(n=n, n_tilts=n_tilts, box=24, snr=snr, turn=0.0, move=0.0, true_series=tilt_series(n_tilts))


def moved(drawn, shift):
    """Return a scene's windows with their content shifted, (P, T, K)."""
    return drawn.images.observed[0] * shift_phases(drawn.images.bands[0].frequencies, shift)


def test_errors_of_found_shifts_are_as_large_as_their_spread():
    drawn = drawn_exactly(n=3, n_tilts=61, snr=0.01)
    band, centre = drawn.images.bands[0], drawn.images.centre_angstrom[0]
    shift = EXPECTED * normal("shifts of images", 61, 2)
    images = DrawnImages([moved(drawn, shift)], [band], [centre], drawn.images.used)
    model = SpeciesModel(*drawn.start, band, centre, torch.ones(3, 61, dtype=torch.bool))
    found = image_shifts(
        images, [model], [drawn.noise],
        reach_angstrom=3.5 * EXPECTED, expected_angstrom=EXPECTED, moved_angstrom=torch.zeros(61, 2),
    )  # fmt: skip
    spread = found.variance.sqrt()
    assert float(spread.min()) < 2.0  # Å; some images are found
    assert float(spread.max()) > 6.0  # and some are not
    ratio = float((found.mean - shift).square().mean().sqrt() / found.variance.mean().sqrt())
    assert 0.8 <= ratio <= 1.25  # of 122 shifts: uncertain by 7 %


@pytest.fixture(scope="module")
def fitted():
    """Fit shifts of images, the last of which show noise alone."""
    drawn = drawn_exactly(n=12, n_tilts=N_TILTS, snr=0.1)
    shift = EXPECTED * normal("shifts of images", N_TILTS, 2)
    windows = moved(drawn, shift)
    white = keyed_random.normal(5, "noise alone", np.arange(12), size=(N_NOISE, windows.shape[-1], 2))
    windows[:, -N_NOISE:] = drawn.sigma2**0.5 * torch.view_as_complex(torch.from_numpy(white)).to(windows)
    images = DrawnImages([windows], drawn.images.bands, drawn.images.centre_angstrom, drawn.images.used)
    fit = fit_windows(
        images, images.centre_angstrom, images.bands, drawn.start[0].with_values(), (drawn.start[1],),
        ParameterChoice(image_warp="1x1"),
        PriorWidths(image_warp_angstrom=EXPECTED, image_warp_step_angstrom=100.0),
        Schedule(sub_iterations=2, steps=2, search_angstrom=3.5 * EXPECTED),
    )  # fmt: skip
    return fit, shift


def _movement(values):
    return values.reshape(2, -1).T


def test_images_of_noise_have_no_say_and_wide_error_bars(fitted):
    fit, shift = fitted
    assert fit.comparison.faint.is_faint.tolist() == [False] * (N_TILTS - N_NOISE) + [True] * N_NOISE
    assert not bool(fit.visited.looks[0].counted[:, -N_NOISE:].any())
    assert not bool(fit.set_aside[0].any())
    error, bar = -_movement(fit.visited.parameters.shared) - shift, _movement(fit.posterior.shared_deviation)
    assert float(error[:-N_NOISE].square().mean().sqrt()) < 1.0  # Å
    assert float(bar[:-N_NOISE].max()) < 1.0
    assert 0.6 * EXPECTED < float(bar[-N_NOISE:].min()) <= float(bar[-N_NOISE:].max()) < 1.05 * EXPECTED


def test_gradient_is_that_of_the_objective_where_images_are_faint(fitted):
    fit, _ = fitted
    is_faint = fit.comparison.faint.is_faint.double().repeat(2)
    aside = _moved(fit.visited.parameters, 3.0 * is_faint)
    step = normal("direction", 2 * N_TILTS)[:, 0] * is_faint
    here, there, back = (visit(fit.comparison, _moved(aside, sign * step)) for sign in (0, 1, -1))
    slope = float((here.equations.gradient + fit.comparison.prior.shared @ here.parameters.shared) @ step)
    assert abs(float(here.equations.gradient @ step)) > 0.01  # of the observations, the prior is not among them
    assert (there.objective - back.objective) / 2 == pytest.approx(slope, rel=1e-6)  # they are quadratic


def _moved(parameters, step):
    x, y = step.reshape(2, -1, 1, 1)
    grids = {"movement_x_angstrom": x, "movement_y_angstrom": y}
    changed = {
        name: dataclasses.replace(
            getattr(parameters.series, name), values=getattr(parameters.series, name).values + move
        )
        for name, move in grids.items()
    }
    series = parameters.series.with_values(**changed)
    return dataclasses.replace(parameters, series=series, shared=parameters.shared + step)


def test_observations_add_their_own_gradient_and_curvature():
    place = normal("places", 2, 3, 2)
    faint = FaintImages(
        is_faint=torch.tensor([False, True, False]),
        place_angstrom=[torch.zeros(2, 3, 2, dtype=torch.float64)],
        precision=[torch.tensor([0.0, 0.5, 0.0])[None, :, None].expand(2, 3, 2).double()],
    )
    active = ("shift_x", "shift_y", "turn_z")
    zero = torch.zeros(2, 3, 3, dtype=torch.float64), torch.zeros(2, 3, 3, 3, dtype=torch.float64)
    gradient, hessian = faint.added(0, place, active, *zero)
    torch.testing.assert_close(gradient[:, 1, :2], 0.5 * place[:, 1])
    assert float(gradient[:, [0, 2]].abs().max()) == 0.0
    assert hessian[0, 1].diagonal().tolist() == [0.5, 0.5, 0.0]
    assert faint.energy([place]) == pytest.approx(0.25 * float(place[:, 1].square().sum()))
