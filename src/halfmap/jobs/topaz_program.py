"""The real Topaz as a program: where it is, what it is told, and what it must leave."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from halfmap.errors import InputError, JobFailed
from halfmap.picking.work_image import WorkImage, reduce

NAME = "topaz"
VARIABLES = ("HALFMAP_TOPAZ", "RELION_TOPAZ_EXECUTABLE")
"""Environment variables that name the program, the first that is set wins."""

FIELD_PIXEL = 71
"""Receptive field of Topaz's smallest network, in pixels; a particle shall fill half of it at most."""

LAST_LINES = 8
"""Lines of the program's output that an error repeats."""


def find_program(given: str | None) -> str:
    """Return the path of the program.

    Parameters
    ----------
    given : path or name that the user chose; None looks into `VARIABLES`, then for ``topaz`` beside the running Python
        and on the search path.

    Raises
    ------
    InputError
        There is none, or it cannot be run.
    """
    named = [("--executable", given), *((name, os.environ.get(name)) for name in VARIABLES)]
    for source, name in named:
        if not name:
            continue
        found = shutil.which(os.path.expanduser(name))
        if found is None:
            raise InputError(f"{source} must name a program that can be run; got {name}; mend the path.")
        return os.path.abspath(found)
    beside = str(Path(sys.executable).parent)
    found = shutil.which(NAME, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise InputError(
            "pick topaz must find the program topaz; got none on the search path; install it with "
            f"`pip install 'halfmap[topaz]'`, or name it by --executable, {VARIABLES[0]} or {VARIABLES[1]}. "
            "`halfmap pick network` needs no other program."
        )
    return found


def downscale_for(diameter_angstrom: float, pixel_size_angstrom: float) -> int:
    """Return the whole factor by which micrographs are reduced, so that a particle fits the receptive field.

    References
    ----------
    The rule of RELION's wrapper: 2 diameters over 71 pixels, at least 4.
    """
    return max(4, round(2 * diameter_angstrom / pixel_size_angstrom / FIELD_PIXEL))


def prepared(micrograph: Tensor, *, pixel_size_angstrom: float, downscale: int) -> WorkImage:
    """Reduce a micrograph by a whole factor."""
    return reduce(
        micrograph, pixel_size_angstrom=pixel_size_angstrom, work_pixel_angstrom=downscale * pixel_size_angstrom
    )


def standardised(work: WorkImage) -> np.ndarray:
    """Return a reduced micrograph with mean 0 and standard deviation 1, as Topaz is given it."""
    values = work.values.cpu().numpy().astype(np.float64)
    return ((values - values.mean()) / values.std()).astype(np.float32)


def call(program: str, arguments: Sequence[str | Path | int | float], *, say: Callable[[str], None]) -> str:
    """Run the program to its end and return the last lines it wrote.

    Parameters
    ----------
    program : its path.
    arguments : what it is told.
    say : takes each line as it comes.

    Raises
    ------
    JobFailed
        It cannot be started or ends with an error; its last lines are repeated.
    """
    command = [program, *map(str, arguments)]
    say(" ".join(command))
    lines: list[str] = []
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    say(line.rstrip())
                    lines = [*lines[1 - LAST_LINES :], line.strip()]
            except BaseException:
                process.terminate()
                raise
    except OSError as error:
        raise JobFailed(
            f"{program} must be a program that can be run; got '{error.strerror}'; choose another."
        ) from error
    if process.returncode != 0:
        raise JobFailed(
            f"{program} {arguments[0]} must end without an error; got code {process.returncode}. {_said(lines)} Mend "
            "what it names; --extra-arguments may be what it does not know."
        )
    return "\n".join(lines)


def require(path: Path, what: str, program: str, said: str) -> Path:
    """Return a file that the program should have written.

    Raises
    ------
    JobFailed
        It is not there, or empty.
    """
    if not path.exists() or path.stat().st_size == 0:
        raise JobFailed(
            f"{program} must write {what}; got none, though it ended without an error. {_said(said.splitlines())} "
            "--extra-arguments may be what it does not know."
        )
    return path


def _said(lines: Sequence[str]) -> str:
    text = " / ".join(line for line in lines if line)
    return f"Its last words: {text}." if text else "It said nothing."
