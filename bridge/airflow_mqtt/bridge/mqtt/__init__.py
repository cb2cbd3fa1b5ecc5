"""The broker: one connection (`link`), what arrives (`inbox`), what is published (`outbox`).

Each sender has a *lane*, with a budget of messages and bytes that is checked before anything is decoded. Lanes take
turns, so a sender that says much waits for itself. What its messages cost, in number and in unpacked bytes, it pays
for in time: a lane whose sender has used up its share rests. What is large is decoded in another thread, and its lane
stands until then: the order of one sender's messages is kept, that between senders is not.

What a broker had retained counts on topics that are retained by the protocol, and nowhere else: on MQTT 5 it is not
sent, on 3.1.1 it is dropped and cleared.

Publishing does not wait for PUBACKs. What waits for one is bounded; past that bound, and without a connection, a
message is dropped, since everything that matters is sent again: orders by their deadlines, acknowledgements at the
next report, answers at the next request. A broker that is silent holds up nobody but itself.

A connection counts only while our own echo comes back. When it ends, the bridge begins a new one with a clean session,
and the workers, who see it, introduce themselves again.
"""
