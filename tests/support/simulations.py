"""Small references and problems of simulations, built once for a test session."""

from functools import cache

from halfmap.simulation.micrographs import References
from halfmap.simulation.params import ParticleSimulationParams
from halfmap.simulation.particles import ParticleProblem, draw_truth
from halfmap.simulation.references import Reference, reference_of_atoms
from halfmap.simulation.specimens import specimen


@cache
def a_reference(name: str = "ferritin-like-o-130", pixel_size_angstrom: float = 3.0) -> Reference:
    return reference_of_atoms(
        specimen(name), pixel_size_angstrom=pixel_size_angstrom, b_factor_angstrom2=60.0, name=name
    )


@cache
def references(name: str = "ferritin-like-o-130", pixel_size_angstrom: float = 3.0) -> References:
    reference = a_reference(name, pixel_size_angstrom)
    return References(whole=(reference,), broken=(reference.broken(),))


def a_particle_problem(*, names: tuple[str, ...] = ("compact-d2-120",), **settings: object) -> ParticleProblem:
    given = {"number": 60, "box_pixel": 64, "pixel_size_angstrom": 3.0, **settings}
    params = ParticleSimulationParams(**given)  # type: ignore[arg-type]
    sizes = [params.pixel_size_of_group_angstrom(group) for group in range(params.optics_groups)]
    made = [[a_reference(name, size) for name in names] for size in sizes]
    return ParticleProblem(
        params=params,
        truth=draw_truth(params, len(names), [reference.diameter_angstrom for reference in made[0]]),
        references=made,
        broken=[[reference.broken() for reference in group] for group in made] if params.junk_fraction else [],
    )
