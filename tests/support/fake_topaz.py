"""Programs that stand in for Topaz: they record their arguments and write what Topaz would, or fail to."""

import json
import stat
import sys
from pathlib import Path

_PROGRAM = """#!{python}
import json, os, pathlib, sys
arguments = sys.argv[1:]
with open({record!r}, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
def value(*flags):
    return next((arguments[i + 1] for i, word in enumerate(arguments) if word in flags), None)
print("this is a stand-in for topaz")
behaviour = {behaviour!r}
if behaviour == "fails":
    print("CUDA error: no kernel image", file=sys.stderr)
    sys.exit(3)
if behaviour == "writes nothing":
    sys.exit(0)
if arguments[0] == "train":
    targets = pathlib.Path(value("--train-targets")).read_text()
    images = [line.split("\\t") for line in pathlib.Path(value("--train-images")).read_text().splitlines()[1:]]
    assert all(pathlib.Path(path).exists() for _, path in images)
    rows = ["epoch\\titer\\tsplit\\tloss\\tge_penalty\\tprecision\\ttpr\\tfpr\\tauprc"]
    for epoch, area in ((1, 0.3), (2, 0.6), (3, 0.5)):
        rows += [f"{{epoch}}\\t{{i}}\\ttrain\\t{{1 / epoch}}\\t0\\t0\\t0\\t0\\t-" for i in (1, 2)]
        rows.append(f"{{epoch}}\\t2\\ttest\\t0.2\\t-\\t0\\t0\\t0\\t{{area}}")
        pathlib.Path(value("--save-prefix") + f"_epoch{{epoch}}.sav").write_bytes(b"network")
    pathlib.Path(value("-o")).write_text("\\n".join(rows) + "\\n")
else:
    name = pathlib.Path(arguments[-1]).stem
    rows = ["image_name\\tx_coord\\ty_coord\\tscore"]
    if behaviour != "finds nothing":
        rows += [f"{{name}}\\t{{x}}\\t{{y}}\\t{{score}}" for x, y, score in ((10, 20, -5.5), (30, 25, 3.25))]
    pathlib.Path(value("-o")).write_text("\\n".join(rows) + "\\n")
"""


class FakeTopaz:
    """A stand-in; ``behaviour`` is works, finds nothing, writes nothing or fails."""

    def __init__(self, folder: Path, behaviour: str = "works") -> None:
        self.record = folder / "calls.txt"
        self.path = folder / "fake topaz"
        text = _PROGRAM.format(python=sys.executable, record=str(self.record), behaviour=behaviour)
        self.path.write_text(text)
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of each call."""
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []


def argument(call: list[str], flag: str) -> str | None:
    """Return what follows a flag."""
    return call[call.index(flag) + 1] if flag in call else None
