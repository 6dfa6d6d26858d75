"""Conditions such as ``rlnDefocusU>=15000``, as flags take them."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from halfmap.errors import InputError

_OPERATORS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"^\s*(\w+)\s*(<=|>=|!=|==?|<|>)\s*(\S.*?)\s*$")


@dataclass(frozen=True)
class Condition:
    """A column, a comparison and a value.

    Parameters
    ----------
    label : column, as `rlnDefocusU`.
    comparison : one of ``= != < <= > >=``.
    value : a number, or for ``=`` and ``!=`` any text.
    """

    label: str
    comparison: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read ``LABEL OPERATOR VALUE``.

        Raises
        ------
        InputError
            The text is no such condition.
        """
        match = _CONDITION.match(text)
        if match is None:
            raise InputError(
                f"A condition must be LABEL=VALUE, or with another of != < <= > >=; got {text!r}; write "
                "rlnDefocusU>=15000, in quotes."
            )
        return cls(match[1], match[2].replace("==", "="), match[3])

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Return for which values of the column, numbers or text, the condition holds, bool, shape (n,).

        Raises
        ------
        InputError
            Order is asked of a column, or of a value, that is not numeric.
        """
        try:
            return _OPERATORS[self.comparison](np.asarray(values, dtype=np.float64), float(self.value))
        except ValueError:
            if self.comparison not in ("=", "!="):
                raise InputError(
                    f"{self.label}{self.comparison}{self.value} must compare numbers; got text; use = or !=."
                ) from None
            equal = np.asarray(values, dtype=str) == self.value
            return equal if self.comparison == "=" else ~equal
