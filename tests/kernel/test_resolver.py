"""The resolver on real sockets: who asks, who is asked in turn, what is survived; on a loopback of a test's own."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from importlib import import_module
from ipaddress import ip_interface
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from msgspec.structs import replace

from isthmus.dns.cache import STALE_TTL, Cache
from isthmus.dns.forward import HostServers, Server, Upstream
from isthmus.dns.lookup import Directory
from isthmus.dns.server import ADDRESS, MOST_STREAMS, MOST_WAITING, PORT, Point
from isthmus.kernel import namespaces
from isthmus.kernel.timed import Timed
from isthmus.learning import Learning
from isthmus.names import Names
from tests.kernel.realm import apart, run
from tests.worlds import endpoint, network, sandbox

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

SECONDS = 10.0
FIRST, SECOND = ("127.0.1.1", 53), ("127.0.1.2", 53)
FRONT, WEB, DB = network("front"), sandbox("web"), sandbox("db", number=101)
WEB_FRONT = replace(endpoint(FRONT, WEB, "10.1.0.2/24"), aliases=("pool",))
DB_FRONT = replace(endpoint(FRONT, DB, "10.1.0.3/24", number=201), aliases=("pool",))
Answer = Callable[[bytes], Iterable[bytes]]


def made(asked: bytes, address: str = "192.0.2.1", ttl: int = 60) -> dns.message.Message:
    """The honest answer to what was *asked*."""
    query = dns.message.from_wire(asked)
    answer = dns.message.make_response(query, recursion_available=True)
    answer.answer.append(dns.rrset.from_text(query.question[0].name, ttl, "IN", "A", address))
    return answer


def honest(asked: bytes) -> Iterable[bytes]:
    """Say what is so."""
    return [made(asked).to_wire()]


def silent(_asked: bytes) -> Iterable[bytes]:
    """Say nothing."""
    return []


def failing(asked: bytes) -> Iterable[bytes]:
    """Say that it does not work."""
    answer = dns.message.make_response(dns.message.from_wire(asked))
    answer.set_rcode(dns.rcode.SERVFAIL)
    return [answer.to_wire()]


class Upstairs:
    """A name server somewhere else: *answer* makes of each query the datagrams to send, *by_stream* what TCP brings."""

    def __init__(self, answer: Answer, by_stream: Answer = honest) -> None:
        self.answer = answer
        self.by_stream = by_stream
        self.asked: list[tuple[bytes, tuple[str, int]]] = []
        self.heard = asyncio.Event()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def hear(self) -> None:
        """Answer by UDP."""
        data, peer = self.socket.recvfrom(4096)
        self.asked.append((data, peer))
        self.heard.set()
        for one in self.answer(data):
            self.socket.sendto(one, peer)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer by TCP."""
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        for one in self.by_stream(await reader.readexactly(length)):
            writer.write(struct.pack(">H", len(one)) + one)
        await writer.drain()
        writer.close()

    @asynccontextmanager
    async def at(self, server: Server) -> AsyncIterator["Upstairs"]:
        """Serve at this address and port."""
        loop = asyncio.get_running_loop()
        self.socket.bind(server)
        loop.add_reader(self.socket, self.hear)
        streams = await asyncio.start_server(self.converse, *server)
        try:
            yield self
        finally:
            loop.remove_reader(self.socket)
            self.socket.close()
            streams.close()
            await streams.wait_closed()


