"""The command line against a scripted daemon on a real socket, and beside Docker's own client where there is one."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import ClassVar, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest

Json = dict[str, object]

DOCKER = shutil.which("docker")


def docker_version() -> int:
    """The major version of Docker's client; 0 if it is not installed."""
    if DOCKER is None:
        return 0
    said = subprocess.run([DOCKER, "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.removeprefix("Docker version ").partition(".")[0])


needs_docker = pytest.mark.skipif(
    docker_version() < 28, reason="compares with Docker's client of version 28 or newer; older ones say other words"
)

NETWORK: Json = {
    "Name": "front",
    "Id": "a" * 64,
    "Created": "2026-01-02T03:04:05.123456789Z",
    "Scope": "local",
    "Driver": "bridge",
    "EnableIPv4": True,
    "EnableIPv6": False,
    "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1"}]},
    "Internal": False,
    "Attachable": False,
    "Ingress": False,
    "ConfigFrom": {"Network": ""},
    "ConfigOnly": False,
    "Containers": {},
    "Options": {},
    "Labels": {"tier": "web"},
}
NETWORKS = [
    NETWORK,
    {**NETWORK, "Name": "net10", "Id": "b" * 64, "Driver": "macvlan"},
    {**NETWORK, "Name": "net9", "Id": "c" * 64, "Labels": {}},
    {**NETWORK, "Name": "a-name-that-is-longer", "Id": "d" * 64, "Scope": "global"},
]
SANDBOX: Json = {
    "Id": "e" * 64,
    "Name": "web",
    "Created": "2026-01-02T03:04:05Z",
    "NetworkMode": "front",
    "NetnsPath": "",
    "Labels": {},
    "Hostname": "web",
    "Networks": {
        "front": {"IPAddress": "10.5.0.9", "IPPrefixLen": 24, "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0}
    },
}
EVENT: Json = {
    "Type": "network",
    "Action": "create",
    "Actor": {"ID": "a" * 64, "Attributes": {"type": "bridge", "name": "front"}},
    "scope": "local",
    "time": 1767323045,
    "timeNano": 1767323045123456789,
}
PLAN = ["ip link add br-aaaaaaaaaaaa type bridge", "ip addr add 10.5.0.1/24 dev br-aaaaaaaaaaaa"]
RULE: Json = {
    "Packets": 123456,
    "Bytes": 99999999,
    "Target": "DNAT",
    "Protocol": "6",
    "Options": "--",
    "In": "!br0",
    "Out": "*",
    "Source": "0.0.0.0/0",
    "Destination": "0.0.0.0/0",
    "Extra": "tcp dpt:8080 to:10.5.0.2:80",
    "Network": "front",
}
LINK: Json = {"Name": "eth0", "PeerName": "veth1", "Type": "veth", "Addresses": ["10.9.0.2/24"]}


class Request(NamedTuple):
    """What a client asked, without the version in its path."""

    method: str
    path: str
    query: dict[str, str]
    body: object


class Result(NamedTuple):
    """What a program printed, and its exit code."""

    code: int
    out: str
    err: str


def answer(request: Request) -> tuple[int, object]:
    """Give the status and the value that the scripted daemon answers *request* with."""
    name = request.path.split("/")[2] if request.path.count("/") > 1 else ""
    if name == "nope":
        return 404, {"message": "network nope not found"}
    if name == "busy":
        return 403, {"message": "busy is a pre-defined network and cannot be removed"}
    if "dry-run" in request.query:
        return 200, {"Plan": PLAN}
    made: Json = {"Id": "f" * 64}
    answers: dict[tuple[str, str], tuple[int, object]] = {
        ("GET", "/networks"): (200, NETWORKS),
        ("POST", "/networks/create"): (201, made | {"Warning": ""}),
        ("POST", "/networks/prune"): (200, {"NetworksDeleted": ["one", "two"]}),
        ("POST", "/containers/create"): (201, made | {"Warnings": []}),
        ("POST", f"/containers/{made['Id']}/attach"): (409, {"message": "there are no streams in a script"}),
        ("POST", "/sandboxes/create"): (201, made | {"Warnings": ["mind the gap"]}),
        ("POST", "/sandboxes/prune"): (200, {"SandboxesDeleted": None}),
        ("GET", "/sandboxes"): (200, [SANDBOX]),
        ("GET", "/sandboxes/web"): (200, SANDBOX),
        ("GET", "/sandboxes/web/links"): (200, [LINK]),
        ("POST", "/sandboxes/web/links"): (201, LINK),
        ("GET", "/nat"): (
            200,
            {"Chains": [{"Name": "PREROUTING", "Policy": "ACCEPT", "Packets": 0, "Bytes": 0, "Rules": [RULE]}]},
        ),
        ("GET", "/version"): (200, {"Version": "9.9", "ApiVersion": "1.52", "MinAPIVersion": "1.24", "Os": "linux"}),
        ("GET", "/info"): (200, {"ServerVersion": "9.9", "Warnings": ["WARNING: no bridge-nf"], "NCPU": 2}),
    }
    usual = (200, NETWORK) if request.method == "GET" else (204, None) if request.method == "DELETE" else (200, None)
    return answers.get((request.method, request.path), usual)


class Daemon:
    """A daemon that answers from a script at *host*, and keeps the *requests* that it got."""

    def __init__(self, socket_path: Path) -> None:
        self.host = f"unix://{socket_path}"
        self.requests: list[Request] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            headers_of_all: ClassVar = {"Api-Version": "1.52", "Ostype": "linux", "Content-Type": "application/json"}

            def address_string(self) -> str:
                return ""

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
                pass

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                content = self.rfile.read(length)
                url = urlsplit(self.path)
                path = url.path if url.path == "/_ping" else "/" + url.path.split("/", 2)[2]
                request = Request(self.command, path, dict(parse_qsl(url.query)), json.loads(content or b"null"))
                if path.endswith("/events"):
                    requests.append(request)
                    return self._stream()
                if path != "/_ping":
                    requests.append(request)
                status, value = answer(request)
                body = b"" if value is None else json.dumps(value).encode()
                self._head(status, {"Content-Length": str(len(body))})
                if self.command != "HEAD":
                    self.wfile.write(body)
                return None

            def _stream(self) -> None:
                self._head(200, {"Transfer-Encoding": "chunked"})
                line = json.dumps(EVENT).encode() + b"\n"
                for piece in (line[:20], line[20:] + line):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")

            def _head(self, status: int, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in (self.headers_of_all | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the base class calls them so

        self._server = ThreadingUnixStreamServer(str(socket_path), Handler)
        self._server.daemon_threads = True

    @contextmanager
    def running(self) -> Iterator["Daemon"]:
        """Serve while the context lasts."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def ask(self, *words: str, program: str = "", typed: str = "") -> Result:
        """Run *words* with our client, or with *program*, against this daemon."""
        client = [program] if program else [sys.executable, "-m", "isthmus.cli.main"]
        return run([*client, "-H", self.host, *words], typed)

    def sent(self, *words: str, program: str = "") -> Request:
        """Give the request that *words* send; before that, Docker's may look whether the network is there."""
        self.requests.clear()
        result = self.ask(*words, program=program)
        assert result.code == 0, result
        *looks, request = self.requests
        assert [look.method for look in looks] in ([], ["GET"] if program else [])
        return request


def run(command: list[str], typed: str = "", **environment: str) -> Result:
    """Run a program to its end."""
    ended = subprocess.run(
        command,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"TZ": "UTC"} | environment,
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A scripted daemon."""
    with Daemon(tmp_path / "d.sock").running() as running:
        yield running


CREATE = ("network", "create")
CONNECT = ("network", "connect")
SAME_REQUESTS = [
    (*CREATE, "front"),
    (*CREATE, "-d", "bridge", "--subnet", "10.5.0.0/24", "--gateway", "10.5.0.1", "front"),
    (
        *CREATE,
        "--subnet=10.5.0.0/24",
        "--ip-range=10.5.0.128/25",
        "--aux-address",
        "a=10.5.0.2",
        "--aux-address=b=10.5.0.3",
        "n",
    ),
    (*CREATE, "--subnet", "10.5.0.0/24,10.6.0.0/24", "--gateway", "10.6.0.1", "n"),
    (
        *CREATE,
        "--subnet",
        "10.1.0.0/16",
        "--subnet",
        "2001:DB8::/64",
        "--gateway",
        "2001:db8::1",
        "--gateway",
        "10.1.0.1",
        "n",
    ),
    (*CREATE, "--subnet", "10.5.0.0/24", "--ip-range", "10.5.0.0/16", "n"),
    (*CREATE, "--subnet", "10.5.0.1/24", "n"),
    (*CREATE, "--subnet", "nonsense", "n"),
    (*CREATE, "n", "-o", "a=b=c", "-o", "flag", "--opt", "a=d", "--label", "l", "--label=m=n"),
    (*CREATE, "--internal", "--attachable", "--ingress", "--ipv6", "--scope", "swarm", "n"),
    (*CREATE, "--ipv4=false", "--ipv6=true", "--internal=0", "n"),
    (*CREATE, "--config-only", "n"),
    (*CREATE, "--config-from", "other", "-dmacvlan", "n"),
    (*CREATE, "--ipam-driver", "mine", "--ipam-opt", "a=1", "--ipam-opt", "b", "n"),
    (*CONNECT, "front", "web"),
    (*CONNECT, "--ip", "10.5.0.9", "--ip6", "fd00::9", "--link-local-ip", "169.254.1.1,169.254.1.2", "front", "web"),
    (*CONNECT, "--alias", "a,b", "--alias", "c", "--link", "x:y", "--link", "z", "front", "web"),
    (*CONNECT, "--driver-opt", "a=b", "--driver-opt", "c=d=e", "--gw-priority", "-5", "front", "web"),
    ("network", "disconnect", "front", "web"),
    ("network", "disconnect", "-f", "front", "web"),
    ("network", "ls", "-f", "driver=bridge", "--filter", "name=x", "-fname=y"),
    ("network", "ls", "-f", " Label=a=b "),
    ("network", "list"),
    ("network", "inspect", "-v", "front"),
    ("network", "inspect", "front"),
    ("network", "rm", "front"),
    ("network", "remove", "-f", "front"),
    ("network", "prune", "-f", "--filter", "until=3h", "--filter", "label!=keep"),
]


@needs_docker
@pytest.mark.parametrize("words", SAME_REQUESTS, ids=" ".join)
def test_the_same_command_line_sends_what_dockers_client_sends(daemon: Daemon, words: tuple[str, ...]) -> None:
    """People type what they know from Docker, and mean the same by it."""
    ours, theirs = daemon.sent(*words), daemon.sent(*words, program=str(DOCKER))

    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert {k: json.loads(v) if k == "filters" else v for k, v in ours.query.items()} == {
        k: json.loads(v) if k == "filters" else v for k, v in theirs.query.items() if (k, v) != ("verbose", "false")
    }
    assert comparable(ours.body) == comparable(theirs.body)


def comparable(value: object) -> object:
    """Give *value* without what is empty, as Docker's client spells out all fields that its Go structures have."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        # Docker's client keeps several subnets in a Go map, and sends them in the order that chance gives that.
        return sorted(map(comparable, value), key=repr)
    if not isinstance(value, dict):
        return value
    return {key: comparable(item) for key, item in value.items() if item or (item is False and "Enable" in key)}


SANDBOXES = [
    (),
    ("--network", "front"),
    ("--network", "host"),
    ("--network", "none"),
    ("--network=container:other",),
    ("--network", "front", "--network", "back", "--ip", "10.5.0.9"),
    (
        "--network",
        "front",
        "--ip6",
        "fd00::9",
        "--mac-address",
        "02:42:0a:05:00:09",
        "--link",
        "x:y",
        "--link-local-ip",
        "169.254.1.1",
    ),
    ("--network", "name=front,ip=10.5.0.9,alias=x,alias=y,driver-opt=a=b,gw-priority=3", "--network", "back"),
    ("--network", 'name=front,ip6=fd00::9,mac-address=02:42:0a:05:00:09,link-local-ip=169.254.1.1,"alias=a,b"'),
    ("--network", "front", "--network-alias", "a", "--network-alias", "b"),
    ("--ip", "172.17.0.9", "--link", "x"),
    ("-h", "host", "--domainname", "example.org", "-l", "a=b", "--label", "c"),
    (
        "--dns",
        "1.1.1.1",
        "--dns",
        "fd00:0::1",
        "--dns-option",
        "ndots:1",
        "--dns-search",
        "example.org",
        "--dns-search",
        ".",
    ),
    ("--add-host", "a:1.2.3.4", "--add-host", "b=::1", "--add-host", "c=[fd00::1]", "--add-host", "d:host-gateway"),
    ("--sysctl", "net.ipv4.ip_forward=1", "--sysctl=net.core.somaxconn=5"),
    ("-p", "80"),
    ("-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "-P", "--expose", "90", "--expose=100-102/udp"),
    ("-p", "8000-8002:80-82", "-p", "127.0.0.1::81", "-p", "0:83/sctp"),
    ("-p", "8000-8002:80", "-p", "81:80"),
    ("-p", "[::1]:80:80/tcp", "-p", "::1:81:81/TCP"),
    ("-p", "published=80,target=81", "-p", "target=82,protocol=udp,mode=host"),
    ("--network", "front", "-p80-81"),
]


@needs_docker
@pytest.mark.parametrize("flags", SANDBOXES, ids=lambda flags: " ".join(flags) or "nothing")
def test_a_sandbox_is_asked_for_as_docker_asks_for_a_container(daemon: Daemon, flags: tuple[str, ...]) -> None:
    """The flags of `docker run` that concern the network mean the same for a sandbox."""
    ours = daemon.sent("sandbox", "create", *flags, "web")
    theirs = daemon.sent("create", "--pull", "never", "--name", "web", *flags, "image", program=str(DOCKER))

    assert (ours.method, ours.path, ours.query) == ("POST", "/sandboxes/create", {"name": "web"})
    assert isinstance(ours.body, dict)
    assert isinstance(theirs.body, dict)
    expected = {key: theirs.body.get(key) for key in ours.body}
    expected["HostConfig"] = {key: theirs.body["HostConfig"].get(key) for key in ours.body["HostConfig"]}
    assert comparable(ours.body) == comparable(expected)
    # An endpoint with nothing to say still has to be there: it names the network.
    assert set(ours.body["NetworkingConfig"]["EndpointsConfig"]) == set(
        theirs.body["NetworkingConfig"]["EndpointsConfig"]
    )


SAME_OUTPUT = [
    ("network", "ls"),
    ("network", "ls", "-q"),
    ("network", "ls", "--no-trunc"),
    ("network", "ls", "-q", "--no-trunc"),
    ("network", "ls", "--format", "json"),
    ("network", "ls", "-q", "--format", "{{.Name}}"),
    ("network", "ls", "--format", "table {{.ID}}\t{{.Name}}\\t{{.Labels}}"),
    ("network", "ls", "--format", "table {{.Name}}: {{.Driver}}"),
    ("network", "ls", "--format", '{{.ID}} {{.IPv4}} {{.Internal}} {{.CreatedAt}} {{.Label "tier"}}'),
    ("network", "ls", "--format", "{{json .}}"),
    ("network", "ls", "--format", '{{if eq .Driver "bridge" "host"}}{{upper .Name}}{{else}}-{{end}}'),
    ("network", "inspect", "front"),
    ("network", "inspect", "-f", "json", "front", "front"),
    ("network", "inspect", "-f", "{{.ID}}", "front"),
    ("network", "inspect", "-f", "{{.Id}}", "front"),
    ("network", "inspect", "--format", "{{.Name}} {{.Created}} {{.Labels}} {{.Internal}} {{.Containers}}", "front"),
    ("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{.IPRange}}|{{.Gateway}}{{end}}", "front"),
    (
        "network",
        "inspect",
        "-f",
        '{{json .IPAM.Config}} {{(index .IPAM.Config 0).Gateway}} {{index .Labels "tier"}}',
        "front",
    ),
    ("network", "inspect", "-f", "{{range $k, $v := .Labels}}{{$k}}={{$v}}{{end}}{{len .Labels}}", "front"),
    ("network", "inspect", "-f", '{{printf "%-8s|%5d|%q" .Name 3 .Driver}} {{.Name | upper | printf "%s!"}}', "front"),
    ("network", "inspect", "-f", "{{- with .Labels}} {{.tier -}}  x{{end}}{{/* nothing */}}", "front"),
    ("network", "inspect", "front", "nope"),
    ("network", "inspect", "nope"),
    ("network", "rm", "nope"),
    ("network", "rm", "front", "nope", "busy", "back"),
    ("network", "rm", "-f", "nope"),
    ("network", "rm", "-f", "busy"),
    ("network", "prune", "--force"),
    ("network", "create", "front"),
    ("network", "connect", "nope", "web"),
    ("events", "--since", "10m", "--until", "2026-01-01T00:00:00Z"),
    ("events", "--format", "{{.Type}} {{.Action}}"),
]


@needs_docker
@pytest.mark.parametrize("words", SAME_OUTPUT, ids=" ".join)
def test_what_is_printed_is_what_dockers_client_prints(daemon: Daemon, words: tuple[str, ...]) -> None:
    """Scripts cut columns and compare sentences."""
    ours, theirs = daemon.ask(*words), daemon.ask(*words, program=str(DOCKER))

    # Docker's client adds this line to failures of several; it is about itself.
    assert ours == theirs._replace(err=theirs.err.replace("exit status 1\n", ""))


@needs_docker
@pytest.mark.parametrize(
    "words",
    [
        ("network", "create", "--subnet", "10.5.0.0/24", "--subnet", "10.5.0.0/16", "n"),
        ("network", "create", "--gateway", "10.6.0.1", "n"),
        ("network", "create", "--subnet", "10.5.0.0/24", "--gateway", "10.6.0.1", "n"),
        ("network", "create", "--subnet", "10.5.0.0/24", "--gateway", "zz", "n"),
        ("network", "create", "--subnet", "10.5.0.0/24", "--ip-range", "10.6.0.0/25", "n"),
        ("network", "create", "--subnet", "10.5.0.0/24", "--ip-range", "zz", "n"),
        ("network", "create", "--subnet", "10.5.0.0/24", "--aux-address", "a=10.6.0.1", "n"),
        (
            "network",
            "create",
            "--subnet",
            "10.5.0.0/24",
            "--subnet",
            "10.6.0.0/24",
            *("--gateway", "10.5.0.1") * 2,
            "n",
        ),
        ("network", "create", "--nope", "n"),
        ("network", "create", "--driver"),
        ("network", "rm", "-x"),
        ("network", "rm", "-d"),
        ("network", "ls", "-f", "driver"),
        ("network", "connect", "--link", "a:b:c", "front", "web"),
        ("network", "connect", "--link", "", "front", "web"),
        ("network", "connect", "--driver-opt", "x", "front", "web"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_gets_dockers_sentence(daemon: Daemon, words: tuple[str, ...]) -> None:
    """The sentence is what people search the web for; and nothing may reach the daemon."""
    ours, theirs = daemon.ask(*words), daemon.ask(*words, program=str(DOCKER))

    assert ours.err.splitlines()[0] == theirs.err.splitlines()[0]
    assert (ours.code, ours.out, daemon.requests) == (125, "", [])


@needs_docker
@pytest.mark.parametrize(
    "flags",
    [
        ("--network", "name=front,ip=10.0.0.1", "--ip", "10.0.0.2"),
        ("--network", "name=front,alias=q", "--network-alias", "q"),
        ("--network", "name=front,link-local-ip=169.254.1.1", "--link-local-ip", "169.254.1.1"),
        ("--network", "name=front,mac-address=02:00:00:00:00:02", "--mac-address", "02:00:00:00:00:01"),
        ("--network", "ip=10.0.0.1"),
        ("--network", "name=front,foo=1"),
        ("--network", "name=front,gw-priority=zz"),
        ("--network", "name=front,driver-opt=zz"),
        ("--network", "container:other", "--network", "front"),
        ("--network", "front", "--network", "front"),
        ("--network", ""),
        ("--network-alias", "a"),
        ("--mac-address", "zz"),
        ("-p", "8000-8002:80-81"),
        ("-p", "70000:80"),
        ("-p", "abc"),
        ("-p", "80/foo"),
        ("-p", "hello:80:80"),
        ("-p", ""),
        ("-p", "81-80:80"),
        ("-p", "1.2.3.4:80"),
        ("--dns", "zz"),
        ("--dns-search", "a b"),
        ("--add-host", "zz"),
        ("--add-host", "a:zz"),
        ("--sysctl", "net.x"),
        ("--sysctl", "kernel.x=1"),
        ("--link", "x:y:z"),
    ],
    ids=" ".join,
)
def test_a_wrong_sandbox_gets_dockers_sentence(daemon: Daemon, flags: tuple[str, ...]) -> None:
    """What cannot be meant is refused before anything is asked of the daemon."""
    ours = daemon.ask("sandbox", "create", *flags, "web")
    theirs = daemon.ask("create", "--pull", "never", *flags, "image", program=str(DOCKER))

    assert ours.err.splitlines()[0] == theirs.err.splitlines()[0].removeprefix("docker: ")
    assert (ours.code, daemon.requests) == (125, [])


@pytest.mark.parametrize(
    "words",
    [
        ("network", "create", "--dry-run", "n"),
        ("network", "rm", "--dry-run", "front"),
        ("network", "prune", "--dry-run"),
        ("network", "connect", "--dry-run", "front", "web"),
        ("network", "disconnect", "front", "web", "--dry-run"),
        ("network", "rate", "--dry-run", "front", "web", "50mbit"),
        ("sandbox", "create", "--dry-run", "web"),
        ("sandbox", "rm", "--dry-run", "web"),
        ("link", "add", "web", "--type", "veth", "--dry-run"),
        ("link", "rm", "--dry-run", "web", "eth0"),
    ],
    ids=" ".join,
)
def test_a_dry_run_prints_the_plan_and_nothing_else(daemon: Daemon, words: tuple[str, ...]) -> None:
    """The plan is to be pasted into a shell."""
    result = daemon.ask(*words)

    assert result == Result(0, "\n".join([*PLAN, ""]), "")
    assert [request.query["dry-run"] for request in daemon.requests] == ["1"]


def test_a_sandboxs_id_is_printed_apart_from_its_warnings(daemon: Daemon) -> None:
    """`id=$(isthmus sandbox create web)` must give the ID alone."""
    assert daemon.ask("sandbox", "create", "web") == Result(0, "f" * 64 + "\n", "WARNING: mind the gap\n")


def test_sandboxes_are_listed_with_their_addresses(daemon: Daemon) -> None:
    """The addresses are what one looks for first."""
    result = daemon.ask("sandbox", "ls", "--filter", "name=web")

    assert result.out.splitlines() == [
        "SANDBOX ID     NAME      MODE      NETWORKS   ADDRESSES",
        "eeeeeeeeeeee   web       front     front      10.5.0.9/24",
    ]
    assert daemon.requests[0].query == {"filters": '{"name": {"web": true}}'}
    assert daemon.ask("sandbox", "ls", "--format", "{{.Name}} {{.Names}}").out == "web web\n"
    assert json.loads(daemon.ask("sandbox", "inspect", "web").out) == [SANDBOX]


def test_a_rate_is_an_option_of_the_endpoint(daemon: Daemon) -> None:
    """Docker's client can say it, too; so there is no second way."""
    connect = daemon.sent("network", "connect", "--rate", "100mbit", "--driver-opt", "a=b", "front", "web")
    assert isinstance(connect.body, dict)
    assert connect.body["EndpointConfig"]["DriverOpts"] == {"a": "b", "isthmus.rate": "100mbit"}
    for flags in (("--network", "front", "--rate", "100mbit/off"), ("--network", "name=front,rate=100mbit/off")):
        create = daemon.sent("sandbox", "create", *flags, "web")
        assert isinstance(create.body, dict)
        endpoint = create.body["NetworkingConfig"]["EndpointsConfig"]["front"]
        assert endpoint["DriverOpts"] == {"isthmus.rate": "100mbit/off"}
    change = daemon.sent("network", "rate", "front", "web", "50mbit")
    assert (change.method, change.path) == ("POST", "/networks/front/rate")
    assert change.body == {"Container": "web", "Rate": "50mbit"}


def test_a_rate_is_said_once(daemon: Daemon) -> None:
    """Which of two is meant cannot be told."""
    told = daemon.ask("sandbox", "create", "--network", "name=front,rate=1mbit", "--rate", "2mbit", "web")
    assert told.err.startswith("conflicting options: cannot specify both --rate and per-network rate")
    assert (told.code, daemon.requests) == (125, [])


def test_a_link_is_asked_for_with_all_that_its_flags_say(daemon: Daemon) -> None:
    """A link by hand has no defaults to fall back on."""
    words = "--type veth --name eth7 --ip 10.9.0.2/24 --ip fd00::2/64 --route default,10.9.0.1 --route default,fd00::1"
    more = "--route 10.0.0.0/8,10.9.0.3 --peer p0 --peer-ip 10.9.0.1/24 --master br9 --mac 02:00:00:00:00:01 --mtu 1400"
    request = daemon.sent("link", "add", "web", *words.split(), *more.split())

    assert (request.method, request.path) == ("POST", "/sandboxes/web/links")
    assert request.body == {
        "Type": "veth",
        "Name": "eth7",
        "Addresses": ["10.9.0.2/24", "fd00::2/64"],
        "Routes": [
            {"Destination": "0.0.0.0/0", "Gateway": "10.9.0.1"},
            {"Destination": "::/0", "Gateway": "fd00::1"},
            {"Destination": "10.0.0.0/8", "Gateway": "10.9.0.3"},
        ],
        "Peer": {"Name": "p0", "Addresses": ["10.9.0.1/24"], "Master": "br9"},
        "Parent": "",
        "Mode": "",
        "MacAddress": "02:00:00:00:00:01",
        "Mtu": 1400,
    }
    assert daemon.ask("link", "add", "web", "--type", "veth").out == "eth0\n"
    assert daemon.ask("link", "ls", "web").out.splitlines()[1] == "eth0      veth      veth1     10.9.0.2/24"
    assert daemon.sent("link", "rm", "web", "eth0").path == "/sandboxes/web/links/eth0"


def test_a_link_without_a_type_or_with_half_a_route_is_refused(daemon: Daemon) -> None:
    """The daemon should not have to guess."""
    for words in (("web",), ("web", "--type", "veth", "--route", "default")):
        assert daemon.ask("link", "add", *words).code == 125
    assert daemon.requests == []


def test_nat_rules_can_be_read_by_programs_too(daemon: Daemon) -> None:
    """The table is for people; counters are watched by programs."""
    assert json.loads(daemon.ask("nat", "--format", "json").out) == {**RULE, "Chain": "PREROUTING"}
    assert daemon.ask("nat", "--format", "{{.Chain}} {{.Packets}}").out == "PREROUTING 123456\n"
    assert "123K  100M DNAT" in daemon.ask("nat").out
    assert "  123456 99999999 DNAT" in daemon.ask("nat", "-x").out


def test_pruning_asks_first_and_takes_no_for_an_answer(daemon: Daemon) -> None:
    """It removes what cannot be brought back."""
    for typed in ("", "n\n", "\n"):
        result = daemon.ask("network", "prune", typed=typed)
        assert result.out.endswith("Are you sure you want to continue? [y/N] ")
    assert daemon.requests == []
    assert daemon.ask("network", "prune", typed="y\n").out.endswith("Deleted Networks:\none\ntwo\n\n")
    assert daemon.ask("sandbox", "prune", "-f") == Result(0, "", "")


def test_the_daemon_can_be_named_in_three_places(daemon: Daemon) -> None:
    """Tests and demos run many daemons on one machine."""
    program = [sys.executable, "-m", "isthmus.cli.main"]
    host, wrong = daemon.host, "unix:///nowhere.sock"

    assert run([*program, "-H", host, "network", "ls", "-q"], ISTHMUS_HOST=wrong).code == 0
    assert run([*program, "network", "ls", "-q", "--host", host], ISTHMUS_HOST=wrong).code == 0
    assert run([*program, "network", "ls", "-q"], ISTHMUS_HOST=host).code == 0
    assert run([*program, "network", "ls"], ISTHMUS_HOST="tcp://127.0.0.1:1").code == 125


def test_a_daemon_that_is_not_there_is_one_sentence_with_the_way_out(tmp_path: Path) -> None:
    """The first thing that a new user sees must not be a traceback."""
    (tmp_path / "file").write_text("")
    for path in ("none.sock", "file", "x" * 200):
        host = f"unix://{tmp_path / path}"
        result = run([sys.executable, "-m", "isthmus.cli.main", "-H", host, "network", "ls"])
        assert result.code == 1
        assert len(result.err.splitlines()) == 1
        assert host in result.err
        assert "`isthmus daemon`" in result.err


@pytest.mark.parametrize(
    "reply",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[]", b"HTTP/1.1 200 OK\r\n\r\n<html>"],
    ids=["nothing", "no-http", "too-short", "no-json"],
)
def test_an_answer_that_makes_no_sense_is_one_sentence(tmp_path: Path, reply: bytes) -> None:
    """The daemon may be killed while it writes; or another program may listen there."""

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(reply)

    with ThreadingUnixStreamServer(str(tmp_path / "d.sock"), Handler) as server:
        server.timeout = 30
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        result = run([sys.executable, "-m", "isthmus.cli.main", "-H", f"unix://{tmp_path}/d.sock", "network", "ls"])
        thread.join()

    assert (result.code, result.out, len(result.err.splitlines())) == (1, "", 1)


def test_help_needs_no_daemon() -> None:
    """Help is what one asks for when nothing works."""
    program = [sys.executable, "-m", "isthmus.cli.main"]
    for words in ((), ("--help",), ("network",), ("network", "--help"), ("network", "create", "--help"), ("nat", "-h")):
        result = run([*program, *words])
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("Usage:  isthmus")
    for words in (("nope",), ("network", "nope"), ("--nope",)):
        assert run([*program, *words]).code == 125


def test_events_arrive_line_by_line_whatever_the_chunks_are(daemon: Daemon) -> None:
    """The stream is cut anywhere, so a line may come in two pieces and two lines in one."""
    result = daemon.ask("events", "--format", "json", "--filter", "type=network")

    assert [json.loads(line) for line in result.out.splitlines()] == [EVENT, EVENT]


def test_the_version_of_the_program_is_told_even_without_a_daemon(daemon: Daemon) -> None:
    """A report of a problem begins with it."""
    result = run([sys.executable, "-m", "isthmus.cli.main", "-H", "unix:///nowhere.sock", "version"])

    assert (result.code, "Client:" in result.out, "cannot connect" in result.err) == (1, True, True)
    assert daemon.ask("version", "-f", "{{.Server.Version}}").out == "9.9\n"
    assert "Server version: 9.9" in daemon.ask("info").out


def test_only_what_a_command_needs_is_imported() -> None:
    """A command starts in milliseconds only as long as nobody adds an import of weight."""
    code = "import sys, isthmus.cli.main, isthmus.cli.network; print(*sys.modules)"
    modules = set(run([sys.executable, "-c", code]).out.split())

    heavy = {
        "argparse",
        "asyncio",
        "ctypes",
        "dataclasses",
        "http.client",
        "inspect",
        "ipaddress",
        "isthmus.engine",
        "msgspec",
    }
    assert not modules & heavy


@contextmanager
def namespace() -> Iterator[str]:
    """Give the path of a new network namespace that has an interface `probe0`."""
    script = "ip link add probe0 type veth peer name probe1 && echo ready && read line"
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield f"/proc/{holder.pid}/ns/net"
        holder.communicate(b"\n")


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_program_runs_in_the_sandbox_with_its_own_view_of_files(daemon: Daemon, tmp_path: Path) -> None:
    """It must see the sandbox's interfaces in /sys and the sandbox's resolv.conf, and leave no mount behind."""
    (tmp_path / "etc/netns/web").mkdir(parents=True)
    (tmp_path / "etc/resolv.conf").write_text("of the host\n")
    (tmp_path / "etc/netns/web/resolv.conf").write_text("of web\n")
    mounts = Path("/proc/self/mounts").read_text()
    program = f"{sys.executable} -m isthmus.cli.main -H {daemon.host} sandbox exec web --"

    with namespace() as path, replaced(SANDBOX, "NetnsPath", path):
        show = f"{program} sh -c 'ls /sys/class/net; cat /etc/resolv.conf'"
        script = f"mount --bind {tmp_path}/etc /etc; {show}; cat /etc/resolv.conf"
        seen = run(["unshare", "-m", "sh", "-c", script])
        codes = [
            daemon.ask("sandbox", "exec", "web", *words).code
            for words in (("sh", "-c", "exit 7"), ("--", "/no/such"), ("/etc",))
        ]
        pipe = daemon.ask("sandbox", "exec", "web", "--", "sh", "-c", "yes | head -n 1; kill -PIPE $$")

    assert seen == Result(0, "lo\nprobe0\nprobe1\nof web\nof the host\n", "")
    assert codes == [7, 127, 126]
    assert (pipe.code, pipe.out) == (-13, "y\n")
    assert Path("/proc/self/mounts").read_text() == mounts


@contextmanager
def replaced(record: Json, key: str, value: object) -> Iterator[None]:
    """Have *value* in *record* for a while."""
    before, record[key] = record[key], value
    try:
        yield
    finally:
        record[key] = before
