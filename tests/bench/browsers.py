"""Browsers on the dashboard, in one cheap process: each asks for what a page and its script ask for, and draws nothing.

A real browser would take this machine's cores for drawing, which in the field other machines do.

The process is told `watch` and `leave`, a line each, and answers each with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

WATCH, LEAVE = "watch", "leave"
OVERVIEW = "/overview"
PATIENCE_SECONDS = 60.0
"""How long it may take until every browser follows its page."""

LIVE = re.compile(r'data-live="([^"]+)"')
FORM = re.compile(r'name="csrf" value="([^"]+)"')
RUN = re.compile(r'href="(/repacks/[0-9a-f-]+)"')
SIGNATURE = re.compile(r'data-signature="([^"]*)"')
ASSET = re.compile(r'(?:href|src)="(/static/[^"]+)"')
REFRESH = ("hx-request: true", "hx-trigger: actions", "hx-target: actions")
"""What htmx says of itself when it asks for the buttons again."""


@dataclass(slots=True)
class Seen:
    """What browsers were sent, from `watch` to `leave`."""

    events: int = 0
    event_bytes: int = 0
    pages: int = 0  # loaded, or asked for again by the script
    page_bytes: int = 0
    on_run: int = 0  # browsers that came to the run's own page
    broken: list[str] = field(default_factory=list)  # streams that ended otherwise than by `leave`


# What the bench holds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Browsers:
    """The process, and how it is told what to do."""

    process: subprocess.Popen[str]

    def watch(self) -> None:
        """Open the overview in all of them; half go to the page of the first run that it shows."""
        self._told(WATCH)

    def leave(self) -> Seen:
        """Close every page. What was seen since `watch`."""
        return Seen(**self._told(LEAVE))

    def _told(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return _answer(self.process)


@contextmanager
def running_browsers(address: str, names: list[str], password: str) -> Iterator[Browsers]:
    """A browser for each name, signed in."""
    argv = [sys.executable, "-m", "tests.bench.browsers", address, password, *names]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            _answer(process)
            yield Browsers(process)
        finally:
            process.kill()


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("The browsers' process has ended: what it said is above.")
    found: dict[str, Any] = json.loads(line)
    return found


# The process ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Browser:
    """One of them. `wants_run`: it leaves the overview for the page of the first run that is shown there."""

    host: str
    port: int
    wants_run: bool
    cookies: dict[str, str] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    follows: asyncio.Event = field(default_factory=asyncio.Event)

    async def sign_in(self, name: str, password: str) -> None:
        """Through the door, as a person does; and the files that a browser keeps."""
        form = _found(FORM, await self._ask("GET", "/sign-in"))
        await self._ask("POST", "/sign-in", {"csrf": form, "name": name, "password": password, "next": OVERVIEW})
        for asset in ASSET.findall(await self._ask("GET", OVERVIEW)):
            await self._ask("GET", asset)

    async def watch(self) -> None:
        """Follow the overview, and then a run, until cancelled."""
        path = OVERVIEW
        while True:
            path = await self._follow(path)

    async def _follow(self, path: str) -> str:
        """Follow a page. Where it goes from there: to a run, or to the same page again where its stream ends."""
        page = await self._load(path)
        signature = _signature(page)
        async with aclosing(self._listen(_found(LIVE, page))) as events:
            async for kind, data in events:
                if kind == "ended":
                    return path
                self.follows.set()
                regions: Mapping[str, str] = json.loads(data)
                if path == OVERVIEW and self.wants_run and (run := RUN.search(regions.get("live_runs", ""))):
                    self.seen.on_run = 1
                    return run[1]
                if (now := _signature(regions.get("live_state", ""), signature)) != signature:
                    signature = now
                    await self._load(path, *REFRESH)
        raise ConnectionError("The stream ended without a word.")

    async def _load(self, path: str, *headers: str) -> str:
        page = await self._ask("GET", path, headers=headers)
        self.seen.pages += 1
        self.seen.page_bytes += len(page)
        return page

    async def _listen(self, path: str) -> AsyncIterator[tuple[str, str]]:
        """(kind, data) of each event of a stream."""
        reader, writer = await self._open("GET", path, accept="text/event-stream")
        rest = b""
        try:
            await self._head(reader)
            while size := int(await reader.readline(), 16):
                self.seen.event_bytes += size
                *whole, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n\n")
                for kind, data in filter(None, map(_event, whole)):
                    self.seen.events += 1
                    yield kind, data
        finally:
            writer.close()

    async def _ask(
        self, method: str, path: str, form: Mapping[str, str] | None = None, *, headers: tuple[str, ...] = ()
    ) -> str:
        """The body of an answer."""
        reader, writer = await self._open(method, path, urlencode(form or {}), "connection: close", *headers)
        try:
            await self._head(reader)
            return (await reader.read()).decode()
        finally:
            writer.close()

    async def _open(
        self, method: str, path: str, body: str = "", *headers: str, accept: str = "text/html"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        lines = [
            f"{method} {path} HTTP/1.1",
            f"host: {self.host}:{self.port}",
            f"accept: {accept}",
            f"cookie: {'; '.join(f'{name}={value}' for name, value in self.cookies.items())}",
            *headers,
        ]
        if body:
            lines += ["content-type: application/x-www-form-urlencoded", f"content-length: {len(body)}"]
        writer.write("\r\n".join([*lines, "", body]).encode())
        return reader, writer

    async def _head(self, reader: asyncio.StreamReader) -> None:
        """Read the head of an answer, and keep its cookies. Raises ConnectionError for a refusal."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        for line in lines:
            name, _, value = line.partition(": ")
            if name == "set-cookie":
                cookie, _, content = value.partition(";")[0].partition("=")
                self.cookies[cookie] = content
        if int(first.split()[1]) >= 400:
            raise ConnectionError(f"The dashboard answered {first}.")


