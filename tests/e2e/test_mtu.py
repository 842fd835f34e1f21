"""How large packets may be: as large as the way out bears, whatever happens to it."""

import os
import socket

import pytest

from tests.e2e.hosts import OUTSIDE, OUTSIDE6, Flow, Machine, Place, World, pings, until

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

MTU = "com.docker.network.driver.mtu"


def mtu(place: Place, interface: str = "eth0") -> int:
    """The MTU of an interface."""
    (link,) = place.ip(f"link show dev {interface}")
    return int(link["mtu"])


def segments(client: Place, server: Machine, address: str) -> tuple[int, int]:
    """How large the segments are that a client, and the server that it connected to, may send each other."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.socket(family, socket.SOCK_STREAM) as listener, client.socket(family, socket.SOCK_STREAM) as near:
        listener.bind((address, 0))
        listener.listen()
        near.settimeout(5)
        near.connect((address, listener.getsockname()[1]))
        far, _ = listener.accept()
        with far:
            ends = (near, far)
            own, theirs = (one.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for one in ends)
            return own, theirs


def test_a_network_has_the_mtu_of_the_way_out_and_follows_it_without_a_cut(world: World) -> None:
    """Who sits behind a tunnel learns of it by downloads that hang: nobody should have to."""
    host, outside = world.internet()
    host.batch("link set eth0 mtu 1450")
    host.start()
    host.network("front", "--subnet 10.5.0.0/24")
    web = host.sandbox("web", "--network front")
    assert (mtu(web), mtu(host, host.port(web)), mtu(host, host.bridge("front"))) == (1450, 1450, 1450)
    assert host.inspect("front")["Options"] == {}
    assert MTU not in host.inspect("bridge")["Options"]
    flow = world.hold(Flow(web, outside, OUTSIDE))
    flow.more()
    host.batch("link set eth0 mtu 1400")
    until(lambda: mtu(web) == mtu(host, host.bridge("front")) == 1400, "the sandbox never heard of it")
    host.batch("link add tun0 type veth peer name far0", "link set tun0 up mtu 1300", "link set far0 up")
    host.batch("route replace default dev tun0")
    until(lambda: mtu(web) == 1300, "another default route has another MTU")
    host.batch("link delete tun0")
    until(lambda: mtu(web) == 1400, "the default route of IPv6 is left")
    host.batch(f"route add default via {OUTSIDE}")
    flow.arrives()
    assert pings(web, OUTSIDE, size=1372)
    host.restart()
    assert host.planned_nothing


def test_an_update_cuts_nobody_off(world: World) -> None:
    """What has to be made anew has to be stopped first: nothing here has."""
    host, outside = world.internet()
    host.start()
    host.network("front", "--subnet 10.5.0.0/24 --ip-range 10.5.0.0/30 --label tier=one")
    web = host.sandbox("web", "--network front")
    flow = world.hold(Flow(web, outside, OUTSIDE))
    flow.arrives()
    link = web.ip("link show dev eth0")[0]["ifindex"]
    host.isthmus(
        "network update --mtu 1400 --label tier=two --label-rm none --opt com.docker.network.bridge.enable_icc=false "
        "--ip-range 10.5.0.0/25 --aux-address printer=10.5.0.3 front"
    )
    flow.arrives()
    assert flow.lost() == 0
    assert (mtu(web), mtu(host, host.port(web))) == (1400, 1400)
    assert web.ip("link show dev eth0")[0]["ifindex"] == link
    shown = host.inspect("front")
    assert shown["Labels"] == {"tier": "two"}
    assert shown["Options"] == {MTU: "1400", "com.docker.network.bridge.enable_icc": "false"}
    assert host.sandbox("db", "--network front").address() == "10.5.0.4"
    assert "these options can be changed" in host.refused("network update --opt isthmus.bridged=true front")
    host.restart()
    assert host.planned_nothing


def test_what_opens_a_connection_says_no_more_than_a_narrow_way_bears(world: World) -> None:
    """Where the answer "too big" is dropped on the way, as on half of the internet, all that helps is not to be it."""
    host, outside = world.internet()
    host.start()
    subnets = "--ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64"
    host.network("front", f"-o {MTU}=1500 {subnets}")
    web = host.sandbox("web", "--network front")
    assert min(segments(web, outside, OUTSIDE)) >= 1500 - 40 - 12
    host.batch("link set eth0 mtu 1400")
    assert max(segments(web, outside, OUTSIDE)) <= 1400 - 40
    assert max(segments(web, outside, OUTSIDE6)) <= 1400 - 60