class Inside:
    """A sandbox `web`, beside `db`, and its resolver."""

    def __init__(self, *servers: Server, patience: float = SECONDS, stale_after: float = SECONDS) -> None:
        self.time = 0.0
        self.directory = Directory()
        self.directory.learn([FRONT, WEB, DB, WEB_FRONT, DB_FRONT])
        self.servers: Sequence[Server] = servers
        cache = Cache(lambda: self.time)
        self.upstream = Upstream(lambda: self.servers, nullcontext, cache, patience, stale_after)
        self.point = Point(
            nullcontext,
            lambda query, limit: self.directory.answers("web", query, limit),
            lambda: self.directory.version,
            lambda: self.upstream if self.servers else None,
        )

    def close(self) -> None:
        """Serve no more."""
        self.point.close()
        self.upstream.close()

    async def ask(self, name: str, kind: str = "A", *, tcp: bool = False, edns: bool = False) -> dns.message.Message:
        """What is answered to who asks properly."""
        query = dns.message.make_query(name, kind, use_edns=edns, payload=4096 if edns else 0)
        send = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return await send(query, ADDRESS, SECONDS, PORT)

    async def address(self, name: str) -> str:
        """The first address that is told."""
        answer = await self.ask(name)
        assert answer.rcode() == dns.rcode.NOERROR, answer
        return str(answer.answer[-1][0])


def within(work: Callable[[], Coroutine[object, object, None]], library: str = "uvloop") -> None:
    """Do *work* on a loop, in a network of our own whose loopback is up."""
    run("ip", "link", "set", "lo", "up")

    async def main() -> None:
        async with asyncio.timeout(3 * SECONDS):
            await work()

    with asyncio.Runner(loop_factory=import_module(library).new_event_loop) as runner:
        runner.run(main())


