"""How fast a template is searched for, what noise gives, and what is found.

    python benchmarks/template_matching.py speed              correlations a second, beside bare transforms
    python benchmarks/template_matching.py speed --side 4096 --template 512
    python benchmarks/template_matching.py oracle             against the maps of Leopard-EM 1.2
    python benchmarks/template_matching.py false-positives    peaks of noise, observed over expected
    python benchmarks/template_matching.py recall             against the ideal detector, which knows the poses
    python benchmarks/template_matching.py apoferritin        real micrographs, with the mirrored template as control

CPU seconds are of one thread. `recall` and `false-positives` use the template of the oracle, brought to larger pixels.
"""

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.compute.allocator import keep_large_blocks
from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.progress import SilentProgress
from halfmap.fourier import slices
from halfmap.fourier.resample import rescale_to_pixel_size
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion
from halfmap.io.atoms import read_atoms
from halfmap.io.images import read_micrograph
from halfmap.picking.agreement import matched
from halfmap.simulation.potential import potential_of_atoms
from halfmap.template_matching.filters import FilteredMicrograph, filter_micrograph
from halfmap.template_matching.global_search import search
from halfmap.template_matching.global_search.correlation import Correlator
from halfmap.template_matching.global_search.maps import CorrelationMaps
from halfmap.template_matching.global_search.orientations import SearchGrid, search_grid
from halfmap.template_matching.global_search.params import MatchTemplateParams
from halfmap.template_matching.global_search.peaks import cutoff_of, find_template_peaks
from halfmap.template_matching.global_search.problem import MatchProblem
from halfmap.template_matching.global_search.search import MatchResult
from halfmap.template_matching.model import ParticleOptics
from halfmap.template_matching.template import Template, prepare_template

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ORACLE = DATA / "oracles" / "leopard12"
NOISE_PIXEL, NOISE_BOX, NOISE_SIDE = 3.0, 84, 300
RECALL_PIXEL, RECALL_BOX, RECALL_SIDE = 6.0, 42, 256
FALSE_POSITIVES = (1.0, 10.0, 100.0)
NORMALISATIONS = ("orientations", "local")
APOFERRITIN_PIXEL, APOFERRITIN_BOX, APOFERRITIN_REACH = 3.0, 72, 30.0


def optics(defocus_u: float, defocus_v: float, angle: float = 0.0) -> ParticleOptics:
    """Return the CTF of one micrograph at 300 kV."""
    values = (defocus_u, defocus_v, angle, 300.0, 2.7, 0.07, 0.0, 0.0)
    names = ParticleOptics.__dataclass_fields__
    return ParticleOptics(
        **{name: torch.tensor([value], dtype=torch.float64) for name, value in zip(names, values, strict=True)}
    )


def oracle_template(pixel: float | None = None, box: int = 0) -> Template:
    """Return the oracle's template, brought to another pixel size where asked for."""
    volume = mrc.read_volume(ORACLE / "template.mrc", 2.0)
    values, grid = volume.values, volume.grid
    if pixel is not None:
        values, grid = rescale_to_pixel_size(values, grid, pixel, box)
    return prepare_template(values, grid)


def fixed_defocus(step: float, **more: object) -> MatchTemplateParams:
    """Return the settings of a search at one defocus."""
    return MatchTemplateParams(  # type: ignore[arg-type]
        theta_step_degrees=step, psi_step_degrees=step, defocus_min_angstrom=0.0, defocus_max_angstrom=0.0, **more
    )


def run(problem: MatchProblem, params: MatchTemplateParams) -> tuple[search.MatchState, MatchResult]:
    """Search in this process."""
    state = search.start(problem)
    with InProcessExecutor(device="cpu", n_threads=1) as executor:
        for further in search.advance(problem, state, executor, SilentProgress()):
            state = further
    return state, search.finish(problem, params, state)


