"""Which structures the shipped detector has learned from, and which it must never see but to be tested."""

from halfmap.errors import InputError

TRAINING_SPECIMENS: tuple[str, ...] = (
    "compact-c1-80-211",
    "compact-c1-95-212",
    "compact-c1-110-213",
    "compact-c1-130-214",
    "compact-c1-150-215",
    "compact-c2-120-216",
    "compact-c2-160-217",
    "compact-c3-140-218",
    "compact-c4-170-219",
    "compact-d2-100-220",
    "compact-d3-130-221",
    "compact-d4-150-222",
    "compact-t-140-223",
    "compact-o-180-224",
    "compact-c1-220-225",
    "compact-o-260-226",
    "elongated-c1-110-231",
    "elongated-c1-150-232",
    "elongated-c1-200-233",
    "elongated-c1-280-234",
    "elongated-c2-140-235",
    "elongated-c3-180-236",
    "elongated-d3-230-237",
    "elongated-c1-90-238",
    "elongated-c1-130-239",
    "elongated-c1-170-261",
    "elongated-c2-200-262",
    "elongated-c1-240-263",
    "elongated-c2-300-264",
    "hollow-c1-200-241",
    "hollow-d2-180-242",
    "hollow-d4-240-243",
    "hollow-t-260-244",
    "hollow-i-320-245",
    "hollow-i-400-246",
    "barrel-c1-130-251",
    "barrel-c4-140-252",
    "barrel-c6-150-253",
    "barrel-d4-170-254",
    "barrel-d5-190-255",
    "barrel-d7-220-256",
)
"""Built-in specimens that teach."""

CALIBRATING_SPECIMENS: tuple[str, ...] = (
    "compact-c1-140-311",
    "compact-d2-110-312",
    "compact-c4-210-313",
    "elongated-c1-170-314",
    "elongated-c2-160-315",
    "hollow-d3-220-316",
    "barrel-c5-160-317",
    "barrel-d6-200-318",
)
"""Built-in specimens by which the best epoch is chosen and the scores are calibrated."""

HELD_OUT_HOLLOW_ANGSTROM = (100.0, 150.0)
"""Hollow spheres of these diameters look like apoferritin, by which the detector is judged."""


def check_training_specimen(name: str) -> None:
    """Raise `InputError` where a specimen is like one that the detector is judged by.

    Those are apoferritin, which is a hollow sphere of 130 Å, and β-galactosidase, elongated with symmetry D2.
    """
    low, high = HELD_OUT_HOLLOW_ANGSTROM
    parts = name.lower().split("-")
    is_ferritin = "ferritin" in name or (parts[0] == "hollow" and low <= float(parts[2]) <= high)
    is_betagal = "gal" in name or (parts[0] == "elongated" and parts[1] == "d2")
    if is_ferritin or is_betagal:
        raise InputError(f"A specimen to learn from must not be like one that judges; got {name!r}; leave it out.")
