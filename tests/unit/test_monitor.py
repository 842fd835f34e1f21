"""The pipes between the daemon and the monitors of containers."""

import asyncio
import os
import threading

from isthmus.containers.monitor import first_line


def test_a_pipe_of_ours_is_closed_once() -> None:
    """A number that is closed twice may be another thread's file the second time: it loses what it had just opened."""
    import uvloop

    lost: list[OSError] = []
    over = threading.Event()

    def open_and_close() -> None:
        while not over.is_set():
            try:
                os.close(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                lost.append(error)

    async def many_lines() -> None:
        for _ in range(2000):
            read, write = os.pipe()
            os.write(write, b"a line\nand more")
            os.close(write)
            assert await first_line(read) == b"a line\n"

    others = [threading.Thread(target=open_and_close) for _ in range(2)]
    for one in others:
        one.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(many_lines())
    finally:
        over.set()
        for one in others:
            one.join()
    assert not lost
