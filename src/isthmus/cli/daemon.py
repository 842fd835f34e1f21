"""`isthmus daemon`: hands all that follows to the daemon, which reads its own flags."""

from collections.abc import Sequence


def run(words: Sequence[str], host: str) -> int:
    """Run the daemon with *words* as its command line, and *host*, if given before the command, as its `--host`."""
    from isthmus.daemon import main

    return main([*(["--host", host] if host else []), *words])
