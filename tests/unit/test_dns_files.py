"""The files that programs in a sandbox read, as Docker writes them, and what becomes of them as time goes on."""

from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from msgspec.structs import replace

from isthmus.dns import files
from isthmus.dns.lookup import Directory
from isthmus.errors import IsthmusError
from isthmus.model import HOST, UNSAID, Dns, Record
from isthmus.names import Written
from tests.worlds import endpoint, network, sandbox

HOST_FILE = """\
# what a host has
nameserver 127.0.0.53
nameserver 192.0.2.53
nameserver 2001:db8::53
nameserver nonsense
search corp.example lab.example
options edns0 trust-ad
sortlist 192.0.2.0
"""
OURS = "127.0.0.11"


def lines(text: str) -> list[str]:
    """What counts: all lines but the header."""
    assert text.startswith(files.HEADER + "\n")
    return text.removeprefix(files.HEADER + "\n").splitlines()


def test_resolv_conf_names_our_resolver_and_tells_whom_that_asks() -> None:
    """The host's domains and options hold; the comments are Docker's, which programs look for."""
    assert lines(files.resolv_conf(HOST_FILE, UNSAID, OURS, ipv6=False)) == [
        "nameserver 127.0.0.11",
        "search corp.example lab.example",
        "options edns0 trust-ad ndots:0",
        "sortlist 192.0.2.0",
        "",
        "# Based on host file: '/etc/resolv.conf' (internal resolver)",
        "# ExtServers: [host(127.0.0.53) host(192.0.2.53) host(2001:db8::53)]",
        "# Overrides: []",
        "# Option ndots from: internal",
    ]


def test_what_a_user_says_stands_instead_of_the_host_s() -> None:
    """Each of the three for itself."""
    dns = Dns((ip_address("192.0.2.1"),), ("ndots:2",), ("a.example",))
    assert lines(files.resolv_conf(HOST_FILE, dns, OURS, ipv6=False)) == [
        "nameserver 127.0.0.11",
        "search a.example",
        "options ndots:2",
        "sortlist 192.0.2.0",
        "",
        "# Based on host file: '/etc/resolv.conf' (internal resolver)",
        "# ExtServers: [192.0.2.1]",
        "# Overrides: [nameservers search options]",
        "# Option ndots from: override",
    ]


def test_a_dot_means_no_domain() -> None:
    """Docker says it so."""
    text = files.resolv_conf(HOST_FILE, Dns(search=(".",)), OURS, ipv6=False)
    assert "search" not in text.replace("[search]", "")


def test_ndots_of_nonsense_is_left_out() -> None:
    """Else our own would not count."""
    text = files.resolv_conf("options ndots:x edns0\n", UNSAID, OURS, ipv6=False)
    assert "options edns0 ndots:0" in text


def test_without_a_resolver_the_host_s_servers_are_those_that_can_be_reached() -> None:
    """A loopback is another one inside, and without IPv6 there is nobody to ask by it."""
    assert lines(files.resolv_conf(HOST_FILE, UNSAID, "", ipv6=False))[0:2] == [
        "nameserver 192.0.2.53",
        "search corp.example lab.example",
    ]
    assert lines(files.resolv_conf(HOST_FILE, UNSAID, "", ipv6=True))[1] == "nameserver 2001:db8::53"


def test_where_there_is_nobody_to_ask_there_are_docker_s() -> None:
    """And that is told."""
    text = files.resolv_conf("nameserver 127.0.0.53\n", UNSAID, "", ipv6=False)
    assert lines(text)[:2] == ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]
    assert "# Used default nameservers." in text
    assert "# NO EXTERNAL NAMESERVERS DEFINED" in files.resolv_conf("", UNSAID, OURS, ipv6=False)


def test_hosts_has_first_the_loopback_and_last_the_sandbox_itself() -> None:
    """Between them what the user added, and whom the sandbox is linked to."""
    text = files.hosts(
        {"far": [ip_address("192.0.2.1"), ip_address("2001:db8::1")]},
        [(ip_address("172.17.0.3"), ("store", "db"))],
        [ip_address("172.17.0.2"), ip_address("fd00::2")],
        "www",
        "corp.example",
    )
    assert text.splitlines() == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::\tip6-localnet",
        "ff00::\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
        "192.0.2.1\tfar",
        "2001:db8::1\tfar",
        "172.17.0.3\tstore db",
        "172.17.0.2\twww.corp.example www",
        "fd00::2\twww.corp.example www",
    ]


# Files that are kept.

FRONT, BACK, WEB = network("front"), network("back", number=2), replace(sandbox("web"), hostname="www")
WEB_FRONT = endpoint(FRONT, WEB, "10.1.0.2/24")


