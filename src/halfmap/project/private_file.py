"""JSON files that only their owner may read."""

import json
from pathlib import Path
from typing import Any

from halfmap.errors import FormatError
from halfmap.io.atomic import replacing


def write_private_json(path: Path, value: Any) -> None:
    """Write a JSON file by rename, with mode 0600.

    Raises
    ------
    ProjectError
        The folder cannot be written to, or the disk is full.
    """
    with replacing(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_private_json(path: Path) -> Any:
    """Read a JSON file; None where there is none.

    Raises
    ------
    FormatError
        It is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FormatError(path, expected="JSON", found=str(error), remedy="mend or remove the file") from error
