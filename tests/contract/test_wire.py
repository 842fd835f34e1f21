"""What every wire tells: the fake one and a real one are held to the same answers, wherever both can give one.

Each test has namespaces of its own. What only a real one has (late answers, conflicts, floods) is in tests/kernel.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from ipaddress import ip_address

import pytest

from isthmus.errors import DeviceUnavailable
from isthmus.lan import Wire
from isthmus.model import IPAddress
from isthmus.wire.advice import Verdict
from isthmus.wire.fake import FakeWire
from isthmus.wire.prober import Prober, Schedule
from tests.kernel.realm import apart, run

PRINTER, WEB = "02:00:00:00:00:02", "02:00:00:00:00:aa"
FOUR, SIX = ip_address("192.0.2.2"), ip_address("2001:db8::2")
FREE4, FREE6 = FOUR + 9, SIX + 9
SOON = Schedule((0.0,), 0.1)
PATIENT = Schedule((0.0, 0.1, *range(1, 60)), 60.0)
"""Until there is an answer: a real device has to get ready first."""

Arrange = Callable[[Iterable[IPAddress]], Wire]
"""Gives a wire with a device `lan0`, by which a printer with these addresses is reached, and no other device."""


def in_memory(addresses: Iterable[IPAddress]) -> Wire:
    """The fake one."""
    return FakeWire({"lan0": dict.fromkeys(addresses, PRINTER)})


def of_veths(addresses: Iterable[IPAddress]) -> Wire:
    """A real one: a pair of veths, one end of which is the printer's."""
    run("ip", "netns", "add", "printer")
    run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "address", PRINTER, "netns", "printer")
    run("ip", "-n", "printer", "link", "set", "eth0", "up")
    for address in addresses:
        # Without a check of its own, which would take our question for a rival's.
        nodad = ["nodad"] if address.version == 6 else []
        run("ip", "-n", "printer", "address", "add", str(address), "dev", "eth0", *nodad)
    run("ip", "link", "set", "lan0", "up")
    return Prober(lambda *_: None, linger=0.0)


pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN"),
    pytest.mark.parametrize("arrange", [in_memory, of_veths], ids=["fake", "real"]),
]


def asked(arrange: Arrange, body: Callable[[Wire], Awaitable[None]], *addresses: IPAddress) -> None:
    """Do *body* with a wire on which a printer has the *addresses*, when it answers."""

    async def main() -> None:
        with closing(arrange(addresses)) as wire:
            found = await wire.probe("lan0", dict.fromkeys(addresses, ""), PATIENT)
            assert found == dict.fromkeys(addresses, PRINTER)
            await body(wire)

    asyncio.run(main())


@apart
def test_who_has_an_address_is_told_and_who_has_none_is_nobody(arrange: Arrange) -> None:
    """All that an attach wants to know."""

    async def body(wire: Wire) -> None:
        assert await wire.probe("lan0", {FREE4: WEB, FREE6: WEB}, SOON) == {FREE4: "", FREE6: ""}
        some = await wire.probe("lan0", {FOUR: "", FREE4: ""}, Schedule((0.0,), 1.0))
        assert some == {FOUR: PRINTER, FREE4: ""}
        assert await wire.probe("lan0", {}, SOON) == {}

    asked(arrange, body, FOUR, SIX)


@apart
def test_the_holder_himself_is_nobody(arrange: Arrange) -> None:
    """And so are others of ours: a sandbox that is brought back must not find itself there."""

    async def body(wire: Wire) -> None:
        assert await wire.probe("lan0", {FOUR: PRINTER, SIX: PRINTER}, SOON) == {FOUR: "", SIX: ""}
        assert await wire.probe("lan0", {FOUR: WEB, SIX: WEB}, SOON, ours={PRINTER}) == {FOUR: "", SIX: ""}

    asked(arrange, body, FOUR, SIX)


@pytest.mark.parametrize("target", [FOUR, SIX], ids=["IPv4", "IPv6"])
@apart
def test_a_second_mac_is_answered_by_the_first_target_that_is_there(arrange: Arrange, target: IPAddress) -> None:
    """The gateway may be off while another neighbour answers."""

    async def body(wire: Wire) -> None:
        found = await wire.check("lan0", [FREE4, FREE6, target], 60)
        assert (found.verdict, found.neighbour, found.mac) == (Verdict.BOTH, target, PRINTER)

    asked(arrange, body, target)


@apart
def test_where_nobody_answers_nobody_is_told(arrange: Arrange) -> None:
    """Neither of targets that are not there, nor where there are none to ask, for which nobody has to wait."""

    async def body(wire: Wire) -> None:
        for targets, wait in (([FREE4, FREE6], 0.1), ([], 600)):
            found = await wire.check("lan0", targets, wait)
            assert (found.verdict, found.neighbour, found.mac) == (Verdict.NOBODY, None, "")

    asked(arrange, body)


@apart
def test_a_device_that_is_not_there_cannot_be_used(arrange: Arrange) -> None:
    """Whatever is asked of it; but what nobody is to guard is guarded."""

    async def body(wire: Wire) -> None:
        with pytest.raises(DeviceUnavailable, match="cannot use the interface lan9: there is no such interface"):
            await wire.probe("lan9", {FREE4: ""}, SOON)
        with pytest.raises(DeviceUnavailable, match="lan9"):
            await wire.check("lan9", [FREE4], 60)
        with pytest.raises(DeviceUnavailable, match="lan9"):
            wire.guard("lan9", {FREE4: WEB})
        wire.guard("lan9", {})
        assert await wire.probe("lan9", {}, SOON) == {}

    asked(arrange, body)
