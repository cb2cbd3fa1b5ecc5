"""`airflow-mqtt top`: a live view of fleet, queues and running jobs, from the status topics alone.

It needs a broker and an account that may read (`monitor` of `mosquitto/acl`), and nothing of Airflow's site. It writes
nothing, anywhere.

The *picture* (`picture.Picture`) is what the status topics have said, folded message by message; `now` comes from
outside. A *table* (`tables`) says which columns there are, how each sorts, and what its cell shows. A *view*
(`keys.View`) is what the person looks at: table, order, filter, first row; a key makes another view of it. `screen`
makes lines of all three, as wide as the terminal and no wider; what devices say is made harmless in `cells`. All of
that is pure. `listener` is the broker in a thread of its own, which hands messages over by topic, the last one of each;
`terminal` is curses; `main` joins them.

What may race: the listener's thread and the one that draws. What both touch is behind one lock. Between two pictures
of one topic only the newest message counts, so nothing that arrives makes a picture cost more than there are topics,
and each picture takes a bounded number of them.

What a picture cannot know: jobs that did not move since it began to listen, since the status of a job is not retained.
It says how many of those that run it knows. When the connection was lost it forgets the jobs that it knew: what
became of them meanwhile nobody will say.
"""
