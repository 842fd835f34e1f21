"""Our requests as pyroute2 reads them, and its answers as we read them."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from struct import pack
from typing import Any

import pytest
from pyroute2.netlink.nfnetlink.nftsocket import (
    nft_chain_msg,
    nft_gen_msg,
    nft_rule_msg,
    nft_set_elem_list_msg,
    nft_table_msg,
)
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from isthmus.kernel import netlink, nfnetlink

MAC = "02:00:00:00:00:01"


def read(kind: type[Any], message: bytes) -> Any:  # noqa: ANN401 (pyroute2 has no types)
    """Decode *message* with pyroute2."""
    decoded = kind(message)
    decoded.decode()
    return decoded


def written(kind: type[Any], number: int, fields: dict[str, object], attributes: list[tuple[str, object]]) -> bytes:
    """Encode a message with pyroute2."""
    message = kind()
    message["header"] = {"type": number, "flags": 0, "sequence_number": 1, "pid": 0}
    message.update(fields)
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


def test_a_veth_is_born_in_two_namespaces_by_one_message() -> None:
    """A link that is moved to its namespace later costs 20 ms; the peer's attributes must lie inside the pair's."""
    peer = netlink.veth("eth0", netns=3, index=8, mac=MAC, mtu=1400, queues=1)
    request = netlink.newlink(
        "veth", "v0", index=7, master=5, mac=MAC, mtu=1400, group=9, queues=1, netns=4, up=True, data=peer
    )
    message = read(ifinfmsg, request)
    assert (message["index"], message["flags"], message["change"]) == (7, 1, 1)
    assert message["header"]["flags"] == netlink.NLM_F_REQUEST | netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    get = message.get_attr
    assert (get("IFLA_IFNAME"), get("IFLA_ADDRESS"), get("IFLA_MTU"), get("IFLA_MASTER")) == ("v0", MAC, 1400, 5)
    assert (get("IFLA_GROUP"), get("IFLA_NET_NS_FD")) == (9, 4)
    assert (get("IFLA_NUM_TX_QUEUES"), get("IFLA_NUM_RX_QUEUES")) == (1, 1)
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    other = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert other["index"] == 8
    assert dict(other["attrs"]) == {
        "IFLA_IFNAME": "eth0",
        "IFLA_ADDRESS": MAC,
        "IFLA_MTU": 1400,
        "IFLA_NUM_TX_QUEUES": 1,
        "IFLA_NUM_RX_QUEUES": 1,
        "IFLA_NET_NS_FD": 3,
    }


def test_a_bridge_is_born_with_its_options() -> None:
    """A bridge with the kernel's defaults swallows the first fifteen seconds of traffic."""
    data = netlink.bridge(forward_delay=0, stp=False, multicast_snooping=True, nf_call=True)
    message = read(ifinfmsg, netlink.newlink("bridge", "br0", data=data))
    assert dict(message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")["attrs"]) == {
        "IFLA_BR_FORWARD_DELAY": 0,
        "IFLA_BR_STP_STATE": 0,
        "IFLA_BR_MCAST_SNOOPING": 1,
        "IFLA_BR_NF_CALL_IPTABLES": 1,
        "IFLA_BR_NF_CALL_IP6TABLES": 1,
        "IFLA_BR_NF_CALL_ARPTABLES": 1,
    }


def test_what_is_not_asked_for_is_not_in_the_message() -> None:
    """The kernel's defaults are its own: an attribute that holds zero would overrule them."""
    assert [name for name, _ in read(ifinfmsg, netlink.newlink("bridge", "b"))["attrs"]] == [
        "IFLA_IFNAME",
        "IFLA_LINKINFO",
    ]
    message = read(ifinfmsg, netlink.setlink(7))
    assert (message["attrs"], message["flags"], message["change"]) == ([], 0, 0)


def test_a_macvlan_names_its_parent_and_mode() -> None:
    """Without a mode the kernel makes a VEPA, whose members cannot talk to each other."""
    data = netlink.macvlan(netlink.MacvlanMode.BRIDGE)
    message = read(ifinfmsg, netlink.newlink("macvlan", "m", parent=3, data=data))
    assert message.get_attr("IFLA_LINK") == 3
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_MACVLAN_MODE") == "bridge"


