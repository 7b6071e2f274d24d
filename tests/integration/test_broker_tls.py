"""TLS to the broker, by what crosses the wire: every role speaks TLS, and only to a broker that it has verified."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from producers.publisher import BrokerAway, KombuPublisher
from tests.poll import poll
from workers import compose
from workers.broker.broker_check import count_dead_letters
from workers.broker.queue_depths import broker_of
from workers.celery_app.app import make_app
from workers.runtime.settings import Settings
from workers.store.database import Database
from workers.store.schema import migrate

PASSWORD = "hunter2-on-the-wire"
HANDSHAKE = b"\x16\x03"
"""How a TLS client begins: a record of type handshake."""


@dataclass
class Connection:
    """What came over one connection: its first bytes, and what was said inside TLS."""

    first: bytes = b""
    inside: bytes = b""


@dataclass
class Eavesdropper:
    """A server that answers a TLS handshake with its own certificate and writes down what it is told."""

    folder: Path
    connections: list[Connection] = field(default_factory=list)
    port: int = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Eavesdropper]:
        """Accept connections for the length of the block."""
        _write_certificate(self.folder, "localhost")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
            threading.Thread(target=self._accept, args=(server, context), daemon=True).start()
            yield self

    def _accept(self, server: socket.socket, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                threading.Thread(target=self._hear, args=(client, context), daemon=True).start()

    def _hear(self, client: socket.socket, context: ssl.SSLContext) -> None:
        heard = Connection()
        client.settimeout(5)
        with client, contextlib.suppress(OSError):
            heard.first = client.recv(2, socket.MSG_PEEK)
            self.connections.append(heard)
            with context.wrap_socket(client, server_side=True) as inside:
                heard.inside = inside.recv(4096)

    def url(self, scheme: str, host: str = "localhost", **query: str) -> str:
        """A broker's URL that leads here."""
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{scheme}://keyrepack:{PASSWORD}@{host}:{self.port}/0" + (f"?{asked}" if asked else "")


def _write_certificate(folder: Path, name: str) -> None:
    """A certificate that signs itself: it is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)


@pytest.fixture
def eavesdropper(tmp_path: Path) -> Iterator[Eavesdropper]:
    """A server of no use but to listen."""
    with Eavesdropper(tmp_path).listening() as server:
        yield server


def publish(settings: Settings) -> None:
    """A service that publishes an event."""
    publisher = KombuPublisher(settings.broker_url.get_secret_value())
    with contextlib.suppress(BrokerAway):
        publisher.publish(b"{}", routing_key="main_key.rotated")
    publisher.close()


def ask_doctor(settings: Settings) -> None:
    """Doctor's look at the broker."""
    assert count_dead_letters(settings.broker_url.get_secret_value()) is None


def count_queues(settings: Settings) -> None:
    """What dashboard and metrics count."""
    broker = broker_of(settings.broker_url.get_secret_value())
    assert not broker.count().answers
    broker.close()


def send_wake_up(settings: Settings) -> None:
    """A process that sends a task through Celery, as a waker and beat do."""
    with make_app(settings).connection_for_write() as connection, contextlib.suppress(Exception):
        connection.ensure_connection(max_retries=1, timeout=2)


def ask_budget(settings: Settings) -> None:
    """The budget of KMS calls that all processes share."""
    asyncio.run(compose._kms_budget(settings).take("here"))


def notify_others(settings: Settings) -> None:
    """What tells other processes of a lock."""
    notifier = compose.broker_notifier(settings)
    notifier.notify([uuid4()])
    notifier.close()


def run_process(command: str) -> Callable[[Settings], None]:
    """A process of the product, until it has come to the broker."""

    def run(settings: Settings) -> None:
        environment = os.environ | {
            "KEYREPACK_BROKER_URL": settings.broker_url.get_secret_value(),
            "KEYREPACK_DATABASE_URL": settings.database_url.get_secret_value(),
        }
        database = Database(settings.database_url.get_secret_value())
        migrate(database)
        database.close()
        log = Path(str(database.engine.url.database)).with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", command], env=environment, stdout=output, stderr=output
            )
        try:
            poll(lambda: log.read_text().count(FAILURES[command]), 60, f"the {command} has tried")
            assert process.poll() is None, "it waits for its broker"
        finally:
            process.kill()
            process.wait(20)

    return run


FAILURES = {"worker": "Cannot connect", "beat": "Connection error"}
"""What a process logs of a broker that it cannot use, before it tries again."""

ROLES: dict[str, Callable[[Settings], None]] = {
    "publisher": publish,
    "doctor": ask_doctor,
    "queues": count_queues,
    "waker": send_wake_up,
    "worker": run_process("worker"),
    "beat": run_process("beat"),
}
REDIS_ROLES = ROLES | {"budget": ask_budget, "notifier": notify_others}
CASES = [("rediss", name) for name in REDIS_ROLES] + [("amqps", name) for name in ROLES]


def settings_for(url: str, folder: Path) -> Settings:
    """Settings that lead to the server."""
    return Settings(broker_url=SecretStr(url), database_url=SecretStr(f"sqlite:///{folder}/keyrepack.db"))


@pytest.mark.parametrize(("scheme", "role"), CASES)
def test_every_role_begins_with_tls_and_tells_a_stranger_nothing(
    eavesdropper: Eavesdropper, tmp_path: Path, scheme: str, role: str
) -> None:
    """Its first bytes are a handshake's, and a certificate of nobody it knows ends the connection."""
    REDIS_ROLES[role](settings_for(eavesdropper.url(scheme), tmp_path))
    assert eavesdropper.connections, "it has come"
    assert {each.first for each in eavesdropper.connections} == {HANDSHAKE}
    assert {each.inside for each in eavesdropper.connections} == {b""}


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
@pytest.mark.parametrize("role", ["publisher", "waker"])
def test_a_broker_with_the_right_certificate_is_spoken_to(
    eavesdropper: Eavesdropper, tmp_path: Path, scheme: str, role: str
) -> None:
    """What the test above finds empty is not empty because nobody ever speaks."""
    url = eavesdropper.url(scheme, ssl_ca_certs=str(tmp_path / "cert.pem"))
    REDIS_ROLES[role](settings_for(url, tmp_path))
    said = {"rediss": PASSWORD.encode(), "amqps": b"AMQP"}[scheme]
    poll(lambda: any(said in each.inside for each in eavesdropper.connections), 10, "it has said something")


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_a_certificate_for_another_name_is_refused(eavesdropper: Eavesdropper, tmp_path: Path, scheme: str) -> None:
    """An authority that is trusted signs for many hosts: the name is compared as well, unless the URL says not to."""
    authority = str(tmp_path / "cert.pem")
    publish(settings_for(eavesdropper.url(scheme, host="127.0.0.1", ssl_ca_certs=authority), tmp_path))
    assert {each.inside for each in eavesdropper.connections} == {b""}
    lenient = eavesdropper.url(scheme, host="127.0.0.1", ssl_ca_certs=authority, ssl_check_hostname="false")
    publish(settings_for(lenient, tmp_path))
    poll(lambda: any(each.inside for each in eavesdropper.connections), 10, "it has said something")
