"""Peers: OpenBao's transit engine rewraps as many rows in the same PostgreSQL, read and written back by a plain client.

Its wraps are bound to nothing and not compared: transit does not rewrap what was made with associated data.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
from rich.table import Table

from tests.bench.outcome import Outcome, console
from tests.bench.stack import Bench, running_bench, seconds_of
from tests.servers import OpenBaoServer, running_openbao
from workers.store.repacks import Repack

AT_ONCE = 499
"""Wraps in one request: OpenBao's tutorial keeps to it."""

KEY = "peer"
TRANSIT = "team/transit"
TIMES_FASTER = 5

CREATE = "CREATE TABLE peer_keys (id bigint PRIMARY KEY, ciphertext text NOT NULL) WITH (fillfactor = 50)"
READ = "SELECT id, ciphertext FROM peer_keys WHERE id > %s ORDER BY id LIMIT %s"
WRITE = "UPDATE peer_keys SET ciphertext = %s WHERE id = %s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen."""
    parser.add_argument("--peer-keys", type=int, default=200_000, help="data keys of the peers bench (200,000)")


def measure(asked: argparse.Namespace) -> Outcome:
    """Ours, then the peer, one after the other in one run and one database."""
    keys = asked.peer_keys
    with running_bench("postgresql") as bench, running_openbao() as bao:
        ours = _measure_ours(bench, keys, asked.roots)
        console.print(f"  keyrepack: {ours:,.0f} keys/s")
        with Peer(bench.database_url, bao) as peer:
            peer.seed(keys)
            theirs = max(peer.rewrap(keys, version) for version in (2, 3))
        console.print(f"  OpenBao transit: {theirs:,.0f} keys/s")
    ratio = round(ours / theirs, 2)
    figures = {"data_keys": keys, "keyrepack": round(ours), "openbao_transit": round(theirs), "ratio": ratio}
    missed = [f"{ratio} times as fast as the peer, not {TIMES_FASTER}"] if ratio < TIMES_FASTER else []
    return Outcome(figures={"peers": figures}, table=_table(figures), missed=missed)


def _measure_ours(bench: Bench, keys: int, roots: int) -> float:
    """The better of two deep repacks, from the event's taking to the end."""
    environment = bench.seed("main", data_keys=keys, roots=roots)
    rates: list[float] = []
    last: Repack | None = None
    for _ in range(2):
        bench.replace(environment, str(bench.simulator.create_main_key()))
        last = bench.wait_for_end(environment, after=last)
        rates.append(keys / seconds_of(last))
    return max(rates)


class Peer:
    """A plain client: one connection to the database, one to OpenBao, a batch after the other."""

    def __init__(self, database_url: str, bao: OpenBaoServer) -> None:
        """Connect, and make the key."""
        self._database = psycopg.connect(database_url.replace("+psycopg", ""))
        self._http = http.client.HTTPConnection(urlsplit(bao.address).netloc, timeout=60)
        self._headers = {"X-Vault-Token": bao.root_token, "Content-Type": "application/json"}
        self._bao = bao
        bao.ask("POST", f"{TRANSIT}/keys/{KEY}", {"type": "aes256-gcm96"})

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of both connections."""
        self._http.close()
        self._database.close()

    def seed(self, keys: int) -> None:
        """As many wraps of 32 bytes each."""
        self._database.execute(CREATE)
        with self._database.cursor() as cursor, cursor.copy("COPY peer_keys FROM STDIN") as copy:
            for first in range(1, keys + 1, AT_ONCE):
                ids = range(first, min(first + AT_ONCE, keys + 1))
                plain = [{"plaintext": base64.b64encode(os.urandom(32)).decode()} for _ in ids]
                for row in zip(ids, self._batch("encrypt", plain), strict=True):
                    copy.write_row(row)
        self._database.commit()
        with _autocommit(self._database):
            self._database.execute("VACUUM (ANALYZE) peer_keys")

    def rewrap(self, keys: int, version: int) -> float:
        """Rotate, and move every row to the key's new version: rows a second."""
        self._bao.ask("POST", f"{TRANSIT}/keys/{KEY}/rotate")
        started, after, seen = time.monotonic(), 0, 0
        while rows := self._database.execute(READ, (after, AT_ONCE)).fetchall():
            fresh = self._batch("rewrap", [{"ciphertext": ciphertext} for _, ciphertext in rows])
            assert all(ciphertext.startswith(f"vault:v{version}:") for ciphertext in fresh)
            with self._database.cursor() as cursor:
                cursor.executemany(WRITE, [(wrap, row) for wrap, (row, _) in zip(fresh, rows, strict=True)])
            self._database.commit()
            after, seen = rows[-1][0], seen + len(rows)
        assert seen == keys
        return keys / (time.monotonic() - started)

    def _batch(self, operation: str, items: list[dict[str, str]]) -> list[str]:
        """One request; the ciphertexts, in order."""
        body = json.dumps({"batch_input": items})
        self._http.request("POST", f"/v1/{TRANSIT}/{operation}/{KEY}", body, self._headers)
        answer: dict[str, Any] = json.loads(self._http.getresponse().read())
        return [item["ciphertext"] for item in answer["data"]["batch_results"]]


@contextmanager
def _autocommit(connection: psycopg.Connection[Any]) -> Iterator[None]:
    connection.autocommit = True
    yield
    connection.autocommit = False


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=f"{figures['data_keys']:,} data keys in one PostgreSQL, durable commits")
    for name in ("keyrepack", "OpenBao transit", "ratio"):
        table.add_column(name, justify="right")
    table.add_row(f"{figures['keyrepack']:,}/s", f"{figures['openbao_transit']:,}/s", str(figures["ratio"]))
    return table
