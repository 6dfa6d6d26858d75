"""The table of commands: what `halfmap --help` shows, and where each is to be found.

Only the module of the command that was asked for is imported.
"""

import importlib
from dataclasses import dataclass

from halfmap.errors import InputError, ProjectError
from halfmap.project.job import ImmediateCommand, JobType


@dataclass(frozen=True)
class Entry:
    """One command.

    Parameters
    ----------
    command : the words after ``halfmap``.
    target : ``module:ATTRIBUTE`` of its `JobType` or `ImmediateCommand`.
    summary : one line for the top-level help, without a full stop.
    panel : the heading under which the top-level help lists it.
    """

    command: str
    target: str
    summary: str
    panel: str

    def load(self) -> JobType | ImmediateCommand:
        """Import the command's module and return what it defines."""
        module, attribute = self.target.split(":")
        loaded: JobType | ImmediateCommand = getattr(importlib.import_module(module), attribute)
        return loaded


_BEGIN, _PARTICLES, _MAPS, _PROJECT = "Begin here", "Micrographs to particles", "Maps", "Project"
_SERIES = "Frame series and tilt series"

COMMANDS: tuple[Entry, ...] = (
    Entry("demo", "halfmap.jobs.demo:JOB", "Show the main job on micrographs that the package makes itself", _BEGIN),
    Entry(
        "doctor",
        "halfmap.jobs.doctor:COMMAND",
        "Show versions, devices and optional parts, and what to do about gaps",
        _BEGIN,
    ),
    Entry("simulate particles", "halfmap.jobs.simulate_particles:JOB", "Make particles whose truth is known", _BEGIN),
    Entry(
        "simulate micrographs", "halfmap.jobs.simulate_micrographs:JOB", "Make micrographs whose truth is known", _BEGIN
    ),
    Entry(
        "simulate tilt-series", "halfmap.jobs.simulate_tilt_series:JOB", "Make tilt series whose truth is known", _BEGIN
    ),
    Entry(
        "simulate frame-series",
        "halfmap.jobs.simulate_frame_series:JOB",
        "Make frame series whose truth is known",
        _BEGIN,
    ),
    Entry(
        "simulate session",
        "halfmap.jobs.simulate_session:JOB",
        "Fill a folder as beside a microscope, its truth known",
        _BEGIN,
    ),
    Entry("motion", "halfmap.jobs.motion:JOB", "Correct the motion of raw movies, and add up their frames", _PARTICLES),
    Entry("ctf", "halfmap.jobs.ctf:JOB", "Estimate defocus, astigmatism and phase shift of micrographs", _PARTICLES),
    Entry("extract", "halfmap.jobs.extract:JOB", "Cut particles out of micrographs", _PARTICLES),
    Entry("class2d", "halfmap.jobs.class2d:JOB", "Classify particles in two dimensions", _PARTICLES),
    Entry("pick log", "halfmap.jobs.pick_log:JOB", "Find particles as blobs of a given size", _PARTICLES),
    Entry("pick compare", "halfmap.jobs.pick_compare:JOB", "Hold lists of picks against one another", _PARTICLES),
    Entry("pick filter", "halfmap.jobs.pick_filter:JOB", "Keep picks by figure of merit and masks", _PARTICLES),
    Entry("pick template", "halfmap.jobs.pick_template:JOB", "Find particles that look like templates", _PARTICLES),
    Entry("make-template", "halfmap.jobs.make_template:JOB", "Make a template from an atomic model", _PARTICLES),
    Entry(
        "match-template",
        "halfmap.jobs.match_template:JOB",
        "Look for a template in every orientation, at every place of micrographs",
        _PARTICLES,
    ),
    Entry(
        "refine-template",
        "halfmap.jobs.refine_template:JOB",
        "Refine poses, positions and defoci of particles that a template has found",
        _PARTICLES,
    ),
    Entry(
        "optimize-template",
        "halfmap.jobs.optimize_template:JOB",
        "Find the pixel size and the B-factor with which a template fits its particles best",
        _PARTICLES,
    ),
    Entry(
        "constrained-search",
        "halfmap.jobs.constrained_search:JOB",
        "Look for a domain at particles whose positions and poses are known",
        _PARTICLES,
    ),
    Entry("pick topaz", "halfmap.jobs.pick_topaz:JOB", "Train the real Topaz, or pick with it", _PARTICLES),
    Entry("pick train", "halfmap.jobs.pick_train:JOB", "Teach a network to find particles", _PARTICLES),
    Entry("pick bootstrap", "halfmap.jobs.pick_bootstrap:JOB", "Teach a network on blobs, then pick all", _PARTICLES),
    Entry("pick network", "halfmap.jobs.pick_network:JOB", "Find particles with a network", _PARTICLES),
    Entry("report stack", "halfmap.jobs.report_stack:JOB", "Show a stack: montage, mean, background", _PARTICLES),
    Entry("select classes", "halfmap.jobs.select_classes:JOB", "Keep the particles of some 2D classes", _PARTICLES),
    Entry("select split", "halfmap.jobs.select:SPLIT", "Split a table into subsets", _PARTICLES),
    Entry("select values", "halfmap.jobs.select:VALUES", "Select rows by the values of a column", _PARTICLES),
    Entry("select statistics", "halfmap.jobs.select:STATISTICS", "Select particles with ordinary images", _PARTICLES),
    Entry("select duplicates", "halfmap.jobs.select:DUPLICATES", "Keep the best of repeated picks", _PARTICLES),
    Entry("select join", "halfmap.jobs.select:JOIN", "Join tables, taking each particle once", _PARTICLES),
    Entry("select expand", "halfmap.jobs.select:EXPAND", "Copy particles by the rotations of a group", _PARTICLES),
    Entry("import", "halfmap.jobs.import_files:JOB", "Take files of other programs into the project", _PARTICLES),
    Entry("export", "halfmap.jobs.export:JOB", "Write particles for cryoSPARC, RELION or cisTEM", _PARTICLES),
    Entry(
        "train class-ranker",
        "halfmap.jobs.train_class_ranker:JOB",
        "Train the network that scores class averages",
        _PARTICLES,
    ),
    Entry("refine3d", "halfmap.jobs.refine3d:JOB", "Refine a map in two independent halves, to the end", _MAPS),
    Entry("initial-model", "halfmap.jobs.initial_model:JOB", "Make a first map from particles alone", _MAPS),
    Entry("class3d", "halfmap.jobs.class3d:JOB", "Part particles among several maps", _MAPS),
    Entry("mask create", "halfmap.jobs.mask_create:JOB", "Make a soft solvent mask from a map", _MAPS),
    Entry("postprocess", "halfmap.jobs.postprocess:JOB", "Measure the resolution of half maps and sharpen them", _MAPS),
    Entry(
        "volume local-resolution",
        "halfmap.jobs.local_resolution:JOB",
        "Measure the resolution from place to place, and filter by it",
        _MAPS,
    ),
    Entry(
        "volume denoise", "halfmap.jobs.denoise:JOB", "Denoise two half maps by networks that learn from them", _MAPS
    ),
    Entry("volume resample", "halfmap.jobs.volume:RESAMPLE", "Change a map's pixel size exactly", _MAPS),
    Entry("volume crop", "halfmap.jobs.volume:CROP", "Cut a map, or surround it, about its centre", _MAPS),
    Entry("volume filter", "halfmap.jobs.volume:FILTER", "Low-pass, high-pass, sharpen or dampen a map", _MAPS),
    Entry("volume flip", "halfmap.jobs.volume:FLIP", "Mirror a map of the wrong hand, or change its sign", _MAPS),
    Entry("volume symmetrise", "halfmap.jobs.volume:SYMMETRISE", "Average a map over a point group", _MAPS),
    Entry(
        "volume symmetry-align",
        "halfmap.jobs.volume:SYMMETRY_ALIGN",
        "Turn a map so that its symmetry axes lie as its group's",
        _MAPS,
    ),
    Entry("volume fsc", "halfmap.jobs.volume:FSC", "Correlate two maps, shell by shell", _MAPS),
    Entry("volume info", "halfmap.jobs.volume:INFO", "Print header facts and statistics of MRC files", _MAPS),
    Entry("population create", "halfmap.jobs.population_manage:CREATE", "Make an empty population", _SERIES),
    Entry(
        "population add-source",
        "halfmap.jobs.population_add_source:COMMAND",
        "Make the items of a Warp or RELION project a source of a population",
        _SERIES,
    ),
    Entry(
        "population add-species",
        "halfmap.jobs.population_add_species:JOB",
        "Make half-maps, a mask and particles a species of a population",
        _SERIES,
    ),
    Entry(
        "population add-particles",
        "halfmap.jobs.population_add_particles:COMMAND",
        "Add particles to a species, each once",
        _SERIES,
    ),
    Entry(
        "population update-mask",
        "halfmap.jobs.population_update_mask:JOB",
        "Give a species another mask, and measure its maps again",
        _SERIES,
    ),
    Entry(
        "population export",
        "halfmap.jobs.population_export:JOB",
        "Cut the particles of a species out with all refined geometry, for other programs",
        _SERIES,
    ),
    Entry(
        "population rotate",
        "halfmap.jobs.population_edit:ROTATE",
        "Turn the maps of a species, and all poses with them",
        _SERIES,
    ),
    Entry(
        "population shift",
        "halfmap.jobs.population_edit:SHIFT",
        "Move the centre of a species, and all positions with it",
        _SERIES,
    ),
    Entry(
        "population resample",
        "halfmap.jobs.population_edit:RESAMPLE_MAPS",
        "Bring the maps of a species to another pixel size or box",
        _SERIES,
    ),
    Entry(
        "population expand-symmetry",
        "halfmap.jobs.population_edit:EXPAND",
        "Copy particles of a species to all their equivalent views, and lower its symmetry",
        _SERIES,
    ),
    Entry(
        "population resample-trajectories",
        "halfmap.jobs.population_edit:RESAMPLE",
        "Give the particles of a species another number of poses over the exposure",
        _SERIES,
    ),
    Entry(
        "population status",
        "halfmap.jobs.population_manage:STATUS",
        "Show species and sources of a population, and what was changed by hand",
        _SERIES,
    ),
    Entry(
        "population items",
        "halfmap.jobs.population_manage:ITEMS",
        "List the items of sources; exclude or include some",
        _SERIES,
    ),
    Entry(
        "population refine",
        "halfmap.jobs.population_refine:JOB",
        "Refine species, sample and microscope of a population together",
        _SERIES,
    ),
    Entry(
        "population estimate-weights",
        "halfmap.jobs.population_weights:JOB",
        "Tell how much items, tilts and frames count, by how they agree with the other half's maps",
        _SERIES,
    ),
    Entry(
        "population versions",
        "halfmap.jobs.population_manage:VERSIONS",
        "List versions of species and sources; bring one into use again, bit for bit",
        _SERIES,
    ),
    Entry("jobs list", "halfmap.jobs.manage:LIST", "List the jobs of the project", _PROJECT),
    Entry("jobs show", "halfmap.jobs.manage:SHOW", "Show one job: state, parameters, inputs, notes", _PROJECT),
    Entry("jobs alias", "halfmap.jobs.manage:ALIAS", "Give a job a second name", _PROJECT),
    Entry("jobs note", "halfmap.jobs.manage:NOTE", "Add a note to a job", _PROJECT),
    Entry("jobs rerun", "halfmap.jobs.manage:RERUN", "Run a job again; flags of its command change values", _PROJECT),
    Entry(
        "jobs save-settings", "halfmap.jobs.manage:SAVE_SETTINGS", "Save a job's parameters for --settings", _PROJECT
    ),
    Entry("jobs report", "halfmap.jobs.manage:REPORT", "Open a job's report", _PROJECT),
    Entry("jobs clean", "halfmap.jobs.manage:CLEAN", "Move failed, aborted or named jobs to the trash", _PROJECT),
)

