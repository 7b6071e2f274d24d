"""The way to OpenBao: what is sent along, what is read back, and what the token file must be."""

from __future__ import annotations

import asyncio
import base64
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from schemas.keys import MainKeyUri
from workers.errors import KmsThrottled, KmsUnreachable, NotConfigured, WrapRefused
from workers.kms.openbao.client import OpenBaoClient
from workers.kms.openbao.failures import ApiAnswer
from workers.kms.openbao.main_key import OpenBaoKms
from workers.runtime.settings import Settings

URI = MainKeyUri.parse("openbao:transit/k")
TOKEN = "s.verysecrettoken"
MATERIAL = bytes.fromhex("c0ffee00" * 8)
Handler = Callable[[web.Request], Any]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return write(tmp_path / "token", TOKEN + "\n")


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@asynccontextmanager
async def serving(handler: Handler, token_file: Path, **options: Any) -> AsyncIterator[OpenBaoKms]:
    """An adapter on a server that answers everything by `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    kms = OpenBaoKms(OpenBaoClient(address=address, token_file=token_file, **{"timeout_seconds": 1.0, **options}))
    try:
        yield kms
    finally:
        await kms.close()
        await runner.cleanup()


def describing(handler: Handler, token_file: Path, **options: Any) -> None:
    async def play() -> None:
        async with serving(handler, token_file, **options) as kms:
            await kms.main_key(URI).describe()

    asyncio.run(play())


def key_that_reads(**changes: Any) -> web.Response:
    found = {"type": "aes256-gcm96", "latest_version": 1, "derived": False, "soft_deleted": False}
    return web.json_response({"data": found | changes})


def test_what_is_sent_along(token_file: Path) -> None:
    """A request names token and namespace in its headers, and nothing of them in its path."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return key_that_reads()

    describing(handler, token_file, namespace="team/a")
    assert seen[0].path == "/v1/transit/keys/k"
    assert seen[0].headers["X-Vault-Token"] == TOKEN
    assert seen[0].headers["X-Vault-Namespace"] == "team/a"


@pytest.mark.parametrize("status", [200, 204, 301, 307, 400, 404, 412, 472, 473, 500, 502, 503])
@pytest.mark.parametrize("body", [b"", b"<html>not found</html>", b"[]", b"null", b'{"errors": "x"}', b"\xff"])
def test_what_is_no_answer_of_the_api_says_nothing(token_file: Path, status: int, body: bytes) -> None:
    """A proxy's page, an empty body or a server's failure is no answer: nothing locks by it."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, body=b"" if status == 204 else body)

    with pytest.raises(KmsUnreachable):
        describing(handler, token_file)


@pytest.mark.parametrize("sentence", ["internal error", "local node not active but active cluster node not found"])
@pytest.mark.parametrize("status", [400, 500, 503])
def test_a_sentence_we_do_not_know_says_nothing(token_file: Path, status: int, sentence: str) -> None:
    """A failure in words that are not in the table is no answer."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"errors": [sentence]}, status=status)

    with pytest.raises(KmsUnreachable):
        describing(handler, token_file)


def test_throttling_is_told_apart(token_file: Path) -> None:
    """429 raises KmsThrottled, whatever its body."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=429)

    with pytest.raises(KmsThrottled):
        describing(handler, token_file)


def test_a_redirect_is_not_followed(token_file: Path) -> None:
    """The token is never carried to whomever a redirect names."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    with pytest.raises(KmsUnreachable):
        describing(handler, token_file)
    assert asked == ["/v1/transit/keys/k"]


def test_a_connection_that_was_closed_is_tried_once_more(token_file: Path) -> None:
    """A dropped connection costs a second request, counted; a second drop is no answer."""
    drops = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal drops
        drops -= 1
        if drops >= 0 and request.transport is not None:
            request.transport.close()
        return web.json_response({"data": {"plaintext": base64.b64encode(MATERIAL).decode()}})

    async def play() -> None:
        nonlocal drops
        blob = b"vault:v1:" + b"QUJD" * 20
        async with serving(handler, token_file) as kms:
            drops = 1
            assert (await kms.main_key(URI).unwrap(blob, {})).material == MATERIAL
            assert kms.calls == {"decrypt": 2}
            drops = 2
            with pytest.raises(KmsUnreachable):
                await kms.main_key(URI).unwrap(blob, {})
            assert kms.calls == {"decrypt": 4}

    asyncio.run(play())


