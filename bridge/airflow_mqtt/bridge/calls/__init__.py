"""Execution API calls on behalf of jobs, and the heartbeats of running tasks.

The *gate* is the call after which user code may run: `PATCH …/run` of a task, and what `protocol.kinds` names for other
work. `protocol.execution_api` lists what a job may call at all, `gate` decides over the leader's memory, `gateway`
takes requests and answers them, `forwarder` makes a call that may be made, `responses` are answers of our own,
`execution_api` is the HTTP client, `turns` says who may make a call now. A call reads nothing from the database: who
holds what, in which attempt, with which token, is in memory. What an answer changes is a script of the writer, and the
worker hears the answer after its commit.

Workers take turns: so many calls at a time for each, so many calls and bytes of answers in a second. What is past that
waits for its own worker's share, and for nobody else's. What is large is encoded outside of the loop.

What may race: two requests for one gate; the first whose commit succeeds starts the job, the other gets 409. A gate's
request and the report of acceptance that it has overtaken: the request waits for that. A call, and the end of its job:
it is not made any more, or its answer changes nothing.

Calls that are under way when the bridge dies were answered to nobody: their workers send them again to the next
leader, and Airflow may see one twice. Answers that are remembered for doubled requests die too; a gate that has opened
stays open for the same request only, since its id is in the job's row.
"""
