"""HTTP to a store's servers: which of them is asked, for how long, and how it is told that none answers.

Whatever can be read again is asked of the next server if one fails. What changes something is not, once it may have
been heard: done twice, it could be taken for somebody else's doing.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from aiohttp import ClientConnectorError, ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar

from isthmus.errors import StoreUnavailable
from isthmus.kv import PATIENCE

_T = TypeVar("_T")
_UNTIMED = ClientTimeout(total=None)
_UNHEARD = (ClientConnectorError,)
_FAILURES = (ClientError, OSError, TimeoutError, ssl.SSLError)
_TEXT = 200


class Pace(msgspec.Struct, frozen=True):
    """How long servers are waited for, in seconds.

    One that says nothing for *patience* is away. After *silence*, without news, it is asked for them anew: a firewall
    in between may have forgotten the connection by which they would come.
    """

    patience: float = PATIENCE
    silence: float = 60.0


PACE = Pace()


class Answer(msgspec.Struct, frozen=True):
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as one line for people, cut where it gets long."""
        return " ".join(self.body[:_TEXT].decode(errors="replace").split())


class Servers:
    """The servers of one store of this *kind*, at *addresses* like `192.0.2.1:8500`; by TLS, if *tls* is given.

    All take turns: the next one is asked when one fails.
    """

    def __init__(self, kind: str, addresses: Sequence[str], tls: ssl.SSLContext | None, pace: Pace) -> None:
        self._kind, self._tls, self.pace = kind, tls, pace
        self._addresses = list(addresses)
        self._session: ClientSession | None = None

    @property
    def current(self) -> str:
        """The address that is asked next."""
        return self._addresses[0]

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        once: bool = False,
        at: str = "",
        patience: float | None = None,
    ) -> Answer:
        """The answer to a request, if it is no failure of the server's own (5xx).

        It begins within *patience*, which is that of the pace if none is given, and then goes on as long as the server
        does not fall silent. With *once*, no second server is asked when one may have heard it; with *at*, only that
        one is.

        Raises:
            StoreUnavailable: there is none.
        """
        loop = asyncio.get_running_loop()
        head = {**(headers or {}), "Content-Length": str(len(body))} if body else headers
        end = loop.time() + (patience or self.pace.patience)
        candidates = [at] if at else list(self._addresses)
        failures: list[str] = []
        for left, address in zip(range(len(candidates), 0, -1), candidates, strict=True):
            heard = True
            try:
                async with asyncio.timeout_at(end if once else loop.time() + (end - loop.time()) / left) as limit:
                    answer = await self._ask(
                        method, self._url(address, path), _spent(body) if once else body, head, limit
                    )
                if answer.status < 500:
                    return answer
                failures.append(f"{address}: status {answer.status}: {answer.text}")
            except _FAILURES as error:
                heard = not isinstance(error, _UNHEARD)
                failures.append(f"{address}: {_reason(error)}")
            self._pass_over(address)
            if once and heard:
                break
        raise self.unavailable("; ".join(failures))

    @asynccontextmanager
    async def stream(
        self, path: str, body: bytes, headers: Mapping[str, str], at: str
    ) -> AsyncIterator[ClientResponse]:
        """The answer of the server *at* to a POST, while it goes on.

        Raises:
            StoreUnavailable: it did not begin, or broke off.
        """
        try:
            async with asyncio.timeout(self.pace.patience):
                response = await self._client().post(self._url(at, path), data=body, headers=headers, ssl=self._ssl())
            try:
                yield response
            finally:
                response.close()
        except _FAILURES as error:
            self._pass_over(at)
            raise self.unavailable(f"{at}: {_reason(error)}") from error

    async def news(self, news: Awaitable[_T], beat: Callable[[], Awaitable[bool]]) -> _T | None:
        """The result of *news*, however long that takes; None once a *beat*, done in between, says that it is in vain.

        A server that was paused, or whose machine is gone, is noticed by its beat alone, which fails.
        """
        task = asyncio.ensure_future(news)
        try:
            while not (await asyncio.wait({task}, timeout=self.pace.patience / 2))[0]:
                if not await beat():
                    return None
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def unavailable(self, reason: str) -> StoreUnavailable:
        """The error that this store cannot be had, for this *reason*."""
        return StoreUnavailable(f"the shared store ({self._kind}) is not to be had: {reason}")

    def unexpected(self, answer: Answer) -> StoreUnavailable:
        """The error that a server gave an *answer* that no rule covers."""
        hint = "; is this the right port?" if answer.status in {404, 405} else ""
        return self.unavailable(f"it answered with status {answer.status}: {answer.text}{hint}")

    def decode(self, body: bytes, kind: type[_T]) -> _T:
        """The JSON *body* as a value of this *kind*; etcd writes numbers as text."""
        try:
            return msgspec.json.decode(body, type=kind, strict=False)
        except msgspec.MsgspecError as error:
            raise self.unavailable(f"its answer is not understood ({error}): is this the right port?") from error

    async def close(self) -> None:
        """Let go of all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(
        self,
        method: str,
        url: str,
        body: bytes | AsyncIterator[bytes],
        headers: Mapping[str, str] | None,
        limit: asyncio.Timeout,
    ) -> Answer:
        """What a server says at *url*, for as long as it goes on; until it begins there is *limit*."""
        async with self._client().request(
            method, url, data=body or None, headers=headers, ssl=self._ssl(), allow_redirects=False
        ) as response:
            parts: list[bytes] = []
            async for part in response.content.iter_any():
                limit.reschedule(asyncio.get_running_loop().time() + self.pace.patience)
                parts.append(part)
            return Answer(response.status, response.headers, b"".join(parts))

    def _client(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession(timeout=_UNTIMED, cookie_jar=DummyCookieJar())
        return self._session

    def _url(self, address: str, path: str) -> str:
        return f"{'https' if self._tls else 'http'}://{address}{path}"

    def _ssl(self) -> ssl.SSLContext | bool:
        return self._tls or True

    def _pass_over(self, address: str) -> None:
        """Ask *address* last from now on."""
        self._addresses.remove(address)
        self._addresses.append(address)


async def _spent(body: bytes) -> AsyncIterator[bytes]:
    """*Body* as a stream, which can be sent only once: aiohttp would send a PUT again when a kept connection breaks."""
    yield body


def _reason(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