def test_nobody_listening_is_no_answer(token_file: Path) -> None:
    """A refused connection is unreachable."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    kms = OpenBaoKms(OpenBaoClient(address=f"http://127.0.0.1:{port}", token_file=token_file))

    async def play() -> None:
        try:
            with pytest.raises(KmsUnreachable):
                await kms.main_key(URI).describe()
        finally:
            await kms.close()

    asyncio.run(play())


def test_no_more_requests_at_once_than_allowed(token_file: Path) -> None:
    """Concurrency is bounded, and waiting for room does not count as time."""
    now, most = 0, 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.1)
        now -= 1
        return key_that_reads()

    async def play() -> None:
        async with serving(handler, token_file, concurrency=2, timeout_seconds=0.3) as kms:
            await asyncio.gather(*(kms.main_key(URI).describe() for _ in range(12)))

    asyncio.run(play())
    assert most == 2


def test_a_server_that_ignores_associated_data_is_refused(token_file: Path) -> None:
    """R6: where a wrap opens under any context, the key is unusable, and the refusal says why."""
    held = ""

    async def handler(request: web.Request) -> web.Response:
        nonlocal held
        body = await request.json()
        if "encrypt" in request.path:
            held = body["plaintext"]
            return web.json_response({"data": {"ciphertext": "vault:v1:" + "QUJD" * 20}})
        return web.json_response({"data": {"plaintext": held}})

    async def play() -> None:
        async with serving(handler, token_file) as kms:
            with pytest.raises(Exception, match="ignores associated data"):
                await kms.main_key(URI).wrap(MATERIAL, {})

    asyncio.run(play())


def test_a_wrap_that_opens_to_other_material_is_refused(token_file: Path) -> None:
    """R6: a wrap is opened and compared before it is returned."""

    async def handler(request: web.Request) -> web.Response:
        if "encrypt" in request.path:
            return web.json_response({"data": {"ciphertext": "vault:v1:" + "QUJD" * 20}})
        return web.json_response({"data": {"plaintext": "QUJD" * 10 + "QUI="}})

    async def play() -> None:
        async with serving(handler, token_file) as kms:
            with pytest.raises(WrapRefused):
                await kms.main_key(URI).wrap(MATERIAL, {})

    asyncio.run(play())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666])
def test_a_token_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Any permission of group or others closes the provider."""
    with pytest.raises(NotConfigured, match="chmod 600"):
        describing(web_never, write(tmp_path / "token", TOKEN, mode))


@pytest.mark.parametrize("text", ["", "\n", "two words", "a\nb", "s.\x01", "ünicode", "x" * 4097])
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    """What could not be a header's value is no token; what stands in the file never shows (R10)."""
    with pytest.raises(NotConfigured) as caught:
        describing(web_never, write(tmp_path / "token", text))
    assert not text.strip() or text not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("place", ["missing", "folder", "none"])
def test_without_a_token_file_it_is_closed(tmp_path: Path, place: str) -> None:
    """No file, a folder in its place or no setting: closed, with the remedy, and nothing is asked."""
    path: Any = {"missing": tmp_path / "no", "folder": tmp_path, "none": None}[place]
    with pytest.raises(NotConfigured, match="KEYREPACK_OPENBAO_TOKEN_FILE"):
        describing(web_never, path)


async def web_never(_: web.Request) -> web.Response:
    raise AssertionError("nothing may be asked")


def test_a_new_token_counts_at_once(token_file: Path) -> None:
    """A token file that is replaced counts from the next request on."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["X-Vault-Token"])
        return key_that_reads()

    async def play() -> None:
        async with serving(handler, token_file) as kms:
            await kms.main_key(URI).describe()
            write(token_file.with_name("new"), "s.another").replace(token_file)
            await kms.main_key(URI).describe()

    asyncio.run(play())
    assert seen == [TOKEN, "s.another"]


def test_nothing_shows_the_token(token_file: Path) -> None:
    """Neither reprs, nor errors and their tracebacks, nor settings show the token (R10)."""

    async def handler(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.close()
        return web.Response()

    async def play() -> str:
        async with serving(handler, token_file) as kms:
            with pytest.raises(KmsUnreachable) as caught:
                await kms.main_key(URI).describe()
            said = [repr(kms), repr(kms.client), repr(kms.main_key(URI)), repr(vars(caught.value))]
            chain = [caught.value, caught.value.__cause__]
            return "".join([*said, *traceback.format_exception(caught.value), *(repr(each) for each in chain)])

    said = asyncio.run(play())
    assert TOKEN not in said
    assert "unreachable" in said.lower()


def test_an_answers_repr_shows_nothing_of_it() -> None:
    """An answer holds plaintext, or what a token is: its repr has the status alone (R10)."""
    assert TOKEN not in repr(ApiAnswer(status=200, data={"plaintext": TOKEN}))


@pytest.mark.parametrize(
    "address",
    [
        "http://bao.example.com:8200",
        "ftp://127.0.0.1",
        "127.0.0.1:8200",
        "https://",
        "https://user:pw@bao.example.com",
        "https://bao.example.com?x=1",
    ],
)
def test_an_address_that_is_not_private_is_refused(address: str) -> None:
    """Plaintext keys travel to it: TLS, or the machine itself."""
    with pytest.raises(ValidationError, match="openbao_address"):
        Settings(openbao_address=address)


@pytest.mark.parametrize("address", ["https://bao.example.com:8200", "http://127.0.0.1:8200", "http://[::1]:8200"])
def test_a_private_address_is_taken(address: str) -> None:
    """TLS anywhere, plain HTTP on loopback."""
    assert Settings(openbao_address=address).openbao_address == address
