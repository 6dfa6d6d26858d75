"""Physical constants, the table of unit suffixes, and `Length`.

Every dimensional name in halfmap ends in one of the suffixes of `UNIT_OF_SUFFIX`. Flags and form
fields drop the suffix and show the symbol instead, by `flag_name` and `unit_of`.
"""

import math
import re
from dataclasses import dataclass

from halfmap.errors import InputError

UNIT_OF_SUFFIX: dict[str, str] = {
    "_angstrom2": "Å²",
    "_angstrom": "Å",
    "_degrees": "°",
    "_pixel2": "px²",
    "_pixel": "px",
    "_kv": "kV",
    "_mm": "mm",
    "_mrad": "mrad",
    "_e_per_angstrom2": "e/Å²",
}

_LENGTH = re.compile(r"^\s*([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|[+-]?\.\d+)\s*(px|pixels?|Å|A|angstroms?)?\s*$")


def split_unit(name: str) -> tuple[str, str]:
    """Return a dimensional name without its unit suffix, and the unit's symbol ('' if it has none)."""
    for suffix in sorted(UNIT_OF_SUFFIX, key=len, reverse=True):
        if name.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], UNIT_OF_SUFFIX[suffix]
    return name, ""


def electron_wavelength_angstrom(voltage_kv: float) -> float:
    """Relativistic wavelength of an electron, in Å.

    Notes
    -----
    λ = 12.2643247 / sqrt(V (1 + 0.978466e-6 V)) with V in volts, the constants that RELION uses.
    """
    volts = voltage_kv * 1e3
    return 12.2643247 / math.sqrt(volts * (1.0 + 0.978466e-6 * volts))


@dataclass(frozen=True)
class Length:
    """A length in Å, or in pixels of a grid that is named where it is resolved.

    Parameters
    ----------
    value : the number.
    in_pixels : whether the number counts pixels; else Å.

    Examples
    --------
    >>> Length.parse("5px").to_angstrom(1.5)
    7.5
    """

    value: float
    in_pixels: bool = False

    @classmethod
    def parse(cls, text: "str | float | Length") -> "Length":
        """Read ``12``, ``12A``, ``12 Å`` (Å) or ``5px`` (pixels).

        Raises
        ------
        InputError
            The text is not a number with one of these units.
        """
        if isinstance(text, Length):
            return text
        if isinstance(text, int | float):
            return cls(float(text))
        match = _LENGTH.match(text)
        if match is None:
            raise InputError(f"A length must be a number in Å, or in pixels as 5px; got {text!r}; write 12 or 5px.")
        return cls(float(match[1]), in_pixels=(match[2] or "").startswith("p"))

    def to_angstrom(self, pixel_size_angstrom: float) -> float:
        """Return the length in Å on a grid of that pixel size."""
        return self.value * pixel_size_angstrom if self.in_pixels else self.value

    def to_pixel(self, pixel_size_angstrom: float) -> float:
        """Return the length in pixels of a grid of that pixel size."""
        return self.value if self.in_pixels else self.value / pixel_size_angstrom

    def __str__(self) -> str:
        return f"{self.value:g}px" if self.in_pixels else f"{self.value:g}"
