"""The benchmark: what Isthmus costs beside what the kernel itself takes, in time, traffic and memory.

`python -m bench` (`make bench`) runs it; `docs/performance.md` says what it asks and what came of it.
"""
