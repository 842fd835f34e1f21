"""The command line: a client of the daemon's HTTP API, with the words of Docker's.

It is started for every single command, so it starts fast: no module here imports anything of weight at its top, and
`main` imports only the group of commands that was asked for. That is why its values are named tuples: `dataclasses`
alone takes 5 ms, a tenth of what a whole command may.
"""
