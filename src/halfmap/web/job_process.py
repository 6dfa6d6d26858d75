"""The process in which a job runs that a page has started: ``python -m halfmap.web.job_process``, asked on stdin."""

import json
import sys

from halfmap.errors import ComputeError, HalfmapError
from halfmap.jobs.registry import find_job
from halfmap.project.runner import run_from_values


def main() -> int:
    """Run the job and print its folder; return 0 done, 2 the user's mistake, 1 anything else, 130 interrupted."""
    asked = json.load(sys.stdin)
    try:
        result = run_from_values(find_job(asked["command"]), asked["values"], options=asked["options"])
    except ComputeError as error:
        print(error, file=sys.stderr)
        return 1
    except HalfmapError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(*getattr(error, "__notes__", ["Interrupted."]), file=sys.stderr)
        return 130
    print(result.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
