"""Shared stores that ask who somebody is: by TLS, with certificates of their own, and by tokens or passwords."""

import asyncio
import base64
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import StoreUnavailable
from isthmus.kv import Guards, SharedStore
from isthmus.kv.opening import open_store
from tests.kv_servers import ConsulServer, EtcdServer, Real, program

WRONG = "5ec4e75e-0000-4000-8000-000000000000"
"""A secret that nobody has."""


class Certificates:
    """An authority in *directory*, and what it signed for a server and for a client."""

    _EXTENSIONS = (
        "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        (directory / "extensions").write_text(self._EXTENSIONS)
        key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        self._openssl(f"req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2")
        for name in ("server", "client"):
            # With passwords, etcd's gateway takes no certificate of a client that has a common name.
            self._openssl(f"req {key} -keyout {name}.key -out {name}.csr -subj /O={name}")
            signing = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions"
            self._openssl(f"x509 -req -in {name}.csr -out {name}.pem {signing}")

    def _openssl(self, command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=self.directory, check=True, capture_output=True)

    @property
    def options(self) -> dict[str, str]:
        """The options by which a daemon is told of the client's."""
        names = {"kv.cacertfile": "ca.pem", "kv.certfile": "client.pem", "kv.keyfile": "client.key"}
        return {key: str(self.directory / name) for key, name in names.items()}

    def context(self) -> ssl.SSLContext:
        """What a client in this process needs."""
        context = ssl.create_default_context(cafile=self.directory / "ca.pem")
        context.load_cert_chain(self.directory / "client.pem", self.directory / "client.key")
        return context


@dataclass
class Secured:
    """A server with its *certificates*; *writer* and *reader* are the secrets of those who may do all and little."""

    server: Real
    certificates: Certificates
    option: str
    writer: str
    reader: str
    wrong: str

    def options(self, secret: str = "") -> dict[str, str]:
        """The options of a daemon that has this *secret*, "" for none."""
        if not secret:
            return self.certificates.options
        path = self.certificates.directory / "secret"
        path.write_text(f"{secret}\n")
        return {**self.certificates.options, self.option: str(path)}

    def use(self, options: Mapping[str, str], work: Callable[[SharedStore], Coroutine[Any, Any, None]]) -> None:
        """Do *work* with the store as these *options* have it."""

        async def with_client() -> None:
            store = open_store(f"{self.server.name}://{self.server.address}", options)
            try:
                await work(store)
            finally:
                await store.close()

        self.server.run(with_client())

    def refused(self, options: Mapping[str, str], reason: str) -> None:
        """Assert that a store with these *options* tells why it cannot be had."""

        async def work(store: SharedStore) -> None:
            with pytest.raises(StoreUnavailable, match=reason) as told:
                await store.commit({"a": b"1"})
            assert WRONG not in str(told.value)

        self.use(options, work)


class SecuredConsul(ConsulServer):
    """Consul that wants certificates and tokens."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        files = certificates.directory
        manager = "11111111-1111-4111-8111-111111111111"
        settings = {
            "ports": {"http": -1, "https": self.port},
            "ca_file": f"{files}/ca.pem",
            "cert_file": f"{files}/server.pem",
            "key_file": f"{files}/server.key",
            "verify_incoming_https": True,
            "acl": {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"master": manager, "agent": manager},
            },
        }
        super().__init__(directory, settings)
        self.manager = {"X-Consul-Token": manager}
        self.scheme, self.tls = "https", certificates.context()

    def token(self, name: str, access: str) -> str:
        """A new token, which may *access* (read, write) our keys, and sessions."""
        rules = f'key_prefix "isthmus/" {{ policy = "{access}" }} session_prefix "" {{ policy = "{access}" }}'
        assert self.call("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules}, self.manager)
        made = self.call("PUT", "/v1/acl/token", {"Policies": [{"Name": name}]}, self.manager)
        return str(made["SecretID"])


class SecuredEtcd(EtcdServer):
    """etcd that wants certificates, users and passwords."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        files = certificates.directory
        trust = f"--trusted-ca-file={files}/ca.pem --client-cert-auth"
        super().__init__(directory, f"--cert-file={files}/server.pem --key-file={files}/server.key {trust}")
        self.scheme, self.tls = "https", certificates.context()

    def ready(self) -> bool:
        """Whether it knows its leader."""
        return bool(self.call("GET", "/health"))

    def secure(self) -> None:
        """Have it ask for passwords."""
        first, end = (base64.b64encode(key).decode() for key in (b"isthmus/", b"isthmus0"))
        for user, role, access in (("root", "root", ""), ("writer", "all", "READWRITE"), ("reader", "some", "READ")):
            assert self.call("POST", "/v3/auth/user/add", {"name": user, "password": f"{user}'s"})
            assert self.call("POST", "/v3/auth/role/add", {"name": role})
            assert self.call("POST", "/v3/auth/user/grant", {"user": user, "role": role})
            if access:
                permission = {"permType": access, "key": first, "range_end": end}
                assert self.call("POST", "/v3/auth/role/grant", {"name": role, "perm": permission})
        assert self.call("POST", "/v3/auth/enable", {})


@pytest.fixture(params=["consul", "etcd"], scope="module")
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server that lets in whom it knows."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a namespace is made for the server")
    if program(request.param) is None:
        pytest.skip(f"{request.param} was not fetched: ./bootstrap kernel")
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    directory = tmp_path_factory.mktemp("secured")
    certificates = Certificates(directory / "certificates")
    server = (SecuredConsul if request.param == "consul" else SecuredEtcd)(directory / "server", certificates)
    try:
        server.start()
        if isinstance(server, SecuredConsul):
            writer, reader = server.token("all", "write"), server.token("some", "read")
            yield Secured(server, certificates, "kv.tokenfile", writer, reader, WRONG)
        else:
            server.secure()
            yield Secured(server, certificates, "kv.userfile", "writer:writer's", "reader:reader's", f"writer:{WRONG}")
    finally:
        server.close()