def _event(block: bytes) -> tuple[str, str] | None:
    """(kind, data); None for what a browser's script is not told of."""
    lines = dict(line.split(": ", 1) for line in block.decode().splitlines() if not line.startswith(":"))
    return (lines["event"], lines["data"]) if "event" in lines else None


def _signature(html: str, otherwise: str = "") -> str:
    """What the page's script looks at: when it changes, what may be done to the run is asked for again."""
    found = SIGNATURE.search(html)
    return found[1] if found else otherwise


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    assert match is not None, f"{pattern.pattern} is not in {text[:500]}"
    return match[1]


async def _main(address: str, password: str, names: list[str]) -> None:
    place = urlsplit(address)
    assert place.hostname is not None
    assert place.port is not None
    browsers = [
        Browser(host=place.hostname, port=place.port, wants_run=bool(number % 2)) for number in range(len(names))
    ]
    for browser, name in zip(browsers, names, strict=True):
        await browser.sign_in(name, password)
    _say({})
    tasks: list[asyncio.Task[None]] = []
    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if word == WATCH:
            tasks = await _watch(browsers)
            _say({})
        else:
            _say(asdict(await _leave(browsers, tasks)))


async def _watch(browsers: list[Browser]) -> list[asyncio.Task[None]]:
    """Open all of them. Returns when each has been told what is on its page."""
    for browser in browsers:
        browser.seen = Seen()
        browser.follows.clear()
    tasks = [asyncio.create_task(browser.watch()) for browser in browsers]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(browser.follows.wait() for browser in browsers))
    return tasks


async def _leave(browsers: list[Browser], tasks: list[asyncio.Task[None]]) -> Seen:
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    broken = [f"{type(end).__name__}: {end}" for end in ends if not isinstance(end, asyncio.CancelledError)]
    counts = ("events", "event_bytes", "pages", "page_bytes", "on_run")
    return Seen(**{name: sum(getattr(one.seen, name) for one in browsers) for name in counts}, broken=broken)


def _say(document: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3:]))