def test_an_ipvlan_names_its_parent_mode_and_flag() -> None:
    """The kernel takes 16 bits for each, and keeps those of the parent's other ipvlans where none is sent."""
    data = netlink.ipvlan(netlink.IpvlanMode.L3S, netlink.IpvlanFlag.VEPA)
    message = read(ifinfmsg, netlink.newlink("ipvlan", "eth0", parent=3, netns=4, data=data))
    assert (message.get_attr("IFLA_LINK"), message.get_attr("IFLA_NET_NS_FD")) == (3, 4)
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "ipvlan"
    assert info.get_attr("IFLA_INFO_DATA").get_attr("IFLA_IPVLAN_MODE") == 2
    assert netlink.attributes(data, 0)[netlink.IFLA_IPVLAN_FLAGS] == pack("=H", 2)  # pyroute2 does not know it


def test_a_vlan_names_its_parent_and_number() -> None:
    """Its protocol is left to the kernel: 802.1Q."""
    message = read(ifinfmsg, netlink.newlink("vlan", "eth0.5", parent=3, data=netlink.vlan(4094)))
    assert message.get_attr("IFLA_LINK") == 3
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "vlan"
    assert dict(info.get_attr("IFLA_INFO_DATA")["attrs"]) == {"IFLA_VLAN_ID": 4094}


def test_a_link_is_changed_in_one_message() -> None:
    """Alias, port options and address generation can only be set after birth, so they share a message."""
    request = netlink.setlink(
        7,
        up=False,
        master=0,
        name="x",
        alias="mine",
        mac=MAC,
        mtu=1300,
        group=6,
        addr_gen_mode=netlink.AddrGenMode.NONE,
        announce=True,
        isolated=True,
        hairpin=False,
    )
    message = read(ifinfmsg, request)
    get = message.get_attr
    assert (message["header"]["type"], message["index"], message["flags"], message["change"]) == (16, 7, 0, 1)
    assert (get("IFLA_MASTER"), get("IFLA_IFNAME"), get("IFLA_IFALIAS"), get("IFLA_ADDRESS")) == (0, "x", "mine", MAC)
    assert (get("IFLA_MTU"), get("IFLA_GROUP")) == (1300, 6)
    assert message.get_nested("IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_ADDR_GEN_MODE") == 1
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge"
    port = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    assert dict(port["attrs"]) == {"IFLA_BRPORT_ISOLATED": 1, "IFLA_BRPORT_MODE": 0}


def test_a_port_is_shut_and_what_was_learnt_there_is_forgotten() -> None:
    """Else a bridge would send what is for the next holder of a MAC to the port of the last one."""
    message = read(ifinfmsg, netlink.setlink(7, shut=True))
    port = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    assert dict(port["attrs"]) == {"IFLA_BRPORT_STATE": 0, "IFLA_BRPORT_FLUSH": True}


@pytest.mark.parametrize("make", [netlink.setlink, netlink.dellink, netlink.getlink])
def test_a_link_is_meant_by_its_index_or_its_name(make: Any) -> None:  # noqa: ANN401 (three signatures)
    """Who retires a link knows its index, who configures one its name; one must not pass for the other."""
    by_index, by_name = read(ifinfmsg, make(7)), read(ifinfmsg, make("v0"))
    assert (by_index["index"], by_index.get_attr("IFLA_IFNAME")) == (7, None)
    assert (by_name["index"], by_name.get_attr("IFLA_IFNAME")) == (0, "v0")


def test_a_group_of_links_is_deleted_by_one_message() -> None:
    """A hundred links go in the time of two that way; the index must be zero, or one link alone goes."""
    message = read(ifinfmsg, netlink.dellink_group(77))
    assert (message["header"]["type"], message["index"], dict(message["attrs"])) == (17, 0, {"IFLA_GROUP": 77})


def test_a_dump_of_links_is_filtered_by_the_kernel() -> None:
    """A host may have thousands of links that are not on this bridge."""
    message = read(ifinfmsg, netlink.dumplinks(master=5, kind="veth"))
    assert message["header"]["flags"] == netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP
    assert message.get_attr("IFLA_MASTER") == 5
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"


