"""The Docker Engine API over the engine, and routes of our own beside it.

    server      sockets and HTTP (aiohttp's low-level server), limits, streams
    routes      one table: method and path -> a function of the request; every error becomes an answer in one place
    body        request bodies, read as Go's decoder reads them
    filters     `?filters=` and the times in it
    translate   bodies -> requests of the engine, and what it tells -> JSON shapes
    about       /version, /info
    events      the last 256 events, and those who listen

All but `server` is tested without a socket: `routes.Api` is one callable, from `message.Request` to `message.Response`.
"""
