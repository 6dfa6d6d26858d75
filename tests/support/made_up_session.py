"""A session that is made up, for the pages to show: it answers as the real one does, and notes what it is asked."""

import asyncio
import io
import time
from typing import Any

import numpy as np
from PIL import Image
from starlette.websockets import WebSocket

from halfmap.web.routes_sessions import news

TILE = 64
SIDE = 512


class MadeUp:
    """A session of some classes and cycles, changed by what a page asks; it notes all that it was asked."""

    def __init__(self, *, classes: int = 24, cycles: int = 12, micrographs: int = 60) -> None:
        rng = np.random.default_rng(1)
        self.asked: list[tuple[str, Any]] = []
        self.sockets: set[WebSocket] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.n_classes, self.columns = classes, int(np.ceil(np.sqrt(classes)))
        self.selected: list[int] = []
        self.before: list[list[int]] = []
        self.state = "stopped"
        self.staged: dict[str, Any] = {}
        self.limits: dict[str, float] = {}
        self.limits_before: list[dict[str, float]] = []
        self.judged: dict[str, bool] = {}
        self.links: list[dict[str, Any]] = []
        self.is_closed = False
        self.is_locked = False
        self.looks: list[dict[str, str]] = []
        self.job_state = "succeeded"
        self.text = "".join(f"line {k}\n" for k in range(1200)) + "<script>window.broken = true</script>\n"
        self.cycles = [self._cycle(number) for number in range(1, cycles + 1)]
        self.times = (1.79e9 + 60 * np.arange(micrographs)).tolist()
        self.resolution = (4 + rng.gamma(2, 1, micrographs)).tolist()
        self.picks = rng.integers(10, 300, micrographs).tolist()
        self.defocus = rng.uniform(8000, 22000, micrographs).tolist()
        self.motion = rng.gamma(2, 3, micrographs).tolist()
        self.names = [f"grid1_{k:04d}.mrc" for k in range(micrographs)]
        self.half_axes = rng.uniform(6, 22, (classes, 2))
        self.atlas_png = _png(_blobs(rng, self.half_axes, self.columns))
        self.micrograph_png = _png(np.clip(rng.normal(128, 40, (SIDE, SIDE)), 0, 255).astype(np.uint8))
        self.positions = rng.uniform(40, SIDE - 40, (12, 2)).round(1).tolist()

    def _cycle(self, number: int) -> dict[str, Any]:
        kind = "seed" if number == 1 else "startup" if number < 6 else "refinement"
        rng = np.random.default_rng(number)
        resolution = max(8.0, 40 - 4.0 * number)
        classes = [
            {
                "index": k + 1,
                "track": k + 101,
                "particles": int(rng.integers(0, 900)),
                "weight": float(rng.uniform(0, 900)),
                "resolution_angstrom": resolution + float(rng.uniform(0, 9)) if k % 7 else None,
                "score": float(rng.uniform()),
                "angular_entropy": None,
            }
            for k in range(self.n_classes)
        ]
        return {
            "number": number,
            "kind": kind,
            "resolution_angstrom": resolution,
            "fraction": 1.0,
            "particles": sum(one["particles"] for one in classes),
            "finished": "2026-11-27T10:00:00+00:00",
            "settings": {},
            "classes": classes,
        }

    def add_cycle(self) -> None:
        """Publish a cycle, and tell the pages."""
        self.cycles.append(self._cycle(len(self.cycles) + 1))
        self.tell({"type": "cycle", "number": len(self.cycles)})

    def tell(self, event: dict[str, Any]) -> None:
        """Send an event to all pages."""
        assert self.loop is not None

        async def send() -> None:
            for socket in list(self.sockets):
                await socket.send_json({"seq": time.time_ns(), "session": "s1", **event})

        asyncio.run_coroutine_threadsafe(send(), self.loop).result(5)

    def snapshot(self) -> dict[str, Any]:
        """Return the session as `halfmap.sessions.session.Session.snapshot` does."""
        n = self.cycles[-1]["particles"] if self.cycles else 0
        curve = {"t": self.times}
        found = {
            "pixel_size_angstrom": {
                "value": 1.06,
                "unit": "Å",
                "provenance": "previous.settings: PixelSizeX, BinTimes",
            },
            "diameter_angstrom": {"value": 166, "unit": "Å", "provenance": "previous.settings: Picking/Diameter"},
            "net_name": {"value": "BoxNet2_<b>1</b>", "unit": "", "provenance": "previous.settings: Picking/ModelPath"},
        }
        numbers = [one["number"] for one in self.cycles]
        return {
            "id": "s1",
            "name": "apoferritin & <i>friends</i>",
            "folder": "/data/apo",
            "kind": "warp2",
            "state": self.state,
            "why_idle": "No job runs: 1,200 of 50,000 new particles have come.",
            "microscope": "Krios 1",
            "seq": 4,
            "job": None,
            "progress": None,
            "source": {
                "settings": found,
                "particles": n + 1200,
                "micrographs": len(self.names),
                "last_image": None,
                "lag_s": 4000.0,
                "quarantine": [{"name": "grid1_0007.mrc", "reason": "its stack is shorter than its table", "tries": 3}],
                "disk_free_bytes": 5e9,
                "notices": ["The box has changed from 128 to 160: classes begin anew."],
            },
            "settings": {},
            "staged": self.staged,
            "counts": {"classified": n, "since_last": 1200, "threshold": 50000, "rate_per_hour": 21000.0, "eta": None},
            "cycles": [
                {**{k: v for k, v in one.items() if k != "settings"}, "classes": self.n_classes} for one in self.cycles
            ],
            "selection": {"tracks": self.selected, "can_undo": bool(self.before)},
            "limits": {
                "values": self.limits,
                "can_undo": bool(self.limits_before),
                "micrographs_out": len(self.left_out(self.limits)),
                "particles_out": sum(self.picks[k] for k in self.left_out(self.limits)),
            },
            "plots": {
                "particles": {**curve, "y": np.cumsum(self.picks).tolist()},
                "micrographs": {**curve, "y": list(range(1, len(self.names) + 1))},
                "ctf_resolution": {**curve, "y": self.resolution},
                "defocus": {**curve, "y": self.defocus},
                "motion": {**curve, "y": self.motion},
                "picks": {**curve, "y": self.picks},
                "convergence": {
                    "cycle": numbers,
                    "log_likelihood": [-1e6 / k for k in numbers],
                    "changed_percent": [90 / k for k in numbers],
                    "mean_probability": [1 - 0.5 / k for k in numbers],
                },
            },
        }

    def page_snapshot(self, *, plots: bool, cycles_after: int) -> dict[str, Any]:
        """Return the session as the route does that pages ask."""
        shown = self.snapshot()
        return news({name: value for name, value in shown.items() if plots or name != "plots"}, cycles_after)

    def left_out(self, limits: dict[str, float]) -> list[int]:
        """Return which micrographs are left out by a limit on resolution, or by eye."""
        most = limits.get("max_resolution_angstrom", np.inf)
        return [k for k, name in enumerate(self.names) if not self.judged.get(name, self.resolution[k] <= most)]

    def lost(self, limits: dict[str, float]) -> dict[str, Any]:
        """Return what limits would leave."""
        gone = self.left_out(limits)
        particles = sum(self.picks[k] for k in gone)
        return {
            "micrographs": len(self.names),
            "micrographs_lost": len(gone),
            "micrographs_kept": len(self.names) - len(gone),
            "particles_lost": particles,
            "particles_kept": sum(self.picks) - particles,
        }

    def choose(self, tracks: list[int]) -> None:
        """Change the selection."""
        self.before.append(self.selected)
        self.selected = tracks


def _blobs(rng: np.random.Generator, half_axes: np.ndarray, columns: int) -> np.ndarray:
    n = len(half_axes)
    y, x = np.mgrid[:TILE, :TILE] - TILE / 2
    picture = np.full((-(-n // columns) * TILE, columns * TILE), 90, dtype=np.uint8)
    for k in range(n):
        (a, b), angle = half_axes[k], rng.uniform(0, np.pi)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        tile = 90 + 140 * np.exp(-(((u / a) ** 2 + (v / b) ** 2) ** 2)) + rng.normal(0, 9, u.shape)
        row, column = divmod(k, columns)
        picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = np.clip(tile, 0, 255)
    return picture


def _png(pixels: np.ndarray) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()
