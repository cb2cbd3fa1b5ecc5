"""The contract between bridge and worker: topics, messages, job and worker state machines.

Pure: nothing in this package opens a socket or a file, reads a clock, or logs. `docs/reference/protocol.md`
describes the same contract for people who write a worker in another language.
"""

#: The level in every topic. Peers with another one do not hear each other; it changes only when nothing else helps.
TOPIC_VERSION = "v1"

#: The revision that this release speaks; a worker says its own in `Born`, a bridge in `BridgeStatus`.
PROTOCOL_VERSION = 1

#: The oldest revision that a bridge of this release understands. Devices are updated one by one, and some of them late.
OLDEST_PROTOCOL = 1
