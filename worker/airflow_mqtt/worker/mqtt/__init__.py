"""The worker's way to the broker.

A *connection* is one attempt, from the broker's name to its end; its phase says how far it got. The *link* says when to
try again, and tells the core what it has to know. A *probe* is a connection of its own, before the link's: it asks
whether a living worker has our name.

All of it is driven by the worker's loop, and nothing here waits. What can only be waited for (the resolver, TCP, the
handshake of TLS) does so in a thread, the *dial*, which hands a connected socket over and ends.
"""