def test_an_address_bears_our_mark() -> None:
    """What has no mark of ours is never deleted; an IPv6 address that waits for DAD cannot be used for a second."""
    four = read(ifaddrmsg, netlink.newaddr(7, IPv4Interface("10.0.0.2/24"), broadcast=IPv4Address("10.0.0.255")))
    assert (four["family"], four["prefixlen"], four["index"]) == (2, 24, 7)
    assert dict(four["attrs"]) == {
        "IFA_LOCAL": "10.0.0.2",
        "IFA_ADDRESS": "10.0.0.2",
        "IFA_BROADCAST": "10.0.0.255",
        "IFA_PROTO": 105,
    }
    six = read(ifaddrmsg, netlink.newaddr(7, IPv6Interface("fd00::2/64")))
    assert (six["family"], six["prefixlen"], six.get_attr("IFA_FLAGS"), six.get_attr("IFA_PROTO")) == (10, 64, 2, 105)
    gone = read(ifaddrmsg, netlink.deladdr(7, IPv6Interface("fd00::2/64")))
    assert (gone["header"]["type"], gone["prefixlen"], gone.get_attr("IFA_LOCAL")) == (21, 64, "fd00::2")
    assert read(ifaddrmsg, netlink.dumpaddrs(index=7, family=2))["index"] == 7


def test_a_route_bears_our_mark_and_has_the_scope_of_its_kind() -> None:
    """A route over a link alone has link scope in IPv4: the kernel refuses it as another one's gateway otherwise."""
    default = read(rtmsg, netlink.newroute(IPv4Network("0.0.0.0/0"), gateway=IPv4Address("10.0.0.1")))
    assert (default["family"], default["dst_len"], default["proto"], default["scope"]) == (2, 0, 105, 0)
    assert dict(default["attrs"]) == {"RTA_GATEWAY": "10.0.0.1"}
    link = read(
        rtmsg,
        netlink.newroute(IPv6Network("fd00:1::/64"), oif=7, prefsrc=IPv6Address("fd00::2"), metric=9, table=1000),
    )
    assert (link["family"], link["dst_len"], link["scope"], link["table"]) == (10, 64, 253, 0)
    assert dict(link["attrs"]) == {
        "RTA_DST": "fd00:1::",
        "RTA_OIF": 7,
        "RTA_PREFSRC": "fd00::2",
        "RTA_PRIORITY": 9,
        "RTA_TABLE": 1000,
    }


def test_a_rule_is_about_one_source_and_bears_our_mark() -> None:
    """A rule for a prefix would take in neighbours, and one without the mark could not be told from the user's."""
    rule = read(fibmsg, netlink.newrule(IPv6Address("fd00::2"), 1 << 30))
    assert (rule["family"], rule["src_len"], rule["dst_len"], rule["table"], rule["action"]) == (10, 128, 0, 0, 1)
    assert dict(rule["attrs"]) == {
        "FRA_SRC": "fd00::2",
        "FRA_PRIORITY": 10500,
        "FRA_TABLE": 1 << 30,
        "FRA_PROTOCOL": 105,
    }


def test_only_a_route_with_our_mark_is_deleted() -> None:
    """Somebody else's route to the same place stays."""
    message = read(rtmsg, netlink.delroute(IPv4Network("10.9.0.0/16"), oif=7))
    assert (message["header"]["type"], message["proto"], message["scope"]) == (25, 105, 255)


def test_routes_are_asked_for_by_what_is_known_of_them() -> None:
    """A host with a full routing table must not send all of it to find ours."""
    dump = read(rtmsg, netlink.dumproutes(family=2, protocol=105, table=254, oif=7, kind=1))
    assert (dump["family"], dump["proto"], dump["type"]) == (2, 105, 1)
    assert dict(dump["attrs"]) == {"RTA_TABLE": 254, "RTA_OIF": 7}
    ask = read(rtmsg, netlink.getroute(IPv6Address("fd00::1")))
    assert (ask["family"], ask["dst_len"], ask.get_attr("RTA_DST")) == (10, 128, "fd00::1")


def test_a_neighbour_is_fixed_for_good() -> None:
    """Overlays answer for hosts that no ARP reaches; an entry that ages would cut them off."""
    message = read(ndmsg, netlink.newneigh(7, IPv4Address("10.0.0.9"), MAC))
    assert (message["family"], message["ifindex"], message["state"]) == (2, 7, 0x80)
    assert dict(message["attrs"]) == {"NDA_DST": "10.0.0.9", "NDA_LLADDR": MAC, "NDA_PROTOCOL": 105}
    one = read(ndmsg, netlink.getneigh(7, IPv4Address("10.0.0.9")))
    assert (one["header"]["type"], one["header"]["flags"], one.get_attr("NDA_DST")) == (30, 1, "10.0.0.9")
    assert read(ndmsg, netlink.delneigh(7, IPv6Address("fd00::9"))).get_attr("NDA_DST") == "fd00::9"
    assert read(ndmsg, netlink.dumpneighs(index=7, family=2)).get_attr("NDA_IFINDEX") == 7


