"""Spans of the bridge itself, and what tasks on devices have for a monitoring system that no device can reach.

A *span* is what became of one job, or of one call that was made for it (`spans`, values only). `job_spans` reads jobs
that ended, with their history, from the tables: whoever has moved them, and without a word from the writer. `otlp`
writes OpenTelemetry's messages, `exporter` sends them. `relay` passes on what workers send: StatsD lines, each with the
worker's name before it (`statsd`), and OTLP messages with the worker's name in them.

Who writes what: nobody here writes to the database or moves a job. What may race: nothing. All of it is lossy. What has
no room, is over a worker's budget, or finds nobody who listens is dropped and counted; no job, call or message waits
for it. When the bridge dies, what was not sent yet is lost, but the next leader looks at the jobs of the last minute
again: a span of a job has the same id each time.

Off, which it is without `otlp_endpoint` and `statsd_address`, it costs one comparison with None a call.
"""
