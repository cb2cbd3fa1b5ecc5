"""The contract between bridge and worker: topics, messages, job and worker state machines.

Pure: nothing in this package opens a socket or a file, reads a clock, or logs. `docs/reference/protocol.md`
describes the same contract for people who write a worker in another language.
"""

#: The version in every topic. A peer that speaks another one is not understood and its messages are dropped.
PROTOCOL_VERSION = 1