def test_a_forwarding_entry_is_on_a_port_or_behind_a_host() -> None:
    """The same words mean the bridge's table for a port and the tunnel's own for a remote host."""
    port = read(ndmsg, netlink.newfdb(7, MAC))
    assert (port["family"], port["flags"], dict(port["attrs"])) == (7, netlink.NTF_MASTER, {"NDA_LLADDR": MAC})
    assert port["state"] == netlink.NUD_NOARP  # a permanent one is for the bridge itself
    tunnel = read(ndmsg, netlink.newfdb(7, MAC, remote=IPv4Address("192.0.2.1")))
    ours = netlink.NTF_SELF | netlink.NTF_EXT_LEARNED
    assert (tunnel["flags"], tunnel.get_attr("NDA_DST")) == (ours, "192.0.2.1")
    gone = read(ndmsg, netlink.delfdb(7, MAC, remote=IPv4Address("192.0.2.1")))
    assert (gone["header"]["type"], gone["flags"]) == (29, netlink.NTF_SELF)
    assert read(ndmsg, netlink.delfdb(7, MAC))["flags"] == netlink.NTF_MASTER
    assert read(ndmsg, netlink.dumpfdb(index=7, master=5)).get_attr("NDA_MASTER") == 5


def test_a_namespace_is_numbered() -> None:
    """Without a number no news of it arrives."""
    assert dict(read(nsidmsg, netlink.newnsid(5, 3))["attrs"]) == {"NETNSA_FD": 5, "NETNSA_NSID": 3}
    assert dict(read(nsidmsg, netlink.getnsid(5))["attrs"]) == {"NETNSA_FD": 5}


def test_a_link_that_pyroute2_writes_is_read() -> None:
    """The answer's fields, on which the difference to what is wanted rests."""
    info = {
        "attrs": [
            ("IFLA_INFO_KIND", "veth"),
            ("IFLA_INFO_SLAVE_KIND", "bridge"),
            ("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_MODE", 1), ("IFLA_BRPORT_ISOLATED", 0)]}),
        ]
    }
    message = written(
        ifinfmsg,
        netlink.RTM_NEWLINK,
        {"index": 7, "flags": 1},
        [
            ("IFLA_IFNAME", "v0"),
            ("IFLA_MTU", 1400),
            ("IFLA_MASTER", 5),
            ("IFLA_ADDRESS", MAC),
            ("IFLA_IFALIAS", "mine"),
            ("IFLA_GROUP", 9),
            ("IFLA_LINK", 8),
            ("IFLA_LINK_NETNSID", 0),
            ("IFLA_LINKINFO", info),
        ],
    )
    link = netlink.link(message)
    assert link._replace(flags=0) == netlink.LinkMessage(
        event=netlink.RTM_NEWLINK,
        family=0,
        ifindex=7,
        name="v0",
        up=True,
        flags=0,
        kind="veth",
        master=5,
        mac=MAC,
        mtu=1400,
        alias="mine",
        group=9,
        link=8,
        link_netnsid=0,
        addr_gen_mode=None,
        announce=None,
        isolated=False,
        hairpin=True,
        macvlan_mode=None,
        ipvlan_mode=None,
        ipvlan_flag=None,
        vlan_id=None,
        forward_delay=None,
        stp=None,
        nf_call=None,
        learning=None,
        flood=None,
        vxlan=None,
    )


