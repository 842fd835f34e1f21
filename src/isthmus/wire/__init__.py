"""The wire of one device: asks who has an address, and hears what its neighbours say.

What an engine's records cannot tell is who else is there: a printer with the address that is about to be given out, a
gateway, a switch that lets no second MAC pass. `packets` and `advice` are values and pure functions; `port` is a raw
socket on one device; `prober` asks through one and guards through others, on the daemon's event loop.
"""
