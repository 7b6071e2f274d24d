"""events schema, publish, rejected; doctor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from producers.publisher import MemoryPublisher
from schemas.events import INBOUND, OUTBOUND, read_event
from tests.unit.cli.conftest import Keyrepack
from workers.events.receiving import take_event
from workers.events.sources import Sources


def test_the_schema_has_every_event(bare: Keyrepack) -> None:
    """The contract with other services, without any database."""
    document = json.loads(bare("events", "schema").out)
    assert document["inbound"].keys() == INBOUND.keys()
    assert document["outbound"].keys() == OUTBOUND.keys()
    assert bare.done("events", "schema") == document


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", "malformed_json"),
        ("{}", "malformed_event"),
        ('{"specversion":"1.0","id":"1","source":"s","type":"x","data":{}}', "unknown_type"),
        ('{"specversion":"1.0","id":"1","source":"s","type":"main_key.rotated","data":{}}', "malformed_data"),
    ],
)
def test_an_event_that_is_none_is_not_published(bare: Keyrepack, body: str, code: str) -> None:
    """It is refused here, with the reason that it would be rejected for."""
    file = bare.folder / "event.json"
    file.write_text(body)
    answer = bare("events", "publish", str(file), "--json")
    assert (answer.status, answer.error["code"]) == (1, code)


def test_publishing_without_a_broker_fails_in_a_sentence(bare: Keyrepack) -> None:
    """The broker does not answer: check it."""
    file = bare.folder / "event.json"
    data = {"environment": "00000000-0000-0000-0000-000000000000"}
    event: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "s", "type": "main_key.rotated", "data": data}
    file.write_text(json.dumps(event))
    answer = bare("events", "publish", str(file), "--json")
    assert (answer.status, answer.error["code"]) == (1, "broker_away")


def test_a_file_that_is_not_there_is_told(bare: Keyrepack) -> None:
    """By its name."""
    answer = bare("events", "publish", str(bare.folder / "nowhere.json"))
    assert answer.status == 1
    assert "nowhere.json cannot be read" in answer.err


def test_rejected_events_are_listed_with_their_reason(keyrepack: Keyrepack) -> None:
    """As text and as a document."""
    services = keyrepack.services()
    take_event(services, b"{", sources=Sources(None, allow_unsigned=True))
    services.close()
    document = keyrepack.done("events", "rejected")
    assert [(one["code"], one["body"]) for one in document["rejected"]] == [("malformed_json", "{")]
    assert "malformed_json" in keyrepack("events", "rejected").out


def test_doctor_names_what_is_wrong_and_what_to_do(seeded: Keyrepack) -> None:
    """The broker is away; everything else is as it must be."""
    answer = seeded("doctor", "--json")
    assert answer.status == 1
    found = {one["check"]: one["ok"] for one in answer.document["findings"]}
    assert found == {
        "settings": True,
        "database": True,
        "room in the database": True,
        "managed key": True,
        "main key of acme/production": True,
        "broker": False,
    }
    assert "KEYREPACK_BROKER_URL" in seeded("doctor").out


def test_doctor_goes_on_past_a_database_that_is_not_there(bare: Keyrepack) -> None:
    """One fault does not hide another, and nothing is made."""
    answer = bare("doctor", "--json")
    assert answer.status == 1
    assert [one["check"] for one in answer.document["findings"] if not one["ok"]] == [
        "database",
        "managed key",
        "broker",
    ]
    assert list(bare.folder.iterdir()) == []


def test_doctor_finds_a_main_key_that_is_gone(seeded: Keyrepack) -> None:
    """The managed key's file was lost: its environments are named."""
    (seeded.folder / "managed.key").unlink()
    answer = seeded("doctor", "--json")
    faults = [one["check"] for one in answer.document["findings"] if not one["ok"]]
    assert faults == ["managed key", "main key of acme/production", "broker"]


def test_doctor_names_a_wrong_setting(bare: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its only finding: nothing else can be looked at."""
    monkeypatch.setenv("KEYREPACK_CACHE_TTL", "3000")
    answer = bare("doctor", "--json")
    assert [one["check"] for one in answer.document["findings"]] == ["settings"]
    assert "KEYREPACK_CACHE_TTL" in answer.document["findings"][0]["detail"]


def test_a_secret_key_goes_into_a_file_of_its_own(bare: Keyrepack) -> None:
    """Mode 0600, never over another one, and never to the terminal; --show prints it instead."""
    file = bare.folder / "console.key"
    answer = bare("events", "keygen", str(file), "--json")
    assert answer.document["public"].startswith("whpk_")
    assert "whsk_" not in answer.out + answer.err
    assert (file.stat().st_mode & 0o777, file.read_text()[:5]) == (0o600, "whsk_")
    before = file.read_text()
    assert bare("events", "keygen", str(file)).status == 1
    assert file.read_text() == before
    assert bare.done("events", "keygen", "--show")["secret"].startswith("whsk_")
    assert bare("events", "keygen").status == 2


def test_an_event_is_signed_with_the_keys_in_files(bare: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its source's table takes it; a key that others can read is not used."""
    publisher = MemoryPublisher()
    monkeypatch.setattr("producers.publisher.KombuPublisher", lambda _url: publisher)
    file, event, table = (bare.folder / name for name in ("console.key", "event.json", "sources.json"))
    public = bare.done("events", "keygen", str(file))["public"]
    body = {"specversion": "1.0", "id": "1", "source": "/console", "type": "main_key.revoked"}
    event.write_text(json.dumps(body | {"data": {"workspace": "acme"}}))
    source = {"source": "/console", "keys": [public], "workspaces": ["acme"], "types": ["main_key.revoked"]}
    table.write_text(json.dumps({"sources": [source]}))
    assert bare.done("events", "publish", str(event), "--key-file", str(file))["signatures"] == 1
    [(sent, _)], [headers] = publisher.published, publisher.headers
    assert Sources(table).verify(read_event(sent), sent, headers).source.source == "/console"
    file.chmod(0o644)
    answer = bare("events", "publish", str(event), "--key-file", str(file), "--json")
    assert (answer.status, answer.error["code"]) == (1, "not_configured")
    assert len(publisher.published) == 1


def test_doctor_prints_the_statement_that_is_missing(keyrepack: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where AWS denied: the very statement, for the policy that lacks it."""
    from workers.cli.doctor_checks import CheckResult, Checkup

    statement = {"Sid": "KeyrepackMissing", "Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": "*"}
    finding = CheckResult(check="main key of acme/production", ok=False, detail="denied", statement=statement)
    monkeypatch.setattr("workers.cli.doctor_checks.examine", lambda _reference: Checkup(findings=[finding]))
    assert keyrepack("doctor", "--json").document["findings"][0]["statement"] == statement
    assert '"kms:Decrypt"' in keyrepack("doctor").out
