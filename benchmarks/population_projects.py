"""A project with a simulation and a population, worked on by commands alone; for benchmarks."""

import io
import os
import shutil
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from halfmap.cli.main import main as main_of_halfmap
from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.geometry.shapes import soft_sphere
from halfmap.io import mrc
from halfmap.jobs.population_files import open_population
from halfmap.multiparticle.species import fitted
from support.simulated_series import SimulatedFiles


@dataclass(frozen=True)
class Project:
    """A folder with a simulation ``sim`` and a population ``m``."""

    folder: Path

    def run(self, command: str) -> float:
        """Run a command of halfmap in the folder; return its CPU seconds, without those of starting."""
        os.chdir(self.folder)
        said = io.StringIO()
        began = time.process_time()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                main_of_halfmap(command.split())
        except SystemExit as end:
            if end.code:
                raise SystemExit(f"halfmap {command}\n{said.getvalue()}") from end
        return time.process_time() - began

    def refine(self, choice: str) -> float:
        """Refine; return its CPU seconds."""
        return self.run(f"population refine m {choice} --workers 1")

    def add_species(
        self, name: str, specimen: str, symmetry: str, diameter: int, *, folder: str = "sim/species", samples: int = 1
    ) -> None:
        """Add a specimen of the simulation."""
        halves = self.folder / "sim/species" / f"{specimen}"
        self.run(
            f"population add-species m --name {name} --diameter {diameter} --symmetry {symmetry} --workers 1 "
            f"--temporal-samples {samples} "
            f"--half1 {halves}_half1.mrc --mask {halves}_mask.mrc --particles {folder}/{specimen}_particles.star"
        )

    def maps(self, name: str) -> tuple[Volume, Volume]:
        """Return a species' half-maps."""
        found = open_population(self.folder / "m").find_species(name)
        first, second = (mrc.read_volume(found.file(f"half{half}.mrc")) for half in (1, 2))
        return first, second

    def resolutions(self, name: str, specimen: str) -> tuple[float, float, float]:
        """Return the resolution that the species states, that of half-maps without mask, and that to the truth."""
        first, second = self.maps(name)
        stated = open_population(self.folder / "m").find_species(name).species.resolution_angstrom
        grid = first.grid
        unmasked = shells.fsc(grid.rfft(first.values), grid.rfft(second.values), grid)
        mean = Volume(values=(first.values + second.values) / 2, grid=grid)
        to_truth = fsc(mean, fitted(SimulatedFiles(self.folder / "sim").true_map(specimen), grid))
        return (
            float(stated or np.nan),
            shells.resolution_at_threshold(unmasked, grid),
            shells.resolution_at_threshold(to_truth, grid, 0.5),
        )


def fsc(first: Volume, second: Volume) -> torch.Tensor:
    """Return the FSC inside the sphere of the particle, half as wide as the box."""
    grid = first.grid
    sphere = soft_sphere(grid, grid.side * grid.pixel_size_angstrom / 4, 12.0)
    return shells.fsc(grid.rfft(first.values * sphere), grid.rfft(second.values * sphere), grid)


def new_project(folder: Path, simulate: str) -> Project:
    """Simulate into a new project and make a population of its series."""
    (folder / ".halfmap").mkdir(parents=True)
    project = Project(folder)
    project.run(f"simulate {simulate} --workers 1 --out sim")
    kind = "tiltseries" if "tilt-series" in simulate else "frameseries"
    project.run("population create m --name benchmark")
    project.run(f"population add-source m sim/warp_{kind}.settings --name series")
    return project


def copied(project: Project, name: str) -> Project:
    """Return a copy of a project, beside it."""
    return Project(Path(shutil.copytree(project.folder, project.folder.with_name(name))))
