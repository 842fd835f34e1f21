"""What a daemon is told of a shared store, as Docker was told it."""

from pathlib import Path

import pytest

from isthmus.errors import InvalidOption
from isthmus.kv.opening import open_store
from isthmus.kv.url import StoreAddress, parse


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("consul://192.0.2.1:8500", StoreAddress("consul", ("192.0.2.1:8500",))),
        ("etcd://one,two:4001/", StoreAddress("etcd", ("one:2379", "two:4001"))),
        ("etcd://[fd00::1]:2379,[::1]/net/blue/", StoreAddress("etcd", ("[fd00::1]:2379", "[::1]:2379"), "net/blue")),
    ],
)
def test_a_url_names_servers_and_a_prefix(url: str, expected: StoreAddress) -> None:
    """Ports and the prefix have defaults."""
    assert parse(url, {}) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "consul",
        "consul://",
        "consul:///isthmus",
        "zk://192.0.2.1",
        "https://192.0.2.1",
        "consul://a,,b",
        "consul://a:0",
        "consul://a:65536",
        "consul://a:b",
        "consul://a b",
        "consul://fd00::1",
        "consul://a/ü",
        "consul://a/b//c",
        "consul://a/../b",
        "consul://a/b?token=c",
    ],
)
def test_what_is_no_store_is_refused(url: str) -> None:
    """Each with what it could have been."""
    with pytest.raises(InvalidOption, match=r"failed to parse cluster-store value: .* \(.+\)"):
        parse(url, {})


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    """Everybody on the host can read a command line, and many a log."""
    with pytest.raises(InvalidOption, match=r"kv\.userfile") as told:
        parse("etcd://root:secret@192.0.2.1", {})
    assert "secret" not in str(told.value)


def test_options_are_those_of_docker_and_two_of_ours() -> None:
    """A command line that was Docker's works as it stands."""
    files = {"kv.cacertfile": "/etc/ca.pem", "kv.certfile": "/etc/me.pem", "kv.keyfile": "/etc/me.key"}
    address = parse("consul://a/x", {**files, "kv.path": "net/green", "kv.tokenfile": "/etc/token"})
    assert address.secure
    assert (address.ca_file, address.certificate_file, address.key_file) == tuple(files.values())
    assert (address.prefix, address.token_file) == ("net/green", "/etc/token")
    assert parse("etcd://a", {"kv.userfile": "/etc/user"}).user_file == "/etc/user"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (20, 60)),
        ({"discovery.heartbeat": "5"}, (5, 15)),
        ({"discovery.ttl": "30"}, (10, 30)),
        ({"discovery.heartbeat": "10", "discovery.ttl": "11"}, (10, 11)),
    ],
)
def test_heartbeat_and_ttl_follow_from_each_other(options: dict[str, str], expected: tuple[float, float]) -> None:
    """As in Docker's `discoveryOpts`."""
    address = parse("consul://a", options)
    assert (address.heartbeat, address.ttl) == expected


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"kv.tokenfile": "/etc/token"}, "kv.tokenfile"),
        ({"kv.file": "x"}, "kv.file"),
        ({"kv.certfile": "x"}, "kv.certfile"),
        ({"kv.keyfile": "x"}, "kv.keyfile"),
        ({"kv.path": "a b"}, "kv.path"),
        ({"discovery.heartbeat": "0"}, "discovery.heartbeat"),
        ({"discovery.heartbeat": "1.5"}, "discovery.heartbeat"),
        ({"discovery.ttl": "86401"}, "discovery.ttl"),
        ({"discovery.heartbeat": "20", "discovery.ttl": "20"}, "discovery.ttl"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, str], key: str) -> None:
    """By its name."""
    with pytest.raises(InvalidOption, match=rf"failed to parse cluster-store-opt {key} value"):
        parse("etcd://a", options)


@pytest.mark.parametrize(
    ("url", "key", "content"),
    [
        ("consul://a", "kv.tokenfile", None),
        ("consul://a", "kv.tokenfile", b"\n"),
        ("consul://a", "kv.tokenfile", b"secret\nX-Other: secret"),
        ("consul://a", "kv.tokenfile", b"\xffsecret"),
        ("etcd://a", "kv.userfile", b"secret"),
        ("etcd://a", "kv.userfile", b":secret"),
        ("etcd://a", "kv.cacertfile", None),
        ("etcd://a", "kv.cacertfile", b"secret"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, url: str, key: str, content: bytes | None) -> None:
    """By its path; what is in it stays there."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidOption, match=rf"cluster-store-opt {key} value: {path}") as told:
        open_store(url, {key: str(path)})
    assert "secret" not in str(told.value)


def test_a_certificate_of_another_key_is_refused(tmp_path: Path) -> None:
    """Both files are named, for either may be the wrong one."""
    for name in ("certificate", "key"):
        (tmp_path / name).write_text("")
    options = {"kv.certfile": f"{tmp_path}/certificate", "kv.keyfile": f"{tmp_path}/key"}
    with pytest.raises(InvalidOption, match=rf"{tmp_path}/certificate .*{tmp_path}/key"):
        open_store("consul://a", options)