def best_of(n: int, work) -> float:  # type: ignore[no-untyped-def]
    """Return the least CPU time of a few runs, in seconds."""
    work()
    times = []
    for _ in range(n):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def speed(side: int, box: int) -> None:
    """Print correlations a second."""
    pixel = 2.0 * 128 / box
    volume = mrc.read_volume(ORACLE / "template.mrc", 2.0)
    values, grid = rescale_to_pixel_size(volume.values, volume.grid, pixel, box)
    params = MatchTemplateParams(defocus_min_angstrom=-1000.0, defocus_max_angstrom=1000.0)
    noise = torch.from_numpy(keyed_random.normal(1, "benchmark", 0, size=(side, side)).astype(np.float32))
    problem = MatchProblem.of(
        filter_micrograph(noise, params),
        prepare_template(values, grid, padding=2 if box < 400 else 1),
        optics(9200.0, 8800.0, 30.0),
        search_grid(params),
        params,
    )
    correlator = Correlator.of(problem, torch.device("cpu"))
    maps = CorrelationMaps.empty(problem.map_shape)
    units = 2 if side <= 1024 else 1
    orientations = problem.units(torch.arange(units))
    n = units * problem.orientations_of_unit * problem.n_together

    def correlate() -> None:
        correlator.gather(maps, orientations)

    whole = best_of(4, correlate) / n
    height, width = problem.padded_shape
    image = torch.from_numpy(keyed_random.normal(1, "image", 0, size=(height, width)).astype(np.float32))
    transform = torch.fft.rfft2(image)
    patch = image[:box, :box].contiguous()
    forward = best_of(8, lambda: torch.fft.rfft2(patch, s=(height, width)))
    inverse = best_of(8, lambda: torch.fft.irfft2(transform, s=(height, width)))
    bound = inverse + forward / problem.orientations_of_unit
    print(f"{side}² micrograph, {box}² template, {len(problem.defocus_offsets_angstrom)} defoci, one thread")
    print(f"  halfmap        {1e3 * whole:8.2f} CPU ms a correlation, {1 / whole:8.1f} a second")
    print(f"  bare transforms {1e3 * bound:7.2f} CPU ms (irfft2 {1e3 * inverse:.2f}, rfft2 {1e3 * forward:.2f})")
    print(f"  share of the bound {bound / whole:.2f}; Leopard-EM 1.2 on 2 cores at 1024²: 15 a second of wall time")
    print(
        f"  a search of {problem.n_correlations:,} correlations: {problem.n_correlations * whole / 3600:.1f} CPU hours"
    )


def oracle() -> None:
    """Compare maps with those of Leopard-EM."""
    micrograph = torch.from_numpy(read_micrograph(ORACLE / "micrograph.mrc"))
    params = fixed_defocus(20.0, normalisation="orientations")
    filtered = filter_micrograph(micrograph, params)
    volume = mrc.read_volume(ORACLE / "template.mrc", 2.0)
    theirs = {name: mrc.read_image(ORACLE / "match" / f"{name}.mrc") for name in _MAPS}
    correction = slices.PaddedGrid(volume.grid, padding=1).gridding_correction().to(torch.float32)
    kinds = {
        "padded twice, corrected for the interpolation": prepare_template(volume.values, volume.grid),
        "as theirs: not padded, not corrected": prepare_template(volume.values * correction, volume.grid, padding=1),
    }
    for kind, template in kinds.items():
        problem = MatchProblem.of(filtered, template, optics(9200.0, 8800.0, 30.0), search_grid(params), params)
        began = time.process_time()
        _, result = run(problem, params)
        print(f"{kind}: {problem.n_correlations} correlations, {time.process_time() - began:.0f} CPU s")
        for name, field in _MAPS.items():
            ours = getattr(result, field).numpy()
            difference = ours - theirs[name]
            print(
                f"  {name:14s} correlation {np.corrcoef(ours.ravel(), theirs[name].ravel())[0, 1]:.5f}, rms difference "
                f"{difference.std():.4f}, mean {ours.mean():.4f} and {theirs[name].mean():.4f}"
            )
        same = np.ones(result.mip.shape, dtype=bool)
        for name, field in (("phi", "phi_degrees"), ("theta", "theta_degrees"), ("psi", "psi_degrees")):
            same &= np.abs(getattr(result, field).numpy() - mrc.read_image(ORACLE / "match" / f"{name}.mrc")) < 0.1
        strong = theirs["scaled_mip"] > 5
        print(f"  same orientation at {same.mean():.3f} of all places, {same[strong].mean():.3f} of those above 5")


_MAPS = {
    "mip": "mip",
    "corr_average": "correlation_mean",
    "corr_variance": "correlation_deviation",
    "scaled_mip": "scaled_mip",
}