class Kept:
    """A directory of names, and the files below *root* that are made of it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "sandboxes"
        self.host_file = root / "resolv.conf"
        self.host_file.write_text(HOST_FILE)
        self.directory = Directory()
        self.written = Written(self.directory, self.root, self.host_file)
        self.learn(FRONT, BACK, WEB, WEB_FRONT)

    def learn(self, *records: Record) -> None:
        """Have the files follow what was recorded."""
        for netns in self.directory.learn(records):
            self.written.renew(netns)

    def text(self, name: str) -> str:
        """What is in a file of the sandbox's."""
        return (self.root / "web" / name).read_text()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A sandbox `web` on one network, whose files somebody has asked for."""
    made = Kept(tmp_path)
    made.written.files("web")
    return made


def test_files_are_written_for_who_asks_for_them(tmp_path: Path) -> None:
    """Most sandboxes never need any; making one does not wait for three files."""
    made = Kept(tmp_path)
    assert not made.root.exists()
    files = made.written.files("web")
    assert files.hostname == str(made.root / "web" / "hostname")
    assert made.text("hostname") == "www\n"
    assert "10.1.0.2\twww\n" in made.text("hosts")
    assert "nameserver 127.0.0.11\n" in made.text("resolv.conf")


def test_the_host_s_own_files_are_not_replaced(kept: Kept) -> None:
    """A sandbox in the host's namespace sees what the host sees."""
    assert kept.written.files(HOST).hosts == ""


def test_files_follow_the_networks(kept: Kept) -> None:
    """In place: they may be mounted in some container."""
    before = (kept.root / "web" / "hosts").stat().st_ino
    kept.learn(endpoint(BACK, WEB, "10.2.0.2/24", number=201))
    assert "10.1.0.2\twww\n" in kept.text("hosts")
    assert "10.2.0.2\twww\n" in kept.text("hosts")
    assert (kept.root / "web" / "hosts").stat().st_ino == before


def test_what_a_user_adds_to_hosts_stays(kept: Kept) -> None:
    """Installers append lines there."""
    path = kept.root / "web" / "hosts"
    path.write_text(kept.text("hosts") + "192.0.2.7\tadded\n")
    kept.learn(replace(WEB_FRONT, addresses=(ip_interface("10.1.0.9/24"),)))
    assert "192.0.2.7\tadded\n" in kept.text("hosts")
    assert "10.1.0.9\twww\n" in kept.text("hosts")
    assert "10.1.0.2" not in kept.text("hosts")


def test_an_edited_resolv_conf_is_left_alone(kept: Kept) -> None:
    """As Docker leaves it."""
    (kept.root / "web" / "resolv.conf").write_text("nameserver 192.0.2.9\n")
    kept.host_file.write_text("nameserver 192.0.2.10\n")
    kept.learn(endpoint(BACK, WEB, "10.2.0.2/24", number=201))
    assert kept.text("resolv.conf") == "nameserver 192.0.2.9\n"


def test_files_go_with_their_sandbox(kept: Kept) -> None:
    """And those of one that went while nobody looked go at the next start."""
    (kept.root / "ghost").mkdir()
    Written(kept.directory, kept.root, kept.host_file).adopt()
    assert not (kept.root / "ghost").exists()
    for netns in kept.directory.learn([], [WEB_FRONT, WEB]):
        kept.written.renew(netns)
    assert not (kept.root / "web").exists()


def test_the_next_run_goes_on_with_the_files(kept: Kept) -> None:
    """What is mounted somewhere must stay up to date."""
    kept.written = Written(kept.directory, kept.root, kept.host_file)
    kept.written.adopt()
    kept.learn(replace(WEB_FRONT, addresses=(ip_interface("10.1.0.9/24"),)))
    assert "10.1.0.9\twww\n" in kept.text("hosts")
    assert "10.1.0.2" not in kept.text("hosts")


def test_files_that_cannot_be_written_are_an_error_and_none_is_left(tmp_path: Path) -> None:
    """Half of them would be mounted as if they were whole."""
    made = Kept(tmp_path)
    (made.root / "web" / "hosts").mkdir(parents=True)
    with pytest.raises(IsthmusError, match="cannot write the files of web"):
        made.written.files("web")
    assert not (made.root / "web").exists()
    assert made.written.files("web").hosts


def test_who_wants_no_resolver_has_no_resolv_conf_of_ours(kept: Kept) -> None:
    """It is the user's own business then."""
    kept.learn(replace(WEB, dns=Dns(off=True)))
    assert kept.written.files("web").resolv_conf == ""
    assert kept.written.files("web").hosts