def test_who_has_the_secret_may_do_all(secured: Secured) -> None:
    """Also after the server was started anew, which makes etcd forget the tokens that it gave for passwords."""

    async def work(store: SharedStore) -> None:
        session = await store.join(60)
        await store.renew(session)
        await store.commit({"a": b"1"}, session=session)
        before = await store.read("")
        secured.server.kill()
        await asyncio.to_thread(secured.server.start)
        await store.commit({"a": b"2"}, Guards(present=["a"]))
        async with aclosing(store.watch("", before)) as watch:
            assert (await anext(watch)).changes == {"a": b"2"}
            await store.commit({"b": b"1"})
            assert (await anext(watch)).changes == {"b": b"1"}
        await store.leave(session)

    secured.use(secured.options(secured.writer), work)


def test_who_may_only_read_is_told_so(secured: Secured) -> None:
    """Which file the secret is in, never what it is."""

    async def work(store: SharedStore) -> None:
        await store.read("")
        with pytest.raises(StoreUnavailable, match=f"in {secured.option} may not do this") as told:
            await store.commit({"c": b"1"})
        assert secured.reader.partition(":")[2] not in str(told.value) or ":" not in secured.reader
        assert secured.reader not in str(told.value)

    secured.use(secured.options(secured.reader), work)


def test_who_has_a_wrong_secret_or_none_is_told_so(secured: Secured) -> None:
    """A daemon that was told too little says what it lacks."""
    secured.refused(secured.options(secured.wrong), f"in {secured.option} may not do this")
    secured.refused(secured.options(), f"name {secured.option}")


def test_nobody_is_trusted_without_a_certificate(secured: Secured) -> None:
    """Neither the server by us, nor we by the server."""
    mine = secured.options(secured.writer)
    secured.refused({key: value for key, value in mine.items() if key != "kv.cacertfile"}, "(?i)certificate")
    secured.refused({key: value for key, value in mine.items() if key not in {"kv.certfile", "kv.keyfile"}}, ".")
    secured.refused({secured.option: mine[secured.option]}, ".")