GROUPS: dict[str, str] = {
    "jobs": "List, show, name, note, repeat and clean jobs",
    "mask": "Make masks",
    "pick": "Find particles in micrographs",
    "population": "Refine species, sample and microscope together, on frame series and tilt series",
    "report": "Show a stack or a selection as a page",
    "select": "Split, select from, join and expand particle or micrograph tables, remove duplicates",
    "simulate": "Make particles, micrographs, tilt series, frame series and sessions whose truth is known",
    "train": "Make the networks that halfmap ships, or others on your own structures",
    "volume": "Resample, crop, filter, compare, symmetrise and describe maps",
}


def find(command: str) -> Entry:
    """Return the entry of a command.

    Raises
    ------
    InputError
        There is no such command.
    """
    for entry in COMMANDS:
        if entry.command == command:
            return entry
    raise InputError(f"A command must be one of {', '.join(e.command for e in COMMANDS)}; got {command!r}; choose one.")


def find_job(command: str) -> JobType:
    """Return the job type of a command.

    Raises
    ------
    InputError
        There is no such command.
    ProjectError
        The command makes no job.
    """
    found = find(command).load()
    if not isinstance(found, JobType):
        raise ProjectError(f"A job must belong to a command that makes jobs; got {command!r}; begin it anew.")
    return found