def false_positives(n_images: int) -> None:
    """Count peaks of noise."""
    template = oracle_template(NOISE_PIXEL, NOISE_BOX)
    counted: dict[tuple[str, float], list[int]] = {(kind, f): [] for kind in NORMALISATIONS for f in FALSE_POSITIVES}
    for number in range(n_images):
        filtered = filter_micrograph(_noise(number, NOISE_SIDE), fixed_defocus(20.0))
        params = fixed_defocus(20.0)
        problem = MatchProblem.of(filtered, template, optics(9200.0, 8800.0, 30.0), search_grid(params), params)
        state, _ = run(problem, params)
        for kind, f in counted:
            found = search.finish(problem, fixed_defocus(20.0, normalisation=kind, false_positives=f), state)
            counted[kind, f].append(len(found.peaks))
    print(f"{n_images} images of noise, {NOISE_SIDE}², {problem.n_correlations} correlations, peaks 5 px apart")
    for (kind, f), counts in counted.items():
        print(
            f"  {kind:13s} expected {f:5g} an image: observed {np.mean(counts):7.2f} ± "
            f"{np.std(counts) / math.sqrt(n_images):.2f}, ratio {np.mean(counts) / f:.2f}"
        )


def _noise(number: int, side: int) -> Tensor:
    values = keyed_random.normal(1, "noise images", number, size=(side, side))
    return torch.from_numpy(values.astype(np.float32))


