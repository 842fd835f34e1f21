"""What WireGuard's program is told, and how a key is replaced, with devices in memory."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from socket import socketpair

import pytest
from msgspec.structs import replace

from isthmus.cluster.encryption import Encryption
from isthmus.cluster.registry import Key, Node
from isthmus.errors import Busy, Forbidden, InvalidRequest, NotImplementedHere
from isthmus.wireguard import PREFIX, Device, address, calls_first, device, is_key, lifetime, words

KEYS = [f"{letter * 42}A=" for letter in "ABCDE"]


def test_an_address_is_one_keys_alone() -> None:
    """And all are where the route leads."""
    assert len({address(key) for key in KEYS}) == len({device(key) for key in KEYS}) == len(KEYS)
    assert all(address(key) in PREFIX for key in KEYS)
    assert all(is_key(key) and len(device(key)) <= 15 for key in KEYS)


@pytest.mark.parametrize("text", ["", "remove", "A" * 44, KEYS[0][:-1], KEYS[0] + "\n", "--" + KEYS[0][2:], "é" * 44])
def test_what_is_no_key_is_known(text: str) -> None:
    """It would be told to a program."""
    assert not is_key(text)


def test_only_what_is_new_is_told() -> None:
    """From where somebody was heard last is better than what he said of himself."""
    one, two, gone, missed = KEYS[:4]
    wanted = {one: "192.0.2.1:51820", two: ""}
    here = Device(KEYS[4], 51820)
    first = list(words(here, wanted, {}, ()))
    assert first == [
        *(
            "peer",
            one,
            "endpoint",
            "192.0.2.1:51820",
            "persistent-keepalive",
            "25",
            "allowed-ips",
            f"{address(one)}/128",
        ),
        *("peer", two, "persistent-keepalive", "25", "allowed-ips", f"{address(two)}/128"),
    ]
    known = replace(here, others={one: 0, two: 0}, called=frozenset({one, two}))
    assert list(words(known, wanted, {}, ())) == []
    assert list(words(known, wanted, wanted, ())) == []
    moved = wanted | {one: "192.0.2.9:51820"}
    assert list(words(known, moved, wanted, ())) == ["peer", one, "endpoint", "192.0.2.9:51820"]
    more = replace(known, others={one: 0, two: 0, gone: 0, missed: 0})
    assert list(words(more, wanted, wanted, {address(missed)})) == ["peer", gone, "remove"]


def test_of_two_hosts_one_calls_first() -> None:
    """The other calls when that did not come; who is called already goes on being called."""
    one, two = KEYS[:2]
    assert calls_first(one, two) != calls_first(two, one)
    wanted, here = {one: "192.0.2.1:51820"}, Device(two, 51820)
    assert list(words(here, wanted, {}, (), {one})) == [
        *("peer", one, "endpoint", "192.0.2.1:51820", "allowed-ips", f"{address(one)}/128")
    ]
    known = replace(here, others={one: 0})
    assert list(words(known, wanted, wanted, (), {one})) == []
    assert list(words(known, wanted, wanted, ())) == ["peer", one, "persistent-keepalive", "25"]
    assert list(words(replace(known, called=frozenset({one})), wanted, wanted, (), {one})) == []


def test_hosts_do_not_replace_their_keys_all_at_one_time() -> None:
    """A store hears of each, and so does every host. No key is used for longer than it may be."""
    lives = [lifetime(f"{number}", 24.0) for number in range(1000)]
    assert lives == [lifetime(f"{number}", 24.0) for number in range(1000)]
    for hour in range(12, 24):
        assert 50 < sum(hour <= life < hour + 1 for life in lives) < 120
    assert min(lives) >= 12.0
    assert max(lives) <= 24.0


class Silent:
    """Nothing is heard of devices: a socket that nobody writes to."""

    def __init__(self) -> None:
        self._pair = socketpair()

    def fileno(self) -> int:
        """What never becomes readable."""
        return self._pair[0].fileno()

    def read(self) -> None:
        """Hear nothing."""

    def close(self) -> None:
        """End."""
        for one in self._pair:
            one.close()


class Ways:
    """Devices in memory; those whose keys are *answering* answer each of them."""

    def __init__(self) -> None:
        self.place: str | None = "here"
        self.programs = True
        self.ports: dict[str, Device] = {}
        self.leading = ""
        self.answering: set[str] = set()
        self._keys = iter(KEYS[3:])

    def there(self) -> str | None:
        """The namespace."""
        return self.place

    def entered(self) -> AbstractContextManager[None]:
        """Be there."""
        return nullcontext()

    def check(self) -> None:
        """See whether there can be devices."""
        if not self.programs:
            raise NotImplementedHere("install it")

    def generate(self) -> tuple[str, str]:
        """The next key."""
        public = next(self._keys)
        return f"private of {public}", public

    def devices(self) -> dict[str, Device]:
        """All that are there."""
        now = int(time.time())
        return {
            name: replace(one, others={key: now * (key in self.answering) for key in one.others})
            for name, one in self.ports.items()
        }

    def make(self, public: str, private: str, ports: Iterable[int], mtu: int) -> None:
        """Have a device."""
        assert (private, mtu) == (f"private of {public}", 1420)
        self.ports[device(public)] = Device(public, next(iter(ports)))

    def tell(self, name: str, words: Iterable[str]) -> None:
        """Add who is named, or remove him."""
        told = " ".join(words).split("peer ")[1:]
        others, called = dict(self.ports[name].others), set(self.ports[name].called)
        for key, *rest in map(str.split, told):
            if rest == ["remove"]:
                del others[key]
                called.discard(key)
            else:
                others[key] = 0
                called |= {key} if "persistent-keepalive" in rest else set()
        self.ports[name] = replace(self.ports[name], others=others, called=frozenset(called))

    def lead(self, name: str, mtu: int) -> None:
        """Send all by a device."""
        assert name in self.ports
        assert mtu == 1420
        self.leading = name

    def remove(self, name: str) -> None:
        """Have a device no more."""
        del self.ports[name]

    def watch(self) -> Silent:
        """Hear of devices that go."""
        return Silent()


@dataclass
class Bench:
    """A host *own*, and others with keys of their own."""

    one: Encryption
    ways: Ways
    file: Path
    others: tuple[Node, ...]

    async def settle(self) -> bool:
        """Have all be as it should, with all that is told known to others."""
        own = Node("own", "own", "192.0.2.1", "", 0, self.one.keys)
        return await self.one.settle((own, *self.others), (), 1500)


def bench(work: Callable[[Bench], Awaitable[None]], directory: Path, grace: float = 0.0, longest: float = 0.0) -> None:
    """Do *work* with a host and two others."""

    async def run() -> None:
        ways, file = Ways(), directory / "wireguard.key"
        others = (
            Node("a", "a", "192.0.2.2", "", 0, (Key(KEYS[0], 51820),)),
            Node("b", "b", "2001:db8::2", "", 0, (Key(KEYS[1], 51830), Key("nonsense", 1), Key(KEYS[2], 0))),
        )
        made = Bench(Encryption(ways, "own", file, grace, longest=longest), ways, file, others)
        try:
            await work(made)
        finally:
            made.one.close()

    asyncio.run(run())


def test_a_device_comes_with_the_namespace_and_is_kept(tmp_path: Path) -> None:
    """What others say of themselves is told to it, as far as it means anything."""

    async def work(on: Bench) -> None:
        on.ways.place = None
        assert not await on.settle()
        assert on.one.address is None
        on.ways.place = "here"
        assert await on.settle()
        assert on.one.keys == (Key(KEYS[3], 51820),)
        assert on.one.address == address(KEYS[3])
        assert set(on.ways.ports[on.ways.leading].others) == {KEYS[0], KEYS[1]}
        assert not await on.settle()
        # Nothing is known yet: nobody is forgotten.
        assert not await on.one.settle((), (), 1500)
        assert set(on.ways.ports[on.ways.leading].others) == {KEYS[0], KEYS[1]}
        on.others = on.others[:1]
        await on.settle()
        assert set(on.ways.ports[on.ways.leading].others) == {KEYS[0]}
        assert on.file.stat().st_mode & 0o777 == 0o600
        again = Encryption(on.ways, "own", on.file, 0.0)
        assert again.address == on.one.address
        on.ways.place = None
        assert await on.settle()
        assert not on.one.keys

    bench(work, tmp_path)


def test_who_does_not_call_first_is_called(tmp_path: Path) -> None:
    """After a while, and at once when he has answered; who comes after us in the order of keys is called at once."""

    async def work(on: Bench) -> None:
        looked = asyncio.Event()
        on.one = Encryption(on.ways, "own", on.file, 0.0, heed=0.05)
        on.one.start(looked.set)
        last = Node("c", "c", "192.0.2.3", "", 0, (Key(KEYS[4], 51820),))
        on.others = (*on.others, last)
        await on.settle()
        assert on.ways.ports[on.ways.leading].called == {KEYS[4]}
        on.ways.answering = {KEYS[0]}
        await on.settle()
        assert on.ways.ports[on.ways.leading].called == {KEYS[0], KEYS[4]}
        await asyncio.wait_for(looked.wait(), 5)
        await on.settle()
        assert on.ways.ports[on.ways.leading].called == {KEYS[0], KEYS[1], KEYS[4]}

    bench(work, tmp_path)


def test_without_the_programs_there_is_no_key(tmp_path: Path) -> None:
    """Who asks is told what to install."""

    async def work(on: Bench) -> None:
        on.ways.programs = False
        with pytest.raises(NotImplementedHere, match="install it"):
            await on.settle()
        with pytest.raises(NotImplementedHere, match="install it"):
            await on.one.check()
        assert not on.file.exists()
        with pytest.raises(Forbidden, match="no key to replace"):
            await on.one.rekey()

    bench(work, tmp_path)


def test_a_key_is_replaced_when_all_know_the_new_one(tmp_path: Path) -> None:
    """And not before, whoever dies meanwhile; who was never there is not waited for."""

    async def work(on: Bench) -> None:
        await on.settle()
        old = on.ways.leading
        on.ways.answering = {KEYS[0]}
        await on.one.rekey()
        with pytest.raises(Busy, match="being replaced already"):
            await on.one.rekey()
        on.ways.answering = set()
        assert await on.settle()
        assert [key.public for key in on.one.keys] == [KEYS[3], KEYS[4]]
        assert [key.port for key in on.one.keys] == [51820, 51821]
        new = device(KEYS[4])
        # He answers the one, and does not know the other.
        stale = on.ways.devices
        on.ways.devices = lambda: {  # type: ignore[method-assign]
            name: replace(one, others=dict(one.others) | ({KEYS[0]: int(time.time())} if name == old else {}))
            for name, one in stale().items()
        }
        await on.settle()
        assert on.ways.leading == old
        on.one.close()
        on.one = Encryption(on.ways, "own", on.file, 0.0)
        await on.settle()
        assert on.ways.leading == old
        on.ways.answering = {KEYS[0]}
        assert await on.settle()
        assert on.ways.leading == new
        assert [key.public for key in on.one.keys] == [KEYS[4], KEYS[3]]
        assert on.one.address == address(KEYS[4])
        await on.settle()
        await on.settle()
        await on.settle()
        assert on.one.keys == (Key(KEYS[4], 51821),)
        assert list(on.ways.ports) == [new]

    bench(work, tmp_path)


def test_an_old_key_is_replaced_unasked(tmp_path: Path) -> None:
    """When it is time, or at the next start; but not before the others know the one that is to go."""

    async def work(on: Bench) -> None:
        looked = asyncio.Event()
        on.one.start(looked.set)
        await on.settle()
        await asyncio.wait_for(looked.wait(), 5)
        await on.one.settle(on.others, (), 1500)
        await on.settle()
        assert [key.public for key in on.one.keys] == [KEYS[3]]
        await on.settle()
        assert [key.public for key in on.one.keys] == [KEYS[3], KEYS[4]]

    bench(work, tmp_path, longest=0.05)


def test_a_key_is_as_old_as_it_is_whoever_starts_anew(tmp_path: Path) -> None:
    """A host that is started every day would else keep it for ever."""

    async def work(on: Bench) -> None:
        await on.settle()
        for hours, keys in ((11.9, 1), (24.0, 2)):
            then = time.time() - 3600 * hours
            os.utime(on.file, (then, then))
            on.one.close()
            on.one = Encryption(on.ways, "own", on.file, 0.0, longest=24 * 3600)
            for _ in range(4):
                await on.settle()
            assert len(on.one.keys) == keys

    bench(work, tmp_path)


def test_a_key_whose_file_is_gone_is_replaced(tmp_path: Path) -> None:
    """How old it is nobody knows; and until there is another, it goes on being used."""

    async def work(on: Bench) -> None:
        await on.settle()
        on.file.unlink()
        await on.settle()
        await on.settle()
        assert [key.public for key in on.one.keys] == [KEYS[3], KEYS[4]]
        assert on.file.exists()

    bench(work, tmp_path, longest=24 * 3600)


def test_a_file_without_keys_is_told(tmp_path: Path) -> None:
    """Its name, and what to do."""

    async def work(on: Bench) -> None:
        on.file.write_text("{}")
        with pytest.raises(InvalidRequest, match="holds no keys: remove it"):
            Encryption(on.ways, "own", on.file, 0.0)

    bench(work, tmp_path)