@pytest.mark.parametrize(
    ("kind", "data", "read_as"),
    [
        ("macvlan", [("IFLA_MACVLAN_MODE", "passthru")], {"macvlan_mode": netlink.MacvlanMode.PASSTHRU}),
        ("ipvlan", [("IFLA_IPVLAN_MODE", 1)], {"ipvlan_mode": netlink.IpvlanMode.L3}),
        ("vlan", [("IFLA_VLAN_ID", 5)], {"vlan_id": 5}),
        (
            "vxlan",
            [("IFLA_VXLAN_ID", 4100), ("IFLA_VXLAN_PORT", 4789), ("IFLA_VXLAN_LOCAL", "192.0.2.1")],
            {"vxlan": netlink.VxlanMessage(4100, 4789, IPv4Address("192.0.2.1"), learning=False, asking=False)},
        ),
    ],
)
def test_what_stands_on_a_link_is_read(kind: str, data: list[tuple[str, object]], read_as: dict[str, object]) -> None:
    """A mode that is read wrongly is made anew for ever."""
    info = {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": data})]}
    link = netlink.link(
        written(ifinfmsg, netlink.RTM_NEWLINK, {"index": 7}, [("IFLA_LINK", 3), ("IFLA_LINKINFO", info)])
    )
    fields = ("macvlan_mode", "ipvlan_mode", "ipvlan_flag", "vlan_id", "vxlan")
    assert (link.kind, link.link) == (kind, 3)
    assert {name: getattr(link, name) for name in fields} == {**dict.fromkeys(fields), **read_as}


def test_an_address_that_pyroute2_writes_is_read() -> None:
    """IFA_LOCAL is the address; on a link to one peer IFA_ADDRESS is the peer's."""
    message = written(
        ifaddrmsg,
        netlink.RTM_DELADDR,
        {"family": 2, "prefixlen": 24, "index": 7, "flags": 0x80},
        [("IFA_ADDRESS", "10.0.0.1"), ("IFA_LOCAL", "10.0.0.2"), ("IFA_BROADCAST", "10.0.0.255"), ("IFA_PROTO", 105)],
    )
    assert netlink.address(message) == netlink.AddressMessage(
        netlink.RTM_DELADDR, 7, IPv4Interface("10.0.0.2/24"), 0x80, 105, IPv4Address("10.0.0.255")
    )


def test_a_route_that_pyroute2_writes_is_read() -> None:
    """RTA_TABLE overrules the short field, which cannot hold a table above 255."""
    message = written(
        rtmsg,
        netlink.RTM_NEWROUTE,
        {"family": 10, "dst_len": 64, "proto": 105, "table": 252, "type": 1, "scope": 0},
        [("RTA_DST", "fd00:1::"), ("RTA_GATEWAY", "fd00::1"), ("RTA_OIF", 7), ("RTA_TABLE", 1000), ("RTA_PRIORITY", 9)],
    )
    assert netlink.route(message) == netlink.RouteMessage(
        netlink.RTM_NEWROUTE, IPv6Network("fd00:1::/64"), IPv6Address("fd00::1"), 7, 105, 1000, 1, 0, 9, None
    )


def test_a_neighbour_that_pyroute2_writes_is_read() -> None:
    """A forwarding entry of a bridge has no address and a master."""
    message = written(
        ndmsg,
        netlink.RTM_NEWNEIGH,
        {"family": 7, "ifindex": 7, "state": 0x80, "flags": 4},
        [("NDA_LLADDR", MAC), ("NDA_MASTER", 5), ("NDA_CACHEINFO", {"ndm_used": 150, "ndm_updated": 7})],
    )
    assert netlink.neighbour(message) == netlink.NeighbourMessage(28, 7, 7, 0x80, 4, None, MAC, 5, 0, 1.5)


@pytest.mark.parametrize("decode", [netlink.link, netlink.address, netlink.route, netlink.neighbour])
def test_a_message_of_another_kind_is_refused(decode: Any) -> None:  # noqa: ANN401 (four results)
    """To read an acknowledgement as a link would invent one."""
    with pytest.raises(netlink.DecodeError, match="message type 2 is no"):
        decode(pack("=IHHII", 40, netlink.NLMSG_ERROR, 0, 1, 0) + bytes(24))


def test_elements_of_sets_and_maps_are_written() -> None:
    """One port, one element: what a published port comes to."""
    key = nfnetlink.concat(nfnetlink.inet_proto(6), nfnetlink.inet_service(80))
    target = nfnetlink.concat(IPv4Address("10.0.0.2").packed, nfnetlink.inet_service(8080))
    (request,) = nfnetlink.newelements(
        "isthmus",
        "ports",
        [
            nfnetlink.Element(key, target, timeout=5000),
            nfnetlink.Element(nfnetlink.ifname("br0"), nfnetlink.Verdict(nfnetlink.NFT_JUMP, "front")),
            nfnetlink.Element(b"k", nfnetlink.DROP),
            nfnetlink.Element(b"s"),
        ],
    )
    message = read(nft_set_elem_list_msg, request)
    assert (message["nfgen_family"], message["header"]["flags"]) == (1, netlink.NLM_F_REQUEST | netlink.NLM_F_CREATE)
    assert message.get_attr("NFTA_SET_ELEM_LIST_TABLE") == "isthmus"
    assert message.get_attr("NFTA_SET_ELEM_LIST_SET") == "ports"
    port, jump, drop, single = message.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS")
    assert port.get_nested("NFTA_SET_ELEM_KEY", "NFTA_DATA_VALUE") == b"\x06\0\0\0\x00\x50\0\0"
    assert port.get_nested("NFTA_SET_ELEM_DATA", "NFTA_DATA_VALUE") == b"\x0a\0\0\x02\x1f\x90\0\0"
    assert port.get_attr("NFTA_SET_ELEM_TIMEOUT") == 5000
    assert jump.get_nested("NFTA_SET_ELEM_KEY", "NFTA_DATA_VALUE") == b"br0" + bytes(13)
    verdict = jump.get_nested("NFTA_SET_ELEM_DATA", "NFTA_DATA_VERDICT")
    assert dict(verdict["attrs"]) == {"NFTA_VERDICT_CODE": "NFT_JUMP", "NFTA_VERDICT_CHAIN": "front"}
    assert drop.get_nested("NFTA_SET_ELEM_DATA", "NFTA_DATA_VERDICT", "NFTA_VERDICT_CODE") == "NF_DROP"
    assert [name for name, _ in single["attrs"]] == ["NFTA_SET_ELEM_KEY"]


def test_elements_are_removed_by_key() -> None:
    """Whatever it maps to now: the key alone tells which one goes."""
    (request,) = nfnetlink.delelements("isthmus", "ports", [b"abcd"], family=nfnetlink.NFPROTO_IPV4)
    message = read(nft_set_elem_list_msg, request)
    assert (message["header"]["type"], message["nfgen_family"]) == (10 << 8 | nfnetlink.NFT_MSG_DELSETELEM, 2)
    (element,) = message.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS")
    assert [name for name, _ in element["attrs"]] == ["NFTA_SET_ELEM_KEY"]


def test_a_whole_set_or_table_is_named_in_a_request() -> None:
    """A request without a name would be about all of them."""
    everything = read(nft_set_elem_list_msg, nfnetlink.clear("isthmus", "ports"))
    assert [name for name, _ in everything["attrs"]] == ["NFTA_SET_ELEM_LIST_TABLE", "NFTA_SET_ELEM_LIST_SET"]
    dump = read(nft_set_elem_list_msg, nfnetlink.getelements("isthmus", "ports"))
    assert dump.get_attr("NFTA_SET_ELEM_LIST_SET") == "ports"
    assert read(nft_table_msg, nfnetlink.deltable("isthmus")).get_attr("NFTA_TABLE_NAME") == "isthmus"
    rules = read(nft_rule_msg, nfnetlink.getrules(table="isthmus", chain="front"))
    assert (rules.get_attr("NFTA_RULE_TABLE"), rules.get_attr("NFTA_RULE_CHAIN")) == ("isthmus", "front")
    assert read(nft_gen_msg, nfnetlink.getgeneration())["header"]["type"] == 10 << 8 | nfnetlink.NFT_MSG_GETGEN
    assert read(nft_chain_msg, nfnetlink.getchains(family=1))["nfgen_family"] == 1
    assert read(nft_table_msg, nfnetlink.gettables(family=1))["nfgen_family"] == 1


def test_more_elements_than_an_attribute_holds_become_more_messages() -> None:
    """The length of an attribute has 16 bits: beyond, it would wrap and elements would be lost in silence."""
    keys = [number.to_bytes(4, "big") for number in range(10_000)]
    requests = nfnetlink.newelements("t", "s", map(nfnetlink.Element, keys))
    assert len(requests) > 1
    assert all(len(request) < 1 << 16 for request in requests)
    assert [element.key for request in requests for element in nfnetlink.elements(request)] == keys


def test_a_name_too_long_for_a_link_is_no_key() -> None:
    """It would match another link, whose name is its beginning."""
    with pytest.raises(ValueError, match="longer than 15 bytes"):
        nfnetlink.ifname("x" * 16)


def test_a_key_is_split_into_what_it_was_joined_from() -> None:
    """A dump shows the joined key; people want to see the fields."""
    fields = (nfnetlink.inet_proto(6), nfnetlink.inet_service(80), IPv4Address("10.0.0.2").packed)
    assert nfnetlink.split(nfnetlink.concat(*fields), (1, 2, 4)) == fields
    with pytest.raises(netlink.DecodeError):
        nfnetlink.split(b"abcd", (4, 4))
