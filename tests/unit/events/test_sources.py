"""Who may say what: the table of sources, and whether a message is by the one it names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producers.signing import generate_key, sign
from schemas.errors import EventRejected
from schemas.events import Event, read_event
from workers.errors import NotConfigured
from workers.events.sources import Sender, Sources, read_sources

OLD, NEW, FOREIGN = generate_key(), generate_key(), generate_key()
CONSOLE: dict[str, Any] = {
    "source": "/console",
    "keys": [OLD.public, NEW.public],
    "workspaces": ["acme"],
    "types": ["main_key.revoked", "main_key.rotated"],
}
BUS: dict[str, Any] = {"source": "bus", "trusted": True, "workspaces": ["*"], "types": ["main_key.changed"]}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a sources file: JSON of entries, or text as it is."""

    def written(*entries: dict[str, Any], text: str | None = None, name: str = "sources.json") -> Path:
        path = tmp_path / name
        fresh = tmp_path / "fresh"
        fresh.write_text(json.dumps({"sources": entries}) if text is None else text)
        os.replace(fresh, path)
        return path

    return written


def event(source: str = "/console", kind: str = "main_key.revoked", at: str = "e-1") -> tuple[Event, bytes]:
    body = json.dumps(
        {"specversion": "1.0", "id": at, "source": source, "type": kind, "data": {"workspace": "acme"}}
    ).encode()
    return read_event(body), body


def verify(sources: Sources, headers: dict[str, str], source: str = "/console", body: bytes | None = None) -> Sender:
    taken, written = event(source)
    return sources.verify(taken, body or written, headers)


def code_of(sources: Sources, headers: dict[str, str], **more: Any) -> str:
    try:
        verify(sources, headers, **more)
    except EventRejected as error:
        return error.code if error.remedy else "without a remedy"
    return "verified"


def test_everything_is_refused_where_nothing_is_configured() -> None:
    """Closed when not configured: signed or not, an event's source is unknown."""
    assert code_of(Sources(None), {}) == "unknown_source"
    assert code_of(Sources(None), sign("e-1", event()[1], OLD.secret)) == "unknown_source"


def test_everyone_is_believed_only_where_that_is_set_and_no_file_is(write: Write) -> None:
    """`allow_unsigned_events` opens an installation without a sources file, and no other."""
    assert code_of(Sources(None, allow_unsigned=True), {}) == "verified"
    assert code_of(Sources(write(CONSOLE), allow_unsigned=True), {}) == "unsigned"
    assert code_of(Sources(write(CONSOLE), allow_unsigned=True), {}, source="other") == "unknown_source"


@pytest.mark.parametrize("keys", [[OLD], [NEW], [FOREIGN, NEW]], ids=["old", "new", "one-of-two"])
def test_any_key_of_the_source_verifies(write: Write, keys: list[Any]) -> None:
    """While keys are rotated, a signature by the old or the new one is enough, beside others."""
    headers = sign("e-1", event()[1], [key.secret for key in keys])
    sender = verify(Sources(write(CONSOLE)), headers)
    assert sender.signed_at == int(headers["webhook-timestamp"])


def test_forgeries_are_refused(write: Write) -> None:
    """A foreign key, another body, another id and a cut signature are each a bad signature; none is unsigned."""
    sources, body = Sources(write(CONSOLE)), event()[1]
    good = sign("e-1", body, OLD.secret)
    assert code_of(sources, good) == "verified"
    assert code_of(sources, {}) == "unsigned"
    assert code_of(sources, sign("e-1", body, FOREIGN.secret)) == "bad_signature"
    assert code_of(sources, sign("e-2", body, OLD.secret)) == "bad_signature"
    assert code_of(sources, good, body=body + b" ") == "bad_signature"
    assert code_of(sources, good | {"webhook-timestamp": str(int(good["webhook-timestamp"]) + 1)}) == "bad_signature"
    assert code_of(sources, good | {"webhook-signature": good["webhook-signature"][:-4]}) == "bad_signature"
    assert code_of(sources, {name: good[name] for name in good if name != "webhook-id"}) == "bad_signature"


def test_a_key_of_another_source_proves_nothing(write: Write) -> None:
    """A source's key signs for that source alone."""
    other = CONSOLE | {"source": "other", "keys": [FOREIGN.public]}
    assert code_of(Sources(write(CONSOLE, other)), sign("e-1", event()[1], FOREIGN.secret)) == "bad_signature"


def test_a_trusted_source_needs_no_signature_and_a_false_one_still_counts(write: Write) -> None:
    """Trusted and unsigned is taken; where it has keys, a signature that is there has to be right."""
    keyed = BUS | {"keys": [OLD.public]}
    assert code_of(Sources(write(BUS)), {}, source="bus") == "verified"
    assert code_of(Sources(write(keyed)), {}, source="bus") == "verified"
    forged = sign("e-1", event("bus")[1], FOREIGN.secret)
    assert code_of(Sources(write(keyed)), forged, source="bus") == "bad_signature"


