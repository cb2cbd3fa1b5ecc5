"""The instances that are searched, and those in which a defect shows soon."""

from model.state import Instance

#: Searched to their end by `python -m model`, and in CI.
STANDARD = (
    Instance("one job, deep", jobs=1, workers=2, attempts=3, disturbances=2),
    Instance("two jobs", jobs=2, workers=2, attempts=2, disturbances=1, wipes=False),
)

#: Minutes, and up to 2 GB: `python -m model --large`.
LARGE = (
    Instance("one worker, deeper", jobs=1, workers=1, attempts=3, disturbances=3),
    Instance("two jobs, empty disks", jobs=2, workers=2, attempts=2, disturbances=1),
)

ONE_WORKER = Instance("one worker", jobs=1, workers=1, attempts=2, disturbances=2)
TWO_WORKERS = Instance("two workers", jobs=1, workers=2, attempts=2, disturbances=1)
CALM = Instance("nothing but lost messages", jobs=1, workers=1, attempts=1, disturbances=0)
ONE_FAULT = Instance("one disturbance", jobs=1, workers=1, attempts=2, disturbances=1)
