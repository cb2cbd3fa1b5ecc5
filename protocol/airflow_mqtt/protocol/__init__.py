"""The contract between bridge and worker: topics, messages, job and worker state machines.

Pure: nothing in this package opens a socket or a file, reads a clock, or logs. `docs/reference/protocol.md` describes
the same contract for people who write a worker in another language.

A *job* is one dispatch of one workload, its *attempt* counts how often it was given to a worker. An *order* (`Run`,
`Cancel`) goes to a worker, a *report* (`Born`, `Event`, `LogChunk`) comes from one, a *call* is a request of the
Execution API and its answer, a *status* is for anyone who listens. A worker's *journal* names one stream of numbered
events; a *birth* says where that stream is and what the worker holds.

Anything may be lost, doubled, overtaken, or delivered long after. So a number is acknowledged after the commit that
contains it and never before, a report names its attempt, and a birth says by `connection` and `number` whether it is
the newest. `jobs.settle` decides what a report is: applied, a duplicate, stale, or refused. Of two that move a job at
the same time, the one that `jobs.TABLE` still has a move for wins, and whoever keeps the rows decides which came
first.

Nothing here can die: it holds nothing. What a peer says is checked when it is decoded (`errors.PayloadError`), so that
whoever has a message may believe its types and bounds.
"""

#: The level in every topic. Peers with another one do not hear each other; it changes only when nothing else helps.
TOPIC_VERSION = "v1"

#: The revision that this release speaks; a worker says its own in `Born`, a bridge in `BridgeStatus`.
PROTOCOL_VERSION = 1

#: The oldest revision that a bridge of this release understands. Devices are updated one by one, and some of them late.
OLDEST_PROTOCOL = 1
