"""The daemon's configuration: dockerd's keys and flags mean here what they mean there, and nonsense is told as such."""

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, ip_address, ip_interface, ip_network
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isthmus.addresses import DEFAULT_POOLS, Pool, SubnetRequest, parse_ipam
from isthmus.config import (
    CONFIG_FILE,
    IGNORED,
    KEYS,
    REFUSED,
    ConfigFile,
    FwMark,
    Kind,
    LogLevel,
    Settings,
    config_file,
    default_network,
    parse,
    usage,
)
from isthmus.errors import InvalidOption, InvalidRequest
from isthmus.rules import DefaultBridge

DOCUMENT = Path(__file__).parents[2] / "docs" / "daemon.md"


def from_file(**keys: object) -> Settings:
    """The settings of a file with these *keys*, `_` standing for `-`."""
    return parse([], json.dumps({name.replace("_", "-"): value for name, value in keys.items()}))


def bridge(settings: Settings) -> DefaultBridge:
    """The default network, which is there."""
    network = default_network(settings)
    assert network is not None
    return network


def test_without_file_and_flags_everything_is_as_in_dockerd() -> None:
    """People rely on dockerd's defaults without knowing them."""
    settings = parse([], None)
    assert settings.hosts == ("unix:///run/isthmus/isthmus.sock",)
    assert (settings.data_root, settings.exec_root) == (
        PurePosixPath("/var/lib/isthmus"),
        PurePosixPath("/run/isthmus"),
    )
    assert settings.pidfile == PurePosixPath("/run/isthmus/isthmus.pid")
    assert settings.default_address_pools == DEFAULT_POOLS
    assert settings.denied_address_pools == ()
    assert settings.address_lease == 24 * 3600 * 10**9
    assert settings.icc
    assert settings.ip_masq
    assert settings.ip_forward
    assert not settings.ipv6
    assert settings.mtu is None
    assert settings.warnings == ()
    assert bridge(settings) == DefaultBridge(
        options=(
            ("com.docker.network.bridge.default_bridge", "true"),
            ("com.docker.network.bridge.enable_icc", "true"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
            ("com.docker.network.bridge.name", "isthmus0"),
        )
    )


def test_an_empty_file_is_no_file() -> None:
    """`{}` is what people begin with; null and "" are how they unset a key."""
    assert parse([], "{}") == parse([], None) == from_file(bip="", mtu=None, dns=None)


def test_the_bridge_takes_the_very_address_of_bip() -> None:
    """The address names a host, not a subnet: the bridge need not be the first."""
    settings = from_file(bip="192.168.0.11/24")
    assert settings.bip == IPv4Interface("192.168.0.11/24")
    assert bridge(settings).subnets == (SubnetRequest("192.168.0.0/24", gateway="192.168.0.11"),)


def test_fixed_cidr_and_default_gateway_lie_inside_the_subnet_of_bip() -> None:
    """Allocation is limited to the one, and the other is kept out of it under Docker's name."""
    settings = from_file(bip="192.168.0.11/24", fixed_cidr="192.168.0.128/25", default_gateway="192.168.0.254")
    assert bridge(settings).subnets == (
        SubnetRequest("192.168.0.0/24", "192.168.0.128/25", "192.168.0.11", (("DefaultGatewayIPv4", "192.168.0.254"),)),
    )


def test_a_default_gateway_that_is_the_bridge_is_said_once() -> None:
    """An address cannot have two roles in a subnet."""
    assert bridge(from_file(bip="10.1.0.1/24", default_gateway="10.1.0.1")).subnets[0].aux == ()


def test_fixed_cidr_alone_is_the_subnet() -> None:
    """So does Docker it; host bits do not matter."""
    assert bridge(from_file(fixed_cidr="10.9.1.7/24")).subnets == (SubnetRequest("10.9.1.0/24", "10.9.1.0/24"),)


def test_ipv6_has_keys_of_its_own_and_they_count_only_with_ipv6() -> None:
    """Docker passes over `fixed-cidr-v6` without `ipv6`."""
    keys = {"bip6": "fd00:1::1/64", "fixed-cidr-v6": "fd00:1::/80", "default-gateway-v6": "fd00:1::ffff"}
    on = bridge(parse([], json.dumps({**keys, "ipv6": True})))
    assert on.ipv6
    assert on.subnets == (
        SubnetRequest("fd00:1::/64", "fd00:1::/80", "fd00:1::1", (("DefaultGatewayIPv6", "fd00:1::ffff"),)),
    )
    assert bridge(parse([], json.dumps(keys))).subnets == ()
    assert bridge(from_file(ipv6=True)) == DefaultBridge(bridge(from_file()).options, ipv6=True)


def test_bridge_none_means_no_default_network() -> None:
    """Some want every sandbox on a network of their choice."""
    assert default_network(from_file(bridge="none")) is None


def test_the_addresses_of_a_bridge_of_the_users_own_decide_its_subnets() -> None:
    """We change no bridge that is not ours, so it is its address which rules."""
    settings = from_file(bridge="br0", fixed_cidr="10.2.0.128/25", ipv6=True)
    addresses = [ip_interface(text) for text in ("fe80::1/64", "10.1.0.1/24", "10.2.0.1/24", "fd00::1/64")]
    network = default_network(settings, addresses)
    assert network is not None
    assert ("com.docker.network.bridge.name", "br0") in network.options
    assert network.subnets == (
        SubnetRequest("10.2.0.0/24", "10.2.0.128/25", "10.2.0.1"),
        SubnetRequest("fd00::/64", gateway="fd00::1"),
    )
    with pytest.raises(InvalidOption, match="failed to parse bridge value: br0"):
        default_network(settings, [])


def test_flags_mean_what_the_keys_of_the_file_mean() -> None:
    """Every spelling that dockerd's flags allow is in somebody's unit file."""
    flags = [
        *("-H", "unix:///x.sock", "--host=unix:///y.sock", "-Hunix:///z.sock", "-Dl=warn", "--bip", "10.0.0.1/8"),
        *("--icc=false", "--ipv6", "--mtu=1400", "--default-address-pool", "base=10.200.0.0/16,size=24"),
        *("--default-network-opt=bridge=com.docker.network.driver.mtu=1300", "--dns=9.9.9.9", "--dns", "1.1.1.1"),
        *("--label", "a=b=c", "--dns-opt=ndots:1", "--host-gateway-ip=10.0.0.1"),
        *("--denied-address-pool=10.0.0.0/8", "--denied-address-pool", "fd00:5::/64", "--address-lease=1h30m"),
        *("--cluster-store=etcd://192.0.2.1", "--cluster-advertise=eth0", "--encryption-rekey=24h"),
    ]
    keys = {
        "hosts": ["unix:///x.sock", "unix:///y.sock", "unix:///z.sock"],
        "debug": True,
        "log-level": "warn",
        "bip": "10.0.0.1/8",
        "icc": False,
        "ipv6": True,
        "mtu": 1400,
        "default-address-pools": [{"base": "10.200.0.0/16", "size": 24}],
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1300"}},
        "dns": ["9.9.9.9", "1.1.1.1"],
        "labels": ["a=b=c"],
        "dns-opts": ["ndots:1"],
        "host-gateway-ips": ["10.0.0.1"],
        "denied-address-pools": ["10.0.0.0/8", "fd00:5::/64"],
        "address-lease": "1h30m",
        "cluster-store": "etcd://192.0.2.1",
        "cluster-advertise": "eth0",
        "encryption-rekey": "24h",
    }
    settings = parse(flags, None)
    assert settings == parse([], json.dumps(keys))
    assert settings.log_level is LogLevel.DEBUG
    assert settings.default_address_pools == (Pool(IPv4Network("10.200.0.0/16"), 24),)
    assert settings.denied_address_pools == (ip_network("10.0.0.0/8"), ip_network("fd00:5::/64"))
    assert settings.address_lease == 5400 * 10**9
    assert settings.encryption_rekey == 86400 * 10**9
    assert settings.default_network_opts == (("bridge", (("com.docker.network.driver.mtu", "1300"),)),)
    assert settings.dns == (ip_address("9.9.9.9"), ip_address("1.1.1.1"))
    assert settings.labels == (("a", "b=c"),)


def test_flags_and_file_complete_each_other() -> None:
    """One key here and another there is how packages ship a unit file."""
    settings = parse(["--ip=127.0.0.1"], '{"mtu": 1400}')
    assert (settings.ip, settings.mtu) == (IPv4Address("127.0.0.1"), 1400)


def test_who_may_call_the_ports_of_the_default_network() -> None:
    """It is an option of that network, as any other network has it."""
    made = bridge(from_file(publish="from 192.0.2.0/24"))
    assert dict(made.options)["isthmus.publish"] == "from 192.0.2.0/24"
    made = bridge(from_file(egress="deny, allow :443"))
    assert dict(made.options)["isthmus.egress"] == "deny, allow :443"


def test_a_key_in_both_places_is_a_conflict() -> None:
    """Docker's words, which people search for; the name is the file's."""
    with pytest.raises(InvalidRequest) as error:
        parse(["--bip=10.0.0.1/8", "-H", "unix:///x"], '{"bip": "10.1.0.1/16", "hosts": []}')
    assert str(error.value) == (
        "the following directives are specified both as a flag and in the configuration file: "
        'bip: (from flag: 10.0.0.1/8, from file: 10.1.0.1/16), hosts: (from flag: ["unix:///x"], from file: [])'
    )


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    """A slip of the pen must not leave a daemon on defaults that nobody wanted."""
    message = "the following directives don't match any configuration option: fixed-cdir, zzz"
    with pytest.raises(InvalidRequest, match=rf"^{message} .*did you mean fixed-cidr\?"):
        from_file(fixed_cdir="10.0.0.0/8", zzz=1)
    with pytest.raises(InvalidRequest, match=r"^unknown flag: --fixed-cdir .*did you mean fixed-cidr"):
        parse(["--fixed-cdir=10.0.0.0/8"], None)


def test_what_does_not_concern_networks_is_passed_over_with_one_warning() -> None:
    """The daemon.json of a machine that had Docker shall do."""
    settings = from_file(storage_driver="overlay2", log_opts={"max-size": "10m"}, runtimes={}, mtu=1400)
    assert settings.mtu == 1400
    assert settings.warnings == (
        (
            "the following directives of dockerd do not concern networks and have no effect: "
            "log-opts, runtimes, storage-driver"
        ),
    )


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_passed_over_without_harm_is_refused(name: str) -> None:
    """Whoever asks for guards or for a cluster must not believe to have got them."""
    with pytest.raises(InvalidOption, match=name):
        parse([], json.dumps({name: ["x"]}))
    assert parse([], json.dumps({name: []})) == parse([], None)


def test_host_gateway_ip_is_the_old_name_of_host_gateway_ips() -> None:
    """Docker renamed it; files with the old name are in use."""
    assert from_file(host_gateway_ip="10.0.0.1") == from_file(host_gateway_ips=["10.0.0.1"])
    with pytest.raises(InvalidRequest, match="leave one of them out"):
        from_file(host_gateway_ip="10.0.0.1", host_gateway_ips=["10.0.0.1"])


def test_no_rules_means_no_masquerade() -> None:
    """Docker's inspect shows it so, too."""
    settings = from_file(iptables=False)
    assert ("com.docker.network.bridge.enable_ip_masquerade", "false") in bridge(settings).options


def test_socket_and_pidfile_follow_the_exec_root() -> None:
    """Several daemons on one machine need one flag each to keep apart."""
    settings = parse(["--exec-root", "/tmp/two"], None)
    assert settings.hosts == ("unix:///tmp/two/isthmus.sock",)
    assert settings.pidfile == PurePosixPath("/tmp/two/isthmus.pid")


def test_the_file_that_must_be_there_is_the_one_that_was_named() -> None:
    """The default one may lack; a named one that lacks is a mistake."""
    assert config_file(["-D"]) == ConfigFile(CONFIG_FILE, required=False)
    assert config_file(["-D", "--config-file", "/x.json"]) == ConfigFile("/x.json", required=True)


def test_marks_are_read_as_dockerd_reads_them() -> None:
    """With and without a mask, decimal and hexadecimal."""
    assert from_file(bridge_accept_fwmark="0x10/0xf0").bridge_accept_fwmark == FwMark(0x10, 0xF0)
    assert from_file(bridge_accept_fwmark="7").bridge_accept_fwmark == FwMark(7)


BAD = [
    ("bip", "192.168.0.0/24"),
    ("bip", "192.168.0.255/24"),
    ("bip", "192.168.0.1"),
    ("bip", "fd00::1/64"),
    ("bip", "0.0.0.1/0"),
    ("bip", "224.0.0.1/24"),
    ("bip", 7),
    ("bip6", "10.0.0.1/8"),
    ("fixed-cidr", "10.0.0.0/99"),
    ("default-gateway", "10.0.0.1"),
    ("default-gateway", "fd00::1"),
    ("mtu", 67),
    ("mtu", 65536),
    ("mtu", "1500"),
    ("mtu", True),
    ("mtu", 1500.5),
    ("ip", "::1"),
    ("publish", "everybody"),
    ("egress", "forbid"),
    ("egress", "deny, allow www.example.org"),
    ("publish", "from 10.0.0.1/8"),
    ("icc", "false"),
    ("icc", 0),
    ("bridge", "a/b"),
    ("bridge", "isthmus0"),
    ("bridge", "sixteen-letters0"),
    ("firewall-backend", "iptables"),
    ("bridge-accept-fwmark", "0x1ffffffff"),
    ("bridge-accept-fwmark", "1/2/3"),
    ("default-address-pools", [{"base": "10.0.0.0/16", "size": 8}]),
    ("default-address-pools", [{"base": "10.0.0.0/16"}]),
    ("default-address-pools", "10.0.0.0/16"),
    ("denied-address-pools", "10.0.0.0/8"),
    ("denied-address-pools", ["10.0.0.1/8"]),
    ("denied-address-pools", ["10.0.0.1"]),
    ("denied-address-pools", ["ten"]),
    ("address-lease", "soon"),
    ("address-lease", "-1h"),
    ("address-lease", "24"),
    ("address-lease", "100000h"),
    ("address-lease", 7),
    ("encryption-rekey", "daily"),
    ("encryption-rekey", 24),
    ("default-network-opts", {"bridge": {"mtu": 1400}}),
    ("default-network-opts", ["bridge"]),
    ("dns", ["dns.example"]),
    ("dns", "1.1.1.1"),
    ("dns-search", ["a..b"]),
    ("dns-opts", [""]),
    ("dns-stub", "127.0.0.153:0"),
    ("dns-stub", "127.0.0.153:65536"),
    ("dns-stub", "127.0.0.999"),
    ("dns-stub", "localhost:53"),
    ("hosts", ["tcp://0.0.0.0:2375"]),
    ("hosts", ["unix://relative"]),
    ("hosts", ["unix:///" + "x" * 107]),
    ("host-gateway-ips", ["10.0.0.1", "10.0.0.2"]),
    ("labels", ["x"]),
    ("log-level", "loud"),
    ("data-root", "var"),
    ("data-root", "/a\x00b"),
    ("group", ["docker"]),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_told_with_its_key(name: str, value: object) -> None:
    """Whoever reads the message shall know which line to change, and to what."""
    with pytest.raises(InvalidOption, match=rf"^failed to parse {name} value: .* \(.+\)$"):
        parse([], json.dumps({name: value}))


def test_all_bad_values_are_told_at_once() -> None:
    """Nobody wants to start a daemon once for each mistake."""
    with pytest.raises(InvalidRequest) as error:
        from_file(bip="x", mtu=1, dns=["y", "z"])
    assert [line.split(" ")[3] for line in str(error.value).splitlines()] == ["bip", "mtu", "dns", "dns"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encryption-rekey": "24h"}, "encryption-rekey needs cluster-store"),
        ({"bridge": "br0", "bip": "10.0.0.1/8"}, "You specified -b & --bip, mutually exclusive options"),
        ({"iptables": False, "icc": False}, "You specified --iptables=false with --icc=false"),
        ({"bip": "10.1.0.1/16", "fixed-cidr": "10.2.0.0/24"}, "must lie inside 10.1.0.0/16"),
        ({"bip": "10.1.0.1/24", "fixed-cidr": "10.1.0.0/16"}, "must lie inside 10.1.0.0/24"),
        ({"bip": "10.1.0.1/24", "default-gateway": "10.2.0.1"}, "must lie inside 10.1.0.0/24"),
        ({"ipv6": True, "fixed-cidr-v6": "fe80::/48"}, "fixed-cidr-v6"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, object], message: str) -> None:
    """A daemon that starts with half of what was asked for is worse than one that does not start."""
    with pytest.raises(InvalidRequest, match=message):
        parse([], json.dumps(keys))


@pytest.mark.parametrize(
    "argv",
    [
        ["--mtu=x"],
        ["--mtu"],
        ["--icc=maybe"],
        ["word"],
        ["--"],
        ["-"],
        ["-x"],
        ["-DX"],
        ["--default-address-pool=x"],
        ["--default-address-pool=base=10.0.0.0/8,size=999999"],
        ["--default-network-opt=bridge"],
        ["--live-restore", "true"],
    ],
)
def test_flags_that_make_no_sense_are_refused(argv: list[str]) -> None:
    """A daemon must not start on a command line that it has not understood."""
    with pytest.raises(InvalidRequest):
        parse(argv, None)


KNOWN = [key.name for key in KEYS]
PLAUSIBLE = ["10.0.0.1/8", "10.0.0.0/24", "fd00::1/64", "::", "true", "unix:///a", "none"]
TEXTS = st.text() | st.sampled_from(PLAUSIBLE)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
FILES = st.dictionaries(
    st.sampled_from([*KNOWN, *IGNORED, *REFUSED, "host-gateway-ip"]) | st.text(), VALUES, max_size=4
)


@given(FILES)
def test_hostile_json_is_refused_or_understood(keys: dict[str, object]) -> None:
    """Whatever a file holds, its reader gets a message and never a traceback."""
    try:
        parse([], json.dumps(keys))
    except InvalidRequest as error:
        str(error).encode()


def test_no_depth_of_nesting_is_too_much() -> None:
    """Just below the depth that JSON's reader refuses, showing the value in a message is what could fail."""
    for depth in range(900, 1000, 3):
        for name in ("bip", "mtu", "dns", "default-address-pools", "default-network-opts", "icc", "unknown"):
            with pytest.raises(InvalidRequest):
                parse([], f'{{"{name}": {"[" * depth}1{"]" * depth}}}')


@given(st.text())
@example('{"bip": "\\ud800"}')
@example('{"\\ud800": 1}')
@example("[" * 100_000)
@example('{"dns": ' * 100_000)
@example('{"mtu": ' + "9" * 5000 + "}")
@example('{"mtu": 1e999}')
@example('{"mtu": NaN}')
@example('{"default-address-pools": [{"base": "10.0.0.0/8", "size": ' + "9" * 4000 + "}]}")
@example('{"dns-search": ["' + "a" * 250 + '!"]}')
@example("\ufeff{}")
@example("[]")
@example("")
def test_hostile_text_is_refused_or_understood(text: str) -> None:
    """So it is for what is no JSON at all."""
    try:
        parse([], text)
    except InvalidRequest as error:
        str(error).encode()


FLAGS = st.sampled_from([f"--{key.long}" for key in KEYS] + ["-H", "-D", "-l", "--config-file"])


@given(st.lists(st.one_of(FLAGS, TEXTS, st.builds("{}={}".format, FLAGS, TEXTS)), max_size=4))
def test_hostile_flags_are_refused_or_understood(argv: list[str]) -> None:
    """And for any command line."""
    try:
        parse(argv, None)
    except InvalidRequest as error:
        str(error).encode(errors="surrogateescape")


PREFIXES = st.integers(0, 32)
ADDRESSES = st.integers(0, 2**32 - 1) | st.integers(0x0A000000, 0x0A00000F)


@given(
    st.none() | st.builds(lambda a, p: IPv4Interface((a, p)), ADDRESSES, PREFIXES),
    st.none() | st.builds(lambda a, p: IPv4Interface((a, p)), ADDRESSES, PREFIXES),
    st.none() | st.builds(IPv4Address, ADDRESSES),
    st.none() | st.builds(lambda a, p: IPv6Interface((a, p)), st.integers(0, 2**128 - 1), st.integers(0, 128)),
)
def test_a_default_network_that_is_accepted_is_a_network(
    bip: IPv4Interface | None, fixed: IPv4Interface | None, gateway: IPv4Address | None, bip6: IPv6Interface | None
) -> None:
    """What the configuration lets through, the engine need not check again."""
    given_keys = {"bip": bip, "fixed-cidr": fixed, "default-gateway": gateway, "bip6": bip6}
    keys = {name: str(value) for name, value in given_keys.items() if value is not None}
    try:
        settings = parse([], json.dumps({**keys, "ipv6": True}))
    except InvalidRequest:
        return
    for subnet in parse_ipam(bridge(settings).subnets, ipv4=True, ipv6=True):
        assert subnet.version in {4, 6}


def test_every_key_and_flag_is_documented() -> None:
    """docs/daemon.md is the reference; what is not in it is not there for users."""
    text = DOCUMENT.read_text()
    for name in (*KNOWN, *(f"--{key.long}" for key in KEYS), *IGNORED, *REFUSED, "--config-file", "host-gateway-ip"):
        assert f"`{name}`" in text, name
    for key in KEYS:
        assert not key.short or f"`-{key.short}`" in text, key.short


def test_usage_names_every_flag() -> None:
    """It is what `isthmus daemon --help` shows."""
    text = usage()
    assert all(f"--{key.long}" in text for key in KEYS)
    assert max(map(len, text.splitlines())) <= 140
    assert {key.kind for key in KEYS} == set(Kind)