@pytest.mark.parametrize(
    ("kind", "workspaces", "allowed"),
    [
        ("main_key.revoked", {"acme"}, True),
        ("main_key.revoked", {"other"}, False),
        ("main_key.revoked", {"acme", "other"}, False),
        ("main_key.revoked", set(), False),
        ("main_key.replaced", {"acme"}, False),
    ],
)
def test_a_source_is_held_to_its_workspaces_and_types(
    write: Write, kind: str, workspaces: set[str], allowed: bool
) -> None:
    """All workspaces concerned have to be the source's, and the type; what is not there is nobody's but `*`'s."""
    source = read_sources(write(CONSOLE))["/console"]
    assert source.may(kind, workspaces) == allowed
    assert source.model_copy(update={"workspaces": frozenset({"*"})}).may(kind, workspaces) == (
        kind != "main_key.replaced"
    )


@pytest.mark.parametrize(("late", "kind", "code"), [
    (299, "main_key.rotated", ""), (301, "main_key.rotated", "stale_signature"), (-301, "main_key.rotated",
    "stale_signature"), (10**7, "main_key.revoked", ""), (301, "main_key.restored", "stale_signature"),
])  # fmt: skip
def test_only_a_revocation_may_be_late(write: Write, late: float, kind: str, code: str) -> None:
    """Past the tolerance a signature is stale, in the future too; an authentic revocation holds however late."""
    sender = Sender(source=read_sources(write(CONSOLE))["/console"], signed_at=1000)
    taken, _ = event(kind=kind)
    if not code:
        sender.require_fresh(taken, 1000 + late, 300)
        return
    with pytest.raises(EventRejected) as caught:
        sender.require_fresh(taken, 1000 + late, 300)
    assert caught.value.code == code


def test_toml_says_the_same(write: Write) -> None:
    """A file named .toml is read as TOML."""
    lists = f'keys = ["{OLD.public}"]\nworkspaces = ["acme"]\ntypes = ["main_key.revoked"]\n'
    text = f'[[sources]]\nsource = "/console"\n{lists}'
    assert read_sources(write(text=text, name="sources.toml"))["/console"].keys == (OLD.public,)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no keys": ({"keys": []}, "sources.0: .*no keys and is not trusted"),
    "a secret key": ({"keys": [OLD.secret]}, "sources.0.keys: .*key 0: .*whpk_"),
    "a cut key": ({"keys": [OLD.public[:-8]]}, "sources.0.keys: .*key 0"),
    "an unknown type": ({"types": ["main_key.gone"]}, "sources.0.types: .*main_key.gone: there are main_key.replaced"),
    "no types": ({"types": []}, "sources.0.types"),
    "no workspaces": ({"workspaces": []}, "sources.0.workspaces"),
    "a misspelt field": ({"trust": True}, "sources.0.trust: Extra"),
    "trusted as text": ({"trusted": "yes"}, "sources.0.trusted"),
}


@pytest.mark.parametrize(("change", "why"), WRONG.values(), ids=[name.replace(" ", "-") for name in WRONG])
def test_a_wrong_entry_is_named(write: Write, change: dict[str, Any], why: str) -> None:
    """What is wrong in a sources file is said with its place; a secret put there by mistake is not repeated (R10)."""
    with pytest.raises(NotConfigured, match=why) as caught:
        read_sources(write(CONSOLE | change))
    assert OLD.secret.removeprefix("whsk_") not in str(caught.value)


def test_wrong_files_are_named(write: Write, tmp_path: Path) -> None:
    """A source named twice, a file that is not JSON, and one that is not there each say so."""
    with pytest.raises(NotConfigured, match="/console is there more than once"):
        read_sources(write(CONSOLE, CONSOLE))
    with pytest.raises(NotConfigured, match="It is not JSON"):
        read_sources(write(text="{"))
    with pytest.raises(NotConfigured, match="No such file"):
        read_sources(tmp_path / "absent.json")


def test_a_changed_file_is_read_again(write: Write) -> None:
    """A key taken out of the file opens nothing from the next event on."""
    sources = Sources(write(CONSOLE))
    headers = sign("e-1", event()[1], OLD.secret)
    assert code_of(sources, headers) == "verified"
    write(CONSOLE | {"keys": [NEW.public]})
    assert code_of(sources, headers) == "bad_signature"


def test_a_file_that_breaks_leaves_the_former_table(write: Write) -> None:
    """A file broken or removed while we run changes nothing; one that was never right lets nothing through."""
    path = write(CONSOLE)
    sources, headers = Sources(path), sign("e-1", event()[1], OLD.secret)
    assert code_of(sources, headers) == "verified"
    write(text="{")
    assert code_of(sources, headers) == "verified"
    with pytest.raises(NotConfigured):
        verify(Sources(path), headers)
    path.unlink()
    assert code_of(sources, headers) == "verified"
