"""A tilt series of a blob phantom, drawn window by window in the band, with what is known and what is not."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.data.image_series import SeriesOptics, TiltSeries
from halfmap.data.image_source import ArraySource
from halfmap.data.population import SpeciesParticles
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import matrix_from_rotation_vector, random_rotations, rotation_vector_from_matrix
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import views
from halfmap.imaging.projection import shift_phases
from halfmap.imaging.series_transfer import ctf_values, image_ctf
from halfmap.multiparticle.fit import Parameters
from halfmap.multiparticle.params import ParameterChoice, PriorWidths
from halfmap.multiparticle.references import ReferencePair
from halfmap.multiparticle.refine import SeriesProblem, SpeciesProblem
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.series_model import SpeciesModel, SpeciesState
from halfmap.multiparticle.sub_iterations import fit_windows
from halfmap.splines.grids import SplineGrid

EVERYTHING = ParameterChoice(image_warp="2x2", positions=True, angles=True, defocus=True)
VOLUME = (1600.0, 1600.0, 500.0)
IMAGE = (2400.0, 2400.0)
DIAMETER = 100.0


def normal(name, n, *size, seed=1):
    """Return float64 normal numbers, shape (n, *size)."""
    return torch.from_numpy(keyed_random.normal(seed, name, np.arange(n), size=size or (1,))).double()


def blobs(grid, *, n_blobs=60, radius=42.0, seed=1):
    """Return a volume of round blobs inside a sphere."""
    draws = torch.from_numpy(keyed_random.uniform(seed, "blobs", np.arange(n_blobs), size=(5,)))
    direction = normal("directions of blobs", n_blobs, 3, seed=seed)
    places = direction / direction.norm(dim=1, keepdim=True) * radius * draws[:, :1] ** (1 / 3)
    axis = grid.positions()[0, 0, :, 0]
    along = torch.exp(-(axis - places[:, :, None]).square() / (2 * 4.0**2))  # blobs are products of three curves
    return torch.einsum("b,bz,by,bx->zyx", 0.5 + draws[:, 1], along[:, 2], along[:, 1], along[:, 0]).float()


def reference(*, box=32, pixel=4.0, seed=1):
    """Return a perfect reference pair."""
    grid = ImageGrid.cubic(box, pixel)
    padded = slices.prepare(blobs(grid, seed=seed), grid)
    return ReferencePair(halves=(padded, padded), resolution_angstrom=2.2 * pixel, signal=torch.ones(box // 2 + 1))


def tilt_series(n_tilts=21, *, warp=(2, 2), optics=None):
    """Return a series that hides nothing, dose-symmetric, with its grids as large as ``warp``."""
    tilts = np.linspace(-60, 60, n_tilts)
    order = np.argsort(np.argsort(np.abs(tilts), kind="stable"), kind="stable")
    shape = (n_tilts, warp[1], warp[0])
    return TiltSeries(
        name="TS_1",
        image_size_angstrom=IMAGE,
        dose_e_per_angstrom2=0.01 * order,
        is_used=np.ones(n_tilts, dtype=bool),
        optics=optics or SeriesOptics(pixel_size_angstrom=4.0),
        volume_size_angstrom=VOLUME,
        tilt_angle_degrees=tilts,
        axis_angle_degrees=np.full(n_tilts, -85.0),
        axis_offset_angstrom=np.zeros((n_tilts, 2)),
        defocus_angstrom=SplineGrid.constant(28000.0, (n_tilts, 1, 1)),
        movement_x_angstrom=SplineGrid.constant(0.0, shape),
        movement_y_angstrom=SplineGrid.constant(0.0, shape),
    )


@dataclass(frozen=True, eq=False)
class DrawnImages:
    """Windows as `halfmap.multiparticle.cutting.CutImages` yields them."""

    observed: list  # of each species, (P, T, K)
    bands: list
    centre_angstrom: list
    used: np.ndarray

    def __iter__(self):
        for t in np.flatnonzero(self.used).tolist():
            yield t, [values[:, t] for values in self.observed]


@dataclass(frozen=True, eq=False)
class Scene:
    """``true`` and ``start``: (series, state); ``images`` of the truth, ``clean``, with noise of variance σ²."""

    true: tuple
    start: tuple
    images: DrawnImages
    clean: torch.Tensor
    sigma2: float
    noise: torch.Tensor

    def fit(self, choice=None, schedule=None, **changes):
        """Fit from the start, without a limit on where the CTF counts."""
        series, state = self.start
        schedule = schedule or Schedule(sub_iterations=4, steps=1, ctf_resolution_angstrom=30.0)
        start = {"series": series, "states": (state,), **changes}
        return fit_windows(
            self.images, self.images.centre_angstrom, self.images.bands, choice=choice or EVERYTHING,
            widths=PriorWidths(), schedule=schedule, **start,
        )  # fmt: skip

    def start_of(self, fitted):
        """Return where a fit began, as its comparison takes it."""
        series, state = self.start
        layout = fitted.comparison.layouts[0]
        shared = torch.zeros(layout.n_shared, dtype=torch.float64)
        own = torch.zeros(layout.n_particles, layout.n_particle, dtype=torch.float64)
        return Parameters(series=series, species=(state,), shared=shared, own=(own,))

    def of_other_references(self, references, *, snr, seed=1):
        """Return the scene drawn anew with other references, each half-set from its own."""
        (true_series, true), (series, wrong) = self.true, self.start
        true, wrong = (dataclasses.replace(state, references=references) for state in (true, wrong))
        return drawn_images((true_series, true), (series, wrong), self.images.bands[0], snr=snr, seed=seed)

    def reconstructed(self, parameters, half, grid):
        """Return the map of a half-set, with CTFs and everything else taken into account."""
        state, band = parameters.species[0], self.images.bands[0]
        seen = self.seen(parameters.series, state)
        ctf = ctf_values(
            parameters.series, image_ctf(parameters.series, state.position_angstrom, seen), band.frequencies
        )
        back = shift_phases(band.frequencies, self.images.centre_angstrom[0] - seen.position_angstrom)
        mine = state.subset == half
        padded = slices.PaddedGrid(grid, padding=2)
        images = (self.images.observed[0] * back * ctf)[mine]
        data, weight = slices.insert(images, ctf[mine].square(), seen.rotation[mine], band, padded)
        values = data / (weight + 0.1 * weight.mean())
        return slices.to_reference(slices.PaddedTransform(values=values, grid=padded))

    def half_chi2_of_truth(self, fitted):
        """Return half of χ² of the truth in the comparison that a fit ended with."""
        series, state = self.true
        layout = fitted.comparison.layouts[0]
        zero = torch.zeros(layout.n_shared, dtype=torch.float64)
        own = (torch.zeros(layout.n_particles, layout.n_particle, dtype=torch.float64),)
        looks = fitted.comparison.looked_at(Parameters(series=series, species=(state,), shared=zero, own=own))
        return float(looks[0].chi2.sum()) / 2

    @staticmethod
    def seen(series, state):
        """Return the views of particles."""
        return views(series, state.position_angstrom, state.rotation)

    def local_errors(self, parameters):
        """Return shift (Å), turn (rad) and defocus (Å) by which views differ from the truth, (P, T, 6)."""
        found, true = (
            (series, state.position_angstrom, views(series, state.position_angstrom, state.rotation))
            for series, state in ((parameters.series, parameters.species[0]), self.true)
        )
        shift = found[2].position_angstrom - true[2].position_angstrom
        turn = rotation_vector_from_matrix(found[2].rotation @ true[2].rotation.mT)
        defocus = [image_ctf(*one) for one in (found, true)]
        defocus = (defocus[0].defocus_u_angstrom - defocus[1].defocus_u_angstrom)[..., None]
        return torch.cat([shift, turn, defocus], dim=-1)

    def errors(self, parameters):
        """Return rms angle (degrees), rms length of the shift in the image (Å), rms defocus (Å)."""
        error = self.local_errors(parameters)
        parts = (torch.rad2deg(error[..., 2:5]), error[..., :2], error[..., 5:])
        return tuple(float(part.square().sum(-1).mean().sqrt()) for part in parts)


def warped_and_defocused(series, *, defocus=1600.0, warp=3.0, seed=1):
    """Return a series with image warp and errors of defocus, in Å rms."""
    shape = series.movement_x_angstrom.shape
    grids = {
        f"movement_{axis}_angstrom": SplineGrid(values=warp * normal(f"warp {axis}", *shape, seed=seed))
        for axis in "xy"
    }
    errors = defocus * normal("defocus", len(series), seed=seed)[:, :, None]
    return series.with_values(**grids, defocus_angstrom=SplineGrid(values=series.defocus_angstrom.values + errors))


def scene(*, n=40, n_tilts=21, box=32, pixel=4.0, snr=0.1, seed=1, turn=3.0, move=3.0, true_series=None):
    """Draw a series; ``turn`` in degrees and ``move`` in Å for each axis, rms; ``true_series`` if not the usual one."""
    series = tilt_series(n_tilts)
    pair = reference(box=box, pixel=pixel, seed=seed)
    place = torch.from_numpy(keyed_random.uniform(seed, "places", np.arange(n), size=(3,)))
    position = ((0.1 + 0.8 * place) * torch.tensor(VOLUME, dtype=torch.float64))[:, None]
    rotation = random_rotations(seed, "poses", range(n))[:, None]
    subset = torch.arange(n) % 2 + 1
    state = SpeciesState(
        position_angstrom=position, rotation=rotation, subset=subset, references=pair, diameter_angstrom=DIAMETER
    )
    true_series = warped_and_defocused(series, seed=seed) if true_series is None else true_series
    turns = torch.deg2rad(turn * normal("turns", n, 3, seed=seed))
    wrong = dataclasses.replace(
        state,
        position_angstrom=position + move * normal("moves", n, 3, seed=seed)[:, None],
        rotation=matrix_from_rotation_vector(turns)[:, None] @ rotation,
    )
    window = FourierBand(ImageGrid.square(box, pixel))
    return drawn_images((true_series, state), (series, wrong), window, snr=snr, seed=seed)


def drawn_images(true, start, window, *, snr, seed=1):
    """Draw the images of a truth; windows lie where the start has particles."""
    n, n_tilts, pixel = len(true[1].subset), len(true[0]), window.grid.pixel_size_angstrom
    seen = views(start[0], start[1].position_angstrom, start[1].rotation)
    centre = torch.round(seen.position_angstrom / pixel) * pixel
    model = SpeciesModel(*true, window, centre, torch.ones(n, n_tilts, dtype=torch.bool))
    clean = torch.stack([model.modelled(t, torch.arange(n), ())[:, 0] for t in range(n_tilts)], dim=1)
    sigma2 = float(clean.abs().square().mean()) / (2 * snr)
    white = keyed_random.normal(seed, "noise", np.arange(n), size=(n_tilts, len(window), 2))
    observed = clean + torch.view_as_complex(torch.from_numpy(white).contiguous()).to(torch.complex64) * sigma2**0.5
    images = DrawnImages([observed], [window], [centre], np.ones(n_tilts, dtype=bool))
    noise = torch.full((n_tilts, window.max_shell + 1), sigma2, dtype=torch.float64)
    return Scene(true=true, start=start, images=images, clean=clean, sigma2=sigma2, noise=noise)


def with_rows(state, rows):
    """Return some particles of a species."""
    fields = ("position_angstrom", "rotation", "subset")
    return dataclasses.replace(state, **{name: getattr(state, name)[rows] for name in fields})


def as_recorded(drawn, *, seed=1):
    """Return whole images of a scene as a detector records them: particles dark, on a slope, in white noise."""
    window, pixel = drawn.images.bands[0], drawn.images.bands[0].grid.pixel_size_angstrom
    side, n_tilts = window.grid.side, drawn.clean.shape[1]
    shape = (round(IMAGE[1] / pixel), round(IMAGE[0] / pixel))
    deviation = (drawn.sigma2 * 2 * window.grid.n_pixels) ** 0.5
    noise = keyed_random.normal(seed, "noise of images", np.arange(n_tilts), size=shape)
    images = deviation * (20 + noise + np.linspace(0, 3, shape[1]))
    boxes = window.grid.irfft(window.scatter(drawn.clean)).numpy()
    corners = torch.round(drawn.images.centre_angstrom[0] / pixel).long() - side // 2
    for p, t in np.ndindex(*boxes.shape[:2]):
        x, y = corners[p, t].tolist()
        images[t, y : y + side, x : x + side] -= boxes[p, t]
    return ArraySource(images=images.astype(np.float32), grid=ImageGrid(shape=shape, pixel_size_angstrom=pixel))


def as_problem(drawn, images, *, name="ribosome"):
    """Return the problem that a scene's start and images pose."""
    series, state = drawn.start
    n = len(state.subset)
    particles = SpeciesParticles(
        position_angstrom=state.position_angstrom.numpy(),
        rotation=state.rotation.numpy(),
        random_subset=state.subset.numpy(),
        source_name=np.full(n, "TS_1.tomostar", dtype=object),
        source_hash=np.full(n, "hash", dtype=object),
        uid=np.arange(1, n + 1),
    )
    species = SpeciesProblem(
        name=name, particles=particles, references=state.references, diameter_angstrom=state.diameter_angstrom
    )
    return SeriesProblem(series=series, images=images, species=(species,))
