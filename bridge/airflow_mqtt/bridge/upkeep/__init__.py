"""What the leader does beside its work: none of it moves a job.

`wakeup` hears from the database that others wrote; the writer looks by itself now and then, so a wake-up that is lost
costs time and nothing else. `queue_status` counts the queues from memory. `retention` deletes jobs that ended long
ago, a few at a time, over its own connections and under the lease's epoch. `health_file` is touched while the loop
turns. `metrics` is what Prometheus reads of the counts in `bridge.tally` and of memory, `metrics_endpoint` where it
does, also while the bridge stands by; `word` is what the leader says of itself in the lease's row.

`home_assistant` tells which workers there are to who reads its discovery, when a worker is new or another.

Retention and the writer may meet on a job whose last log bytes come after its end: the row is gone, so the writer's
change is a conflict, and the bytes go with the job. Whatever dies here begins anew with the next leader, from nothing.
"""
