"""Names of point groups, and how many rotations each has."""

import re

from halfmap.errors import InputError

_ORDER_OF = {"T": 12, "O": 24, "I1": 60, "I2": 60, "I3": 60, "I4": 60}

# What other programs call groups that have one setting, and what stands for none or an improper group.
_OTHER_SPELLINGS = {
    **dict.fromkeys(("TET", "T1", "TETRAHEDRAL"), "T"),
    **dict.fromkeys(("OCT", "O1", "OCTAHEDRAL", "CUBIC"), "O"),
    **dict.fromkeys(("ICOS", "ICO", "I5", "ICOSAHEDRAL"), "I1, I2, I3 or I4 as its axes lie in the reference"),
    **dict.fromkeys(("NONE", "ASYM", "1", "C"), "C1"),
}


def canonical_name(name: str) -> str:
    """Return a group's name as this module spells it: C1, C2, …, D1, …, T, O, I1, I2, I3, I4.

    Parameters
    ----------
    name : upper or lower case; ``I`` means ``I2``, as in RELION.

    Raises
    ------
    InputError
        No such group of rotations.
    """
    text = name.strip().upper()
    text = "I2" if text == "I" else text
    if text not in _ORDER_OF and re.fullmatch(r"[CD][1-9]\d{0,2}", text) is None:
        meant = _OTHER_SPELLINGS.get(re.sub(r"[^A-Z0-9]", "", text))
        meant = meant or next(iter(re.findall(r"^[CD][1-9]\d{0,2}$", re.sub(r"[\s_-]|SYM", "", text))), None)
        remedy = f"give {meant}" if meant else "choose one"
        raise InputError(
            f"A symmetry must be one of C1, C2, …, D2, …, T, O, I, I1, I2, I3, I4; got {name!r}; {remedy}."
        )
    return text


def order(name: str) -> int:
    """Return the number of rotations of a group."""
    text = canonical_name(name)
    if text in _ORDER_OF:
        return _ORDER_OF[text]
    return int(text[1:]) * (2 if text[0] == "D" else 1)