@contextmanager
def asking() -> Iterator[socket.socket]:
    """A socket by which anything can be sent to the resolver."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as one:
        one.connect((ADDRESS, PORT))
        yield one


@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
@apart
def test_names_are_told_by_udp_and_tcp(library: str) -> None:
    """At the port that programs ask at, as the question was written, with EDNS0 for who speaks it."""

    async def work() -> None:
        inside = Inside()
        for tcp in (False, True):
            answer = await inside.ask("Db.FRONT", tcp=tcp, edns=tcp)
            assert [str(item) for item in answer.answer[0]] == ["10.1.0.3"]
            assert str(answer.question[0].name) == "Db.FRONT."
            assert (answer.edns == 0) is tcp
        inside.close()

    within(work, library)


@apart
def test_a_change_is_seen_by_the_next_question() -> None:
    """The same question, whose answer was ready to be sent."""

    async def work() -> None:
        inside = Inside()
        assert await inside.address("db") == "10.1.0.3"
        assert await inside.address("db") == "10.1.0.3"
        inside.directory.learn([replace(DB_FRONT, addresses=(ip_interface("10.1.0.9/24"),))])
        assert await inside.address("db") == "10.1.0.9"
        inside.directory.learn([replace(DB, removing=True)])
        assert (await inside.ask("db")).rcode() == dns.rcode.SERVFAIL
        inside.close()

    within(work)


@apart
def test_a_shared_alias_goes_round() -> None:
    """From one question to the next, also when the answers are ready."""

    async def work() -> None:
        inside = Inside()
        told = [await inside.address("pool") for _ in range(4)]
        assert sorted(told) == ["10.1.0.2", "10.1.0.2", "10.1.0.3", "10.1.0.3"]
        assert told[0] != told[1]
        inside.close()

    within(work)


@apart
def test_an_answer_too_long_for_a_datagram_comes_by_tcp() -> None:
    """A hundred members of one alias: the datagram says that there is more."""

    async def work() -> None:
        inside = Inside()
        many = tuple(ip_interface(f"10.1.1.{number}/24") for number in range(100))
        inside.directory.learn([replace(DB_FRONT, addresses=many)])
        short, whole = await inside.ask("db"), await inside.ask("db", tcp=True)
        assert short.flags & dns.flags.TC
        assert 0 < len(short.answer[0]) < len(whole.answer[0]) == 100
        assert len((await inside.ask("db", edns=True)).answer[0]) == 100
        inside.close()

    within(work)


@apart
def test_what_is_not_ours_comes_from_upstream_and_is_remembered() -> None:
    """Once; and the age of what is remembered is told."""

    async def work() -> None:
        async with Upstairs(honest).at(FIRST) as upstairs:
            inside = Inside(FIRST)
            assert await inside.address("Far.example") == "192.0.2.1"
            inside.time += 10
            answer = await inside.ask("far.example")
            assert (str(answer.answer[0][0]), answer.answer[0].ttl) == ("192.0.2.1", 50)
            assert len(upstairs.asked) == 1
            inside.close()

    within(work)


@apart
def test_questions_go_under_numbers_and_from_ports_that_nobody_can_guess() -> None:
    """Else an answer could be forged; twenty questions are enough to tell."""

    async def work() -> None:
        async with Upstairs(honest).at(FIRST) as upstairs:
            inside = Inside(FIRST)
            for number in range(20):
                await inside.ask(f"n{number}.example")
            assert len({peer for _, peer in upstairs.asked}) > 15
            assert len({data[:2] for data, _ in upstairs.asked}) > 15
            inside.close()

    within(work)


@apart
def test_equal_questions_are_asked_once() -> None:
    """A thousand workers that start at once ask for the same name."""

    async def work() -> None:
        async with Upstairs(silent).at(FIRST) as upstairs:
            inside = Inside(FIRST)
            asked = [asyncio.ensure_future(inside.ask("far.example")) for _ in range(20)]
            await upstairs.heard.wait()
            await inside.ask("db")  # whoever asked before it was heard before it
            question, peer = upstairs.asked[0]
            upstairs.socket.sendto(made(question).to_wire(), peer)
            answers = await asyncio.gather(*asked)
            assert {str(one.answer[0][0]) for one in answers} == {"192.0.2.1"}
            assert len(upstairs.asked) == 1
            inside.close()

    within(work)


@apart
def test_a_liar_is_not_believed() -> None:
    """Another number, another question, half a message: none of it is the answer, and the answer still counts."""

    async def work() -> None:
        def lie(asked: bytes) -> Iterable[bytes]:
            true, false = made(asked), made(asked, "198.51.100.66")
            false.id = true.id ^ 1
            other = dns.message.make_response(dns.message.make_query("other.example", "A", id=true.id))
            return [false.to_wire(), other.to_wire(), asked, true.to_wire()[:20], b"", true.to_wire()]

        async with Upstairs(lie).at(FIRST):
            inside = Inside(FIRST)
            assert await inside.address("far.example") == "192.0.2.1"
            inside.close()

    within(work)


@apart
def test_nobody_but_the_server_that_was_asked_is_heard() -> None:
    """Somebody else may know number and question, and yet has another address."""

    async def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
            forger.bind(SECOND)
            upstairs = Upstairs(silent)

            def forge(asked: bytes) -> Iterable[bytes]:
                forger.sendto(made(asked, "198.51.100.66").to_wire(), upstairs.asked[-1][1])
                return honest(asked)

            upstairs.answer = forge
            async with upstairs.at(FIRST):
                inside = Inside(FIRST)
                assert await inside.address("far.example") == "192.0.2.1"
                inside.close()

    within(work)


@apart
def test_a_truncated_answer_is_asked_for_again_by_tcp() -> None:
    """And whoever asked gets what fits, and is told to do likewise."""

    async def work() -> None:
        def cut(asked: bytes) -> Iterable[bytes]:
            answer = dns.message.make_response(dns.message.from_wire(asked))
            answer.flags |= dns.flags.TC
            return [answer.to_wire()]

        def whole(asked: bytes) -> Iterable[bytes]:
            answer = made(asked)
            answer.answer[0] = dns.rrset.from_text(
                answer.question[0].name, 60, "IN", "A", *(f"192.0.2.{number}" for number in range(90))
            )
            return [answer.to_wire()]

        async with Upstairs(cut, whole).at(FIRST):
            inside = Inside(FIRST)
            assert (await inside.ask("far.example")).flags & dns.flags.TC
            assert len((await inside.ask("far.example", tcp=True)).answer[0]) == 90
            inside.close()

    within(work)


@pytest.mark.parametrize("first", [None, failing])
@apart
def test_the_next_server_is_asked_where_one_is_dead_or_fails(first: Answer | None) -> None:
    """A port that nobody has says so at once; one that fails says so itself."""

    async def work() -> None:
        async with Upstairs(honest).at(SECOND), Upstairs(first or silent).at(FIRST if first else ("127.0.1.3", 53)):
            inside = Inside(FIRST, SECOND)
            assert await inside.address("far.example") == "192.0.2.1"
            inside.close()

    within(work)


@apart
def test_a_server_that_is_silent_is_given_up_and_then_asked_last() -> None:
    """One that is down costs one question its patience, and not each question."""

    async def work() -> None:
        async with Upstairs(silent).at(FIRST) as dead, Upstairs(honest).at(SECOND):
            inside = Inside(FIRST, SECOND, patience=0.05)
            assert await inside.address("a.example") == "192.0.2.1"
            assert await inside.address("b.example") == "192.0.2.1"
            assert len(dead.asked) == 1
            inside.close()

    within(work)


@apart
def test_where_nobody_answers_that_is_the_answer() -> None:
    """The asker may go on; there is nothing else to do."""

    async def work() -> None:
        inside = Inside(FIRST, SECOND)
        assert (await inside.ask("far.example")).rcode() == dns.rcode.SERVFAIL
        assert (await inside.ask("far.example", tcp=True)).rcode() == dns.rcode.SERVFAIL
        inside.close()

    within(work)


@pytest.mark.parametrize("now", [None, failing, silent])
@apart
def test_while_upstream_is_down_old_answers_are_good_enough(now: Answer | None) -> None:
    """Whether it is dead, fails or says nothing; it is told that they are good for a moment only."""

    async def work() -> None:
        inside = Inside(FIRST, stale_after=0.05)
        async with Upstairs(honest).at(FIRST):
            await inside.ask("far.example")
        inside.time += 61
        async with Upstairs(now or silent).at(FIRST if now else SECOND):
            answer = await inside.ask("far.example")
            assert (str(answer.answer[0][0]), answer.answer[0].ttl) == ("192.0.2.1", STALE_TTL)
        inside.close()

    within(work)


@apart
def test_a_flood_of_questions_is_bounded() -> None:
    """Of those that upstream leaves waiting only so many are kept; the rest is told so, and our own names go on."""

    async def work() -> None:
        async with Upstairs(silent).at(FIRST) as upstairs:
            inside = Inside(FIRST)
            loop = asyncio.get_running_loop()
            with asking() as one:
                refused = 0
                for number in range(MOST_WAITING + 40):
                    one.send(dns.message.make_query(f"n{number}.example", "A").to_wire())
                    if number >= MOST_WAITING:
                        data = await loop.sock_recv(one, 4096)
                        refused += dns.message.from_wire(data).rcode() == dns.rcode.SERVFAIL
                    else:
                        await asyncio.sleep(0)
                assert refused == 40
            assert await inside.address("db") == "10.1.0.3"
            assert len({data[12:] for data, _ in upstairs.asked}) == MOST_WAITING
            inside.close()

    within(work)


@apart
def test_no_octets_stop_it() -> None:
    """Whatever a program in a sandbox sends, the next one is answered."""

    async def work() -> None:
        inside = Inside()
        loop = asyncio.get_running_loop()
        query = dns.message.make_query("db", "A", use_edns=True).to_wire()
        with asking() as one:
            for cut in range(len(query)):
                one.send(query[:cut])
            for place in range(len(query)):
                one.send(query[:place] + b"\xff" + query[place + 1 :])
            one.send(os.urandom(4000))
            one.send(b"")
        assert await inside.address("db") == "10.1.0.3"
        with asking() as one:
            one.send(query[:2] + b"\x28\x00" + query[4:])  # an update (RFC 2136)
            assert dns.message.from_wire(await loop.sock_recv(one, 4096)).rcode() == dns.rcode.NOTIMP
            one.send(query[:4] + b"\0\2" + query[6:])
            assert dns.message.from_wire(await loop.sock_recv(one, 4096)).rcode() == dns.rcode.FORMERR
            strange = dns.message.make_query("db", "A", use_edns=5).to_wire()
            one.send(strange)
            assert dns.message.from_wire(await loop.sock_recv(one, 4096)).rcode() == dns.rcode.BADVERS
        inside.close()

    within(work)


@apart
def test_connections_are_bounded_and_garbage_ends_them() -> None:
    """Who holds connections open keeps nobody from asking by UDP; a place is free again when one ends."""

    async def work() -> None:
        inside = Inside()
        held = [await asyncio.open_connection(ADDRESS, PORT) for _ in range(MOST_STREAMS)]
        reader, writer = await asyncio.open_connection(ADDRESS, PORT)
        assert await reader.read() == b""
        writer.close()
        assert await inside.address("db") == "10.1.0.3"
        held[0][1].write(b"\0\5junk!")
        assert await held[0][0].read() == b""
        for _, one in held:
            one.close()
            await one.wait_closed()
        assert str((await inside.ask("db", tcp=True)).answer[0][0]) == "10.1.0.3"
        inside.close()

    within(work)


@apart
def test_several_questions_go_through_one_connection() -> None:
    """As programs do that ask much (RFC 7766)."""

    async def work() -> None:
        inside = Inside()
        reader, writer = await asyncio.open_connection(ADDRESS, PORT)
        for name in ("db", "web", "pool"):
            query = dns.message.make_query(name, "A").to_wire()
            writer.write(struct.pack(">H", len(query)) + query)
            (length,) = struct.unpack(">H", await reader.readexactly(2))
            assert dns.message.from_wire(await reader.readexactly(length)).answer
        writer.close()
        inside.close()

    within(work)


@apart
def test_a_name_server_of_the_sandbox_s_own_can_have_the_port_beside_us() -> None:
    """If it says to the kernel that it shares; what is asked at our address is still asked of us."""

    async def work() -> None:
        inside = Inside()
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as theirs:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                theirs.bind(("0.0.0.0", PORT))
                assert await inside.address("db") == "10.1.0.3"
        inside.close()

    within(work)


@apart
def test_the_host_s_servers_are_read_again_when_they_change() -> None:
    """A laptop moves from one network to another."""
    path = Path("/run/netns/resolv.conf")
    servers = HostServers(path)
    assert servers() == ()
    path.write_text("nameserver 192.0.2.1\n")
    assert servers() == (("192.0.2.1", 53),)
    path.unlink()
    path.write_text("nameserver 192.0.2.2\nnameserver fe80::1%lo\n")
    assert servers() == (("192.0.2.2", 53), ("fe80::1%lo", 53))


@apart
def test_a_resolver_moves_into_the_namespace_that_takes_a_name() -> None:
    """Somebody removed a namespace of ours, and it was made anew: the old one must not be held on to."""

    async def work() -> None:
        root = Path("/run/netns")
        (root / "netns").mkdir()
        namespaces.share(str(root / "netns"))

        def make() -> None:
            netns = namespaces.create()
            namespaces.bind(netns, str(root / "netns" / "web"))
            os.close(netns)

        @contextmanager
        def enter(name: str) -> Iterator[None]:
            netns = namespaces.open_path(str(root / "netns" / name))
            try:
                with namespaces.inside(netns):
                    yield
            finally:
                os.close(netns)

        def listening() -> bool:
            return ADDRESS in run("nsenter", f"--net={root}/netns/web", "ss", "-lnu")

        directory = Directory()
        names = Names(directory, enter, root, Learning(directory, Timed(), asyncio.get_running_loop().time))
        make()
        names.learn([FRONT, WEB, WEB_FRONT], [])
        names.start()
        assert listening()
        namespaces.unbind(str(root / "netns" / "web"))
        make()
        assert not listening()
        names.look_again()
        names.learn([], [])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert listening()
        names.close()
        assert not listening()
        namespaces.unbind(str(root / "netns" / "web"))

    within(work)
