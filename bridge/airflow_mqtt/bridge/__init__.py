"""The daemon between database, MQTT broker and Airflow's Execution API.

Any number of bridges may run. One *leads*: it holds the lease with the newest *epoch* (`lease`, `leadership`). The
*living* (`living.Living`) is what the leader holds in memory: workers, jobs that a worker holds, and of jobs that wait
as little as placement needs. A *script* is a pure function over a `draft.Draft`: what the living would be. A *round*
of the one `writer` takes all scripts that wait, commits what they write, applies it to the living, and then publishes
and answers. A *duty* is a script that the leader runs by itself: wishes, deadlines, placement.

What waits for a round stands in the `backlog`; what others wrote is read into memory by `refresh`.

Rooms: `dispatch` decides, `calls` answers Execution API calls, `mqtt` is the broker, `telemetry` speaks to monitoring
systems, `upkeep` is what goes on beside. `tally` counts. `leader` joins them as the tasks of one group.

Who writes what: the writer alone changes jobs, workers and logs, and nothing in memory changes before its commit has
succeeded. `upkeep.retention` deletes jobs that have ended, which are the writer's no more. The lease's row is written
by `leadership.LeaseKeeper`, in a thread and over a connection of its own. See `airflow_mqtt.database` for the columns.

What may race, and who wins:

- Two bridges: the newest epoch. Each transaction checks it, so one that only slept writes nothing.
- The leader and a scheduler: whoever commits first. The writer reads the row anew and runs its scripts over that.
- A dispatch that is superseded, and its start gate: the gate opens after a commit which no wish may have preceded.
- Messages: any may be lost, doubled or late. Scripts are safe to run twice; numbers, attempts and births say what
  counts.

What happens when it dies: nothing is here alone. A successor reads the living once, and workers introduce themselves
to the new epoch. What was committed and not published is published again when its time is due; what was not committed
was acknowledged to nobody, and is sent again. Heartbeats that were not written yet are excused: `leader.taken_over`.
A call of the Execution API under way is made again: its worker sends it until it is answered.
"""
