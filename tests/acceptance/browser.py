"""A person at the dashboard of a live `keyrepack up`: headless Chromium, the machine's own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from pydantic import SecretStr

from producers.publisher import KombuPublisher
from schemas.events import Event
from tests.poll import poll
from workers.cli.seed_tree import seed_hierarchy
from workers.compose import build_services
from workers.dashboard.auth.users import Role, Users
from workers.embedded.simulator import SimulatorClient
from workers.keyring.keyring import Keyring
from workers.runtime.settings import Settings

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 30_000
START_SECONDS = 90.0
PASSWORD = "correct horse battery staple"
FRESH = {name: value for name, value in os.environ.items() if not name.startswith(("KEYREPACK_", "AWS_"))}
SMALL = {
    "KEYREPACK_REPLACEMENT_INTERVAL": "0",
    "KEYREPACK_BATCH_SIZE": "100",
    "KEYREPACK_SHARD_SIZE": "200",
    "KEYREPACK_KMS_PROBE_SECONDS": "0.5",
    "KEYREPACK_KMS_PROBE_MAX_SECONDS": "1",
    "KEYREPACK_SWEEP_SECONDS": "1",
    "KEYREPACK_DASHBOARD_POLL_SECONDS": "0.3",
}
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}


def chromium() -> str | None:
    """The machine's own; no other one is fetched."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Up:
    """A stack that stands, and what a test does to it beside the browser."""

    def __init__(self, folder: Path, text: str) -> None:
        lines = (folder / "environment").read_text().splitlines()
        pairs = (shlex.split(line.removeprefix("export "))[0].partition("=") for line in lines)
        self.environment = {name: value for name, _, value in pairs}
        self.folder, self.text = folder, text
        self.address = _found(r"dashboard +(http\S+)", text)
        self.password = _found(r"one-time password (\S+)", text)
        self.simulator = SimulatorClient(self.environment["AWS_ENDPOINT_URL_KMS"])
        self.users = Users(Path(self.environment["KEYREPACK_USERS_FILE"]))

    def done(self, *arguments: str) -> Any:
        """The document of a command that succeeds."""
        command = [sys.executable, "-m", "workers.cli", *arguments, "--json"]
        done = subprocess.run(
            command, env=FRESH | SMALL | self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def fill(self, *places: str) -> None:
        """Environments with a small hierarchy each, made in this process: a command takes seconds to start."""
        settings = Settings(
            database_url=SecretStr(self.environment["KEYREPACK_DATABASE_URL"]),
            managed_key_file=Path(self.environment["KEYREPACK_MANAGED_KEY_FILE"]),
        )
        services = build_services(settings)
        try:
            for place in places:
                workspace, _, name = place.partition("/")
                Keyring(services).create_environment(workspace, name, main_key="managed:", actor="test")
                seed_hierarchy(Keyring(services), place, connections=3, hourly=6, data=600)
        finally:
            services.close()

    def user(self, name: str, role: Role) -> None:
        """Somebody of a role, with the password of all of them."""
        self.users.add_with_password(name, role)
        self.users.choose_password(name, PASSWORD)

    def publish(self, event: Event) -> None:
        """As another service would."""
        publisher = KombuPublisher(self.environment["KEYREPACK_BROKER_URL"])
        try:
            publisher.publish(event.to_bytes(), routing_key=event.type)
        finally:
            publisher.close()

    @contextmanager
    def frozen_worker(self) -> Iterator[None]:
        """The worker and its child stand still: what was started stays where it is."""
        leader = int(_found(r"worker-1 +(\d+)", self.text))
        os.killpg(leader, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(leader, signal.SIGCONT)

    @contextmanager
    def rows(self) -> Iterator[sqlite3.Connection]:
        """The database's rows, past the engine."""
        connection = sqlite3.connect(self.folder / "keyrepack.db", timeout=30)
        try:
            with connection:
                yield connection
        finally:
            connection.close()


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match.group(1)


@contextmanager
def standing(folder: Path) -> Iterator[Up]:
    """`keyrepack up` with small batches, for the length of a block."""
    data = folder / "data"
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "up", "--data-dir", str(data), "--workers", "1"],
        env=FRESH | SMALL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    text = ""
    try:
        for line in process.stdout:
            text += line
            if "live until Ctrl-C" in line:
                break
        assert (data / "environment").exists(), text
        yield Up(data, text)
    finally:
        process.terminate()
        process.communicate(timeout=300)


class Person:
    """Somebody with a browser of their own. What the browser complains of is kept."""

    def __init__(self, browser: Browser, up: Up, **options: Any) -> None:
        self.up = up
        self.context: BrowserContext = browser.new_context(base_url=up.address, **options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def sign_in(self, name: str, password: str = PASSWORD) -> Person:
        """Through the door."""
        self.page.goto("/")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        return self

    def act(self, name: str, reason: str = "a test") -> None:
        """Open an act, give a reason, and do it."""
        actions = self.page.locator("#actions, [aria-label=Actions]").first
        actions.locator("summary", has_text=re.compile(f"^{name}$")).click()
        form = actions.locator("details[open]")
        form.get_by_label("Why").fill(reason)
        form.get_by_role("button", name=name).click()

    def sees(self, text: str | re.Pattern[str], within: str = "main") -> None:
        """It is there, or comes by itself."""
        expect(self.page.locator(within)).to_contain_text(text, timeout=PATIENCE_MS)

    def close(self) -> None:
        """Close the browser's window."""
        self.context.close()

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "status of 4" not in text:
            self.complaints.append(text)


@contextmanager
def running_browser(executable: str) -> Iterator[Browser]:
    """A Chromium that reaches nothing but this machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def until_ended(up: Up, environment: str, state: str) -> dict[str, Any]:
    """The environment's newest repack, once it is in a state."""

    def look() -> dict[str, Any] | None:
        found = up.done("repack", "show", environment)
        return found if found["state"] == state else None

    found = poll(look, START_SECONDS, f"{environment} is {state}")
    assert found is not None
    return found
