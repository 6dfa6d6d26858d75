"""`Watch`: one look at a folder after the other, rarer while nothing happens, and how fast particles come."""

import time

from halfmap.sessions.observation import Observation
from halfmap.sessions.watching import Source

_MOST = 12  # looks are at most so many times rarer
_QUIET_LOOKS = 20
_COUNTED = 20_000
_RATE_SECONDS = 3600.0
_SECOND_LOOK_SECONDS = 1.0
_FIRST_LOOKS = 2  # until all that was there is known: a first look waits for the youngest stack


class Watch:
    """Looks at a folder.

    Parameters
    ----------
    source : reads it.
    seconds : between two looks while something happens.
    """

    def __init__(self, source: Source, seconds: float) -> None:
        self.source = source
        self.observation = Observation(settings=source.settings())
        self.counted: list[tuple[float, int]] = []
        """When the number of particles changed, in seconds since 1970, and to what; begins with what was there."""
        self._seconds, self._next, self._quiet, self._looks = seconds, 0.0, 0, 0

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return time.monotonic() >= self._next

    @property
    def is_settled(self) -> bool:
        """Whether it has looked twice: before, the youngest stack is waited for, whenever it was written."""
        return self._looks >= _FIRST_LOOKS

    def look(self) -> Observation:
        """Look, and return what is known now; it becomes `observation` by `take`, in the thread that shows it.

        Raises
        ------
        HalfmapError, OSError
            The folder cannot be read; the next look is as far away as after a good one.
        """
        self._next = time.monotonic() + self._seconds
        return self.source.poll(self.observation)

    def take(self, found: Observation) -> bool:
        """Make a look what is known; tell whether micrographs or particles have come or gone."""
        before, self.observation = self.observation, found
        n = found.n_particles
        changed = n != before.n_particles or len(found.micrographs) != len(before.micrographs)
        self._quiet = 0 if changed or found.waiting else self._quiet + 1
        self._looks += 1
        pause = self._seconds * min(_MOST, 1 + self._quiet // _QUIET_LOOKS)
        self._next = time.monotonic() + (pause if self.is_settled else min(pause, _SECOND_LOOK_SECONDS))
        if self._looks <= _FIRST_LOOKS:  # what was there before is no particle that has just come
            self.counted = [(time.time(), n)]
        elif self.counted[-1][1] != n:
            self.counted = [*self.counted[-_COUNTED:], (time.time(), n)]
        return changed

    def rate_per_hour(self) -> float:
        """Return how many particles come in an hour, over the last hour."""
        now = time.time()
        recent = [one for one in self.counted if one[0] > now - _RATE_SECONDS]
        if len(recent) < 2:
            return 0.0
        return max(0.0, (recent[-1][1] - recent[0][1]) / max(now - recent[0][0], 1.0) * 3600)

    def lag_s(self, n_classified: int) -> float:
        """Return for how long particles have waited for a cycle that takes them; 0 where none do."""
        waiting = [at for at, n in self.counted if n > n_classified]
        return max(0.0, time.time() - waiting[0]) if waiting else 0.0