def recall(n_images: int, step: float) -> None:
    """Compare what is found with what a detector finds that knows every pose."""
    template = oracle_template(RECALL_PIXEL, RECALL_BOX)
    ctf = optics(9200.0, 8800.0, 30.0)
    totals: dict[str, int] = dict.fromkeys(("particles", "ideal", *NORMALISATIONS), 0)
    extra = dict.fromkeys(NORMALISATIONS, 0)
    for number in range(n_images):
        params = fixed_defocus(step)
        clean = filter_micrograph(_noise(number, RECALL_SIDE), params)
        angles = keyed_random.uniform(1, "poses", np.arange(9), iteration=number, size=(3,))
        known = SearchGrid(
            phi_degrees=torch.from_numpy(360 * angles[:, 0]),
            theta_degrees=torch.from_numpy(np.rad2deg(np.arccos(1 - 2 * angles[:, 1]))),
            psi_degrees=torch.zeros(1, dtype=torch.float64),
        )
        views = Correlator.of(MatchProblem.of(clean, template, ctf, known, params), torch.device("cpu"))
        projections = views.projections(torch.arange(9))
        corners = [(8 + 72 * (i // 3), 8 + 72 * (i % 3)) for i in range(9)]
        strength = 6.5 + 3.5 * keyed_random.uniform(1, "strengths", np.arange(9), iteration=number)
        values = clean.values.clone()
        for (y, x), image, amplitude in zip(corners, projections, strength, strict=True):
            values[y : y + RECALL_BOX, x : x + RECALL_BOX] += amplitude * image / image.norm()
        filtered = filter_micrograph(-values, params)
        problem = MatchProblem.of(filtered, template, ctf, search_grid(params), params)
        state, result = run(problem, params)
        at_truth = Correlator.of(MatchProblem.of(filtered, template, ctf, known, params), torch.device("cpu"))
        scores = at_truth.scores(at_truth.projections(torch.arange(9)))
        ideal = np.array([float(scores[i, y, x]) for i, (y, x) in enumerate(corners)])
        totals["particles"] += 9
        totals["ideal"] += int((ideal > result.cutoff).sum())
        truth = np.array([(x, y) for y, x in corners], dtype=np.float64)
        for kind in NORMALISATIONS:
            found = search.finish(problem, fixed_defocus(step, normalisation=kind), state).peaks
            n_found = _n_matched(found.position.numpy(), truth, 3.0)
            totals[kind] += n_found
            extra[kind] += len(found) - n_found
    n = totals["particles"]
    print(
        f"{n} particles in {n_images} images, steps of {step:g}°, {problem.n_correlations} correlations, cutoff ",
        end="",
    )
    print(f"{result.cutoff:.2f}: ideal detector {totals['ideal'] / n:.2f}", end="")
    for kind in NORMALISATIONS:
        print(f"; {kind} {totals[kind] / n:.2f} with {extra[kind]} others", end="")
    print()


def _n_matched(found: np.ndarray, true: np.ndarray, distance: float) -> int:
    return len(matched(found, true, distance=distance)[0])


def apoferritin(n_micrographs: int, step: float, kinds: list[str]) -> None:
    """Search real micrographs for the 24-mer.

    Parameters
    ----------
    n_micrographs, step : how many, and the step of the orientations in degrees.
    kinds : model, mirrored, or random20: phases of the micrograph beyond 20 Å made random.
    """
    folder = DATA / "apoferritin"
    table = relion.read_micrographs(folder / "micrographs_ctf.star")
    model = read_atoms(DATA / "models" / "apoferritin_24mer_centred.pdb")
    grid = ImageGrid.cubic(APOFERRITIN_BOX, APOFERRITIN_PIXEL)
    templates = {
        hand: prepare_template(potential_of_atoms(one, grid, b_factor_angstrom2=100.0).values, grid)
        for hand, one in (("model", model), ("mirrored", model.mirrored()))
    }
    params = MatchTemplateParams(
        theta_step_degrees=step, psi_step_degrees=step, symmetry="O", defocus_min_angstrom=-300.0,
        defocus_max_angstrom=300.0, defocus_step_angstrom=300.0, peak_distance=15.0,
    )  # fmt: skip
    done = 0
    for i, name in enumerate(table["micrograph_name"]):
        path = folder / str(name)
        coordinates = folder / "coords" / f"{path.stem}.star"
        if not coordinates.is_file() or done == n_micrographs:
            continue
        done += 1
        image, small = _reduced(torch.from_numpy(read_micrograph(path).astype(np.float32)))
        true = _coordinates(coordinates) / (APOFERRITIN_PIXEL / 1.5)
        ctf = optics(float(table["defocus_u_angstrom"][i]), float(table["defocus_v_angstrom"][i]))
        for kind in kinds:
            filtered = filter_micrograph(image, params)
            if kind.startswith("random"):
                limit = APOFERRITIN_PIXEL / float(kind.removeprefix("random"))
                filtered = filter_micrograph(image, replace(params, randomise_phases_from=limit))
            template = templates["mirrored" if kind == "mirrored" else "model"]
            _one_micrograph(f"{path.stem}, {kind}", filtered, template, ctf, params, true, small)


def _one_micrograph(
    title: str,
    filtered: FilteredMicrograph,
    template: Template,
    ctf: ParticleOptics,
    params: MatchTemplateParams,
    true: np.ndarray,
    small: ImageGrid,
) -> None:
    problem = MatchProblem.of(filtered, template, ctf, search_grid(params), params)
    began = time.process_time()
    state, _ = run(problem, params)
    took = time.process_time() - began
    half = template.side // 2
    inside = ((true >= half) & (true < np.array(small.shape[::-1]) - half)).all(axis=1)
    print(
        f"{title}: {problem.n_correlations} correlations in {took:.0f} CPU s, {inside.sum()} curated particles in reach"
    )
    for kind in NORMALISATIONS:
        fields = {**vars(params), "normalisation": kind}
        result = search.finish(problem, MatchTemplateParams(**fields), state)
        for f in (*FALSE_POSITIVES, "as many as curated"):
            if isinstance(f, str):
                peaks = find_template_peaks(result.scaled_mip, cutoff=0.0, distance_pixel=params.peak_distance)
                position = peaks.position.numpy()[: int(inside.sum())]
            else:
                cutoff = cutoff_of(f, n_places=result.mip.numel(), n_correlations=result.n_correlations)
                peaks = find_template_peaks(result.scaled_mip, cutoff=cutoff, distance_pixel=params.peak_distance)
                position = peaks.position.numpy()
            found = _n_matched(position + half, true[inside], APOFERRITIN_REACH / APOFERRITIN_PIXEL)
            print(f"  {kind:13s} noise expected {f}: {found} curated found, {len(position) - found} others")


def _reduced(image: Tensor) -> tuple[Tensor, ImageGrid]:
    """Bring a micrograph to larger pixels."""
    from halfmap.fourier.resample import rescale

    image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    grid = ImageGrid(shape=tuple(image.shape), pixel_size_angstrom=1.5)
    shape = tuple(2 * round(side * 1.5 / APOFERRITIN_PIXEL / 2) for side in image.shape)
    return rescale(image, grid, shape)


def _coordinates(path: Path) -> np.ndarray:
    from halfmap.io import star

    table = star.read(path).tables[0]
    return np.stack([table.numbers("rlnCoordinateX"), table.numbers("rlnCoordinateY")], axis=-1)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "oracle", "false-positives", "recall", "apoferritin"))
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--template", type=int, default=128)
    parser.add_argument("--images", type=int)
    parser.add_argument("--step", type=float)
    parser.add_argument("--kinds", nargs="+", default=["model", "mirrored", "random20", "random12"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    if given.what == "speed":
        speed(given.side, given.template)
    elif given.what == "oracle":
        oracle()
    elif given.what == "false-positives":
        false_positives(given.images or 20)
    elif given.what == "recall":
        recall(given.images or 3, given.step or 6.0)
    else:
        apoferritin(given.images or 1, given.step or 6.0, given.kinds)


if __name__ == "__main__":
    main()
