"""Which workers may be given which jobs: by queue, and by the labels that jobs ask for. Pure.

Jobs of one queue that ask for the same labels are a *group*. Those that ask for none are a group of each queue that is
served. One that asks for labels is *open* from its first job on, and the workers that have them all are found through
what they say that they have, without a look at the others. Nor is it looked at for a worker that has not the rarest of
them: ten thousand jobs may ask for a device each, and for what all devices have. A kind of jobs that not every worker
runs is a label, too (`labels.of_kinds`). A group stays open for a while when no job waits in it: the next one comes,
and the workers of it are known.
"""

from collections.abc import Collection, Mapping
from typing import Final

from airflow_mqtt.database.labels import Label, fit
from airflow_mqtt.database.ledger import Group

#: Groups in which no job waits that are kept open. Each costs whatever its workers offer.
_IDLE: Final = 64


class Groups:
    """Workers, what they serve and have, and the groups that follow from that."""

    def __init__(self) -> None:
        self._queues: dict[str, frozenset[str]] = {}  # worker -> those of its queues that it may serve
        self._labels: dict[str, Mapping[str, str]] = {}  # … and the labels that it says it has
        self._having: dict[Label, dict[str, None]] = {}  # label -> workers that say they have it
        self._of: dict[str, dict[Group, None]] = {}
        self._members: dict[Group, dict[str, None]] = {}
        self._rarest: dict[Group, Label] = {}  # open group -> that of its labels which fewest had when it was opened
        self._open: dict[Label, dict[Group, None]] = {}  # … and the groups of each
        self._idle: dict[Group, None] = {}

    def of(self, worker: str) -> Collection[Group]:
        """The groups whose jobs a worker may be given."""
        return self._of.get(worker, {})

    def members(self, group: Group) -> Collection[str]:
        """The workers that may be given jobs of `group`, as long as it is open."""
        return self._members.get(group, {})

    def queues(self) -> list[str]:
        """The queues that somebody serves."""
        return [queue for queue, labels in self._members if not labels]

    def queues_of(self, worker: str) -> frozenset[str]:
        return self._queues.get(worker, frozenset())

    # --- workers ------------------------------------------------------------------------------------------

    def serve(self, worker: str, queues: frozenset[str], labels: Mapping[str, str]) -> list[Group]:
        """Note what a worker may serve, and has; return the groups that have no worker any more."""
        if worker in self._of and queues == self._queues[worker] and labels == self._labels[worker]:
            return []
        self._note_labels(worker, labels)
        self._queues[worker], self._labels[worker] = queues, labels
        before = self._of.get(worker, {})
        after: dict[Group, None] = {(queue, ()): None for queue in sorted(queues)}
        for label in sorted(labels.items()):
            after.update((group, None) for group in self._open.get(label, ()) if self._fits(worker, group))
        self._of[worker] = after
        for group in after:
            self._members.setdefault(group, {})[worker] = None
        return [group for group in before if group not in after and self._leave(worker, group)]

    def forget(self, worker: str) -> list[Group]:
        """Forget a worker; return the groups that have none any more."""
        left = self.serve(worker, frozenset(), {})
        for known in (self._queues, self._labels, self._of):
            known.pop(worker, None)
        return left

    def _note_labels(self, worker: str, labels: Mapping[str, str]) -> None:
        for label in self._labels.get(worker, {}).items():
            having = self._having[label]
            del having[worker]
            if not having:
                del self._having[label]
        for label in labels.items():
            self._having.setdefault(label, {})[worker] = None

    def _fits(self, worker: str, group: Group) -> bool:
        queue, labels = group
        return queue in self._queues[worker] and fit(labels, self._labels[worker])

    def _leave(self, worker: str, group: Group) -> bool:
        """Whether nobody is left."""
        members = self._members[group]
        del members[worker]
        if not members:
            del self._members[group]
        return not members

    # --- groups with labels -------------------------------------------------------------------------------

    def open(self, group: Group) -> bool:
        """Note that jobs wait in `group`; whether that is new, and its workers were not known before."""
        labels = group[1]
        if not labels:
            return False
        self._idle.pop(group, None)
        if group in self._rarest:
            return False
        rarest = min(labels, key=lambda label: len(self._having.get(label, ())))
        self._rarest[group] = rarest
        self._open.setdefault(rarest, {})[group] = None
        for worker in self._having.get(rarest, ()):
            if self._fits(worker, group):
                self._of[worker][group] = None
                self._members.setdefault(group, {})[worker] = None
        return True

    def rest(self, group: Group) -> Group | None:
        """Note that no job waits in `group` any more; return one that is closed, since it has rested for longest."""
        if not group[1]:
            return None
        self._idle[group] = None
        if len(self._idle) <= _IDLE:
            return None
        oldest = next(iter(self._idle))
        del self._idle[oldest]
        self._close(oldest)
        return oldest

    def _close(self, group: Group) -> None:
        for worker in self._members.pop(group, ()):
            del self._of[worker][group]
        rarest = self._rarest.pop(group)
        alike = self._open[rarest]
        del alike[group]
        if not alike:
            del self._open[rarest]
