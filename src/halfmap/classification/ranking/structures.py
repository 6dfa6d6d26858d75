"""Which structures the shipped ranker has learned from, and which it must never see but to be tested."""

from halfmap.errors import InputError

TRAINING_SPECIMENS: tuple[str, ...] = (
    "compact-c1-80-11",
    "compact-c1-90-12",
    "compact-c1-110-13",
    "compact-c1-130-14",
    "compact-c1-150-15",
    "compact-c1-180-16",
    "compact-c1-200-17",
    "compact-c2-90-18",
    "compact-c2-120-19",
    "compact-c2-160-20",
    "compact-c3-100-21",
    "compact-c3-140-22",
    "compact-c4-110-23",
    "compact-c4-150-24",
    "compact-c5-130-25",
    "compact-c6-170-26",
    "compact-d2-100-27",
    "compact-d2-140-28",
    "compact-d3-110-29",
    "compact-d3-170-30",
    "compact-d4-150-31",
    "compact-d5-180-32",
    "compact-t-140-33",
    "compact-t-200-34",
    "compact-o-220-35",
    "compact-i-260-36",
    "elongated-c1-110-41",
    "elongated-c1-140-42",
    "elongated-c1-180-43",
    "elongated-c1-220-44",
    "elongated-c1-280-45",
    "elongated-c2-140-46",
    "elongated-c2-170-47",
    "elongated-c2-230-48",
    "elongated-c2-300-49",
    "elongated-c3-150-50",
    "elongated-c3-210-51",
    "elongated-d3-200-52",
    "elongated-d5-260-53",
    "hollow-c1-140-61",
    "hollow-c1-200-62",
    "hollow-c2-180-63",
    "hollow-c3-160-64",
    "hollow-c4-200-65",
    "hollow-d2-150-66",
    "hollow-d3-220-67",
    "hollow-d4-240-68",
    "hollow-d7-190-69",
    "hollow-t-260-70",
    "hollow-i-250-71",
    "hollow-i-300-72",
    "hollow-i-350-73",
    "hollow-i-400-74",
    "barrel-c1-130-81",
    "barrel-c3-120-82",
    "barrel-c4-140-83",
    "barrel-c5-160-84",
    "barrel-c6-150-85",
    "barrel-c7-180-86",
    "barrel-c8-200-87",
    "barrel-d3-150-88",
    "barrel-d4-170-89",
    "barrel-d5-190-90",
    "barrel-d6-200-91",
    "barrel-d7-210-92",
    "barrel-d9-240-93",
)
"""Built-in specimens."""

TRAINING_FILES: tuple[str, ...] = ("GroEL_1oel", "ribosome70s_4v5a_96", "spliceosome_4.1A", "emd_5625")
"""Models and maps, by the names of their files without endings."""

HELD_OUT_SPECIMENS: tuple[str, ...] = (
    "ferritin-like-o-130",
    "betagal-like-d2-180",
    "compact-c1-120-101",
    "compact-d2-130-102",
    "compact-c4-170-103",
    "elongated-c1-160-104",
    "hollow-c5-170-105",
    "barrel-d8-220-106",
)
"""Built-in specimens that judge the ranker and never teach it."""

NEVER_TRAINED: tuple[str, ...] = ("ferritin", "betagal", "galactosidase", "hollow-o-", "elongated-d2-")
"""Parts of names that no training structure may have: apoferritin, β-galactosidase, and what is built like them."""


def check_training_structure(name: str) -> None:
    """Raise `InputError` where a structure is one that the ranker is judged by."""
    found = [part for part in NEVER_TRAINED if part in name.lower()]
    if found or name in HELD_OUT_SPECIMENS:
        raise InputError(
            f"A structure that the ranker learns from must not be one that it is judged by; got {name!r}; leave it out."
        )
