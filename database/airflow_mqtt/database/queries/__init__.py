"""What operators look at: workers, jobs, queues, bridges, and what people did. For commands, page and API alike.

Each function reads in a session that it is given, and changes nothing. It filters, sorts and counts in the database, in
a number of statements that does not depend on how much is there, and decodes the rows of one page: `paging.Page`. A row
that is damaged is shown as far as it can be read, and hides no other. Times are seconds since the epoch.

Rows are dictionaries with the keys that the HTTP API documents (`docs/reference/http-api.md`). They hold what devices
said, in their words: whoever shows them makes them harmless (`config.printing`, or text nodes of a page).

`paging` has what all share: a page, patterns of names, what stands in a document. `workers`, `jobs`, `logs`, `queues`
and `overview` (teams, bridges, acts) each answer for what they are called.
"""
