"""What the leader decides: scripts over a `draft.Draft`, and the pure functions that they ask.

A *report* is what a worker said (`reports`), a *deadline* what time does (`timeouts`), *placement* which job goes to
which worker, an *outage* the time in which nobody could be heard, which is nobody's silence. `duties` are the scripts
that no message asks for; `fleet` is what a message, or its absence, makes of a worker.

A script changes its draft and nothing else. What may run only once the draft has committed is given to `Draft.then` or
`Draft.publish`. (Pauses, offers and what was logged are conveniences: a round that fails may have changed them.)
Scripts of one round see each other's changes, in the order in which they came. Nothing here waits, so nothing races; a
round that does not commit runs its scripts again, over what the rows say then.
"""
