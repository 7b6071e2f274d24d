"""main-key list, policy, upload, revoke, restore; what an environment's lock and interval look like."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from schemas.keys import MainKeyUri
from schemas.states import LockCause
from tests.unit.cli.conftest import Keyrepack
from workers.store import main_keys
from workers.store.environments import find_environment, lock_environment, set_lock

ARN = "arn:aws:kms:eu-west-1:111122223333:key/11111111-2222-3333-4444-555555555555"
PRINCIPAL = "arn:aws:iam::999999999999:role/keyrepack"


def lock(keyrepack: Keyrepack, cause: LockCause, detail: str) -> None:
    """As a look at the main key would have locked it."""
    services = keyrepack.services()
    with services.database.write() as connection:
        environment = lock_environment(connection, find_environment(connection, "acme/production").id)
        set_lock(connection, environment.id, cause=cause, detail=detail)
    services.close()


def uploaded(keyrepack: Keyrepack, material: bytes) -> tuple[str, Path]:
    """Parameters, and a file with `material` wrapped for them."""
    params = keyrepack.done("main-key", "upload-params", "acme/production")
    public = serialization.load_pem_public_key(params["public_key"].encode())
    assert isinstance(public, rsa.RSAPublicKey)
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    file = keyrepack.folder / "wrapped.bin"
    file.write_bytes(public.encrypt(material, oaep))
    return params["params_id"], file


def test_main_keys_are_listed_with_what_hangs_from_them(seeded: Keyrepack) -> None:
    """Environments, state, generations and roots; nobody has looked yet."""
    [view] = seeded.done("main-key", "list")["main_keys"]
    assert (view["uri"], view["health"], view["last_seen"]) == ("managed:", "unseen", None)
    assert [user["name"] for user in view["environments"]] == ["acme/production"]
    assert [group["roots"] for group in view["roots"]] == [5]
    assert (view["stale_roots"], view["hides_generation"]) == (0, False)
    assert "acme/production" in seeded("main-key", "list").out


def test_stale_roots_are_named_while_a_move_is_open(moving: Keyrepack) -> None:
    """The oldest root that has no wrap by the new generation, and where it is."""
    [view] = moving.done("main-key", "list")["main_keys"]
    assert view["stale_roots"] == 5
    assert view["oldest_stale"]["environment"] == "acme/production"
    assert "oldest stale root" in moving("main-key", "list").out


def test_an_installation_without_main_keys_says_what_to_do(keyrepack: Keyrepack) -> None:
    """The next command."""
    assert "keyrepack environment create" in keyrepack("main-key", "list").out


def test_a_policy_holds_each_use_to_the_environment(seeded: Keyrepack) -> None:
    """For a key that is to be adopted; the encryption context is its condition."""
    document = seeded.done(
        "main-key", "policy", "acme/production", "--main-key", f"aws-kms:{ARN}", "--principal", PRINCIPAL
    )
    statements = document["customer"]["keys"][ARN]["Statement"]
    used = next(one for one in statements if "kms:Decrypt" in one["Action"])
    assert used["Principal"] == {"AWS": PRINCIPAL}
    assert document["environment_id"] in json.dumps(used["Condition"])
    assert document["operator"]["worker"]["Statement"][0]["Resource"] == [ARN]
    assert document["without_policy"] == ["managed:"]
    told = seeded("main-key", "policy", "acme/production", "--main-key", f"aws-kms:{ARN}", "--principal", PRINCIPAL)
    assert f"The customer adds to the policy of {ARN}" in told.out


def test_a_policy_without_a_principal_is_refused(seeded: Keyrepack) -> None:
    """Closed when not configured: nobody is allowed by accident."""
    answer = seeded("main-key", "policy", "acme/production", "--json")
    assert (answer.status, answer.error["code"]) == (1, "not_configured")
    assert "KEYREPACK_AWS_PRINCIPAL_ARN" in answer.error["remedy"]


def test_a_key_is_uploaded_put_in_force_and_deleted(seeded: Keyrepack) -> None:
    """From the public key to a repack onto it; deleted, it is gone, and every reader with it."""
    material = os.urandom(32)
    params, file = uploaded(seeded, material)
    uri = seeded.done("main-key", "upload", params, str(file))["main_key"]
    assert MainKeyUri.parse(uri).scheme == "uploaded"
    seeded.done("main-key", "replace", "acme/production", uri)
    seeded.work()
    assert seeded.done("environment", "show", "acme/production")["main_key"] == uri
    [repack] = seeded.done("repack", "list")["repacks"]
    assert "It stays needed: it seals" in seeded.done("certificate", repack["id"])["statement"]
    assert seeded.done("main-key", "delete-upload", uri, "--reason", "as asked for")["deleted"] is True
    assert seeded.done("main-key", "delete-upload", uri, "--reason", "as asked for")["deleted"] is False
    assert seeded("verify", "acme/production").status == 1


@pytest.mark.parametrize(
    ("material", "code"), [(b"k" * 32, "upload_all_bytes_equal"), (b"short", "upload_wrong_length")]
)
def test_what_is_no_key_is_refused(seeded: Keyrepack, material: bytes, code: str) -> None:
    """With a code of its own; nothing of it is in the answer."""
    params, file = uploaded(seeded, material)
    answer = seeded("main-key", "upload", params, str(file), "--json")
    assert (answer.status, answer.error["code"]) == (1, code)


def test_a_wrong_algorithm_costs_no_try(seeded: Keyrepack) -> None:
    """It is a wrong use, found before the parameters are looked at."""
    params, file = uploaded(seeded, os.urandom(32))
    for _ in range(6):
        assert seeded("main-key", "upload", params, str(file), "--algorithm", "rsa").status == 2
    seeded.done("main-key", "upload", params, str(file))
    answer = seeded("main-key", "upload", params, str(file), "--json")
    assert answer.error["code"] == "upload_params_spent"


def test_deleting_needs_a_reason(seeded: Keyrepack) -> None:
    """It cannot be taken back: somebody has to say why."""
    assert seeded("main-key", "delete-upload", "uploaded:11111111-2222-3333-4444-555555555555").status == 2


def test_a_workspace_is_revoked_and_given_back(seeded: Keyrepack) -> None:
    """All its environments; the lock is shown with its cause, since when, and why."""
    seeded.done("environment", "create", "acme/staging")
    found = seeded.done("main-key", "revoke", "acme", "--reason", "asked by phone")["environments"]
    assert [(one["environment"], one["lock"], one["changed"]) for one in found] == [
        ("acme/production", "revoked", True),
        ("acme/staging", "revoked", True),
    ]
    shown = seeded.done("environment", "show", "acme/production")
    assert (shown["lock"], shown["lock_detail"]) == ("revoked", "asked by phone")
    assert abs(shown["locked_at"] - time.time()) < 60
    assert "locked since" in seeded("environment", "show", "acme/production").out
    answer = seeded("main-key", "replace", "acme/production", "managed:", "--json")
    assert answer.error["code"] == "environment_locked"
    restored = seeded.done("main-key", "restore", "acme/staging")["environments"]
    assert [(one["lock"], one["changed"]) for one in restored] == [(None, True)]
    assert [one["changed"] for one in seeded.done("main-key", "restore", "acme")["environments"]] == [True, False]


@pytest.mark.parametrize("scope", ["nobody", "acme/nowhere", "00000000-0000-0000-0000-000000000000"])
def test_revoking_what_is_not_there_is_told(seeded: Keyrepack, scope: str) -> None:
    """Nothing is done in silence."""
    answer = seeded("main-key", "revoke", scope, "--reason", "x", "--json")
    assert (answer.status, answer.error["code"]) == (1, "not_found")


def test_the_interval_holds_and_an_override_is_audited(seeded: Keyrepack) -> None:
    """A second replacement within a day says when it is possible; a reason overrides."""
    uris = []
    for _ in range(3):
        params, file = uploaded(seeded, os.urandom(32))
        uris.append(seeded.done("main-key", "upload", params, str(file))["main_key"])
    for uri in uris[:2]:  # the adoption counts for nothing
        seeded.done("main-key", "replace", "acme/production", uri)
        seeded.work()
    next_at = seeded.done("environment", "show", "acme/production")["next_replacement"]
    assert 86_000 < next_at - time.time() <= 86_400
    refused = seeded("main-key", "replace", "acme/production", uris[2], "--json")
    assert (refused.status, refused.error["code"]) == (1, "replaced_too_soon")
    planned = seeded("main-key", "replace", "acme/production", uris[2], "--dry-run", "--json")
    assert [one["code"] for one in planned.document["blockers"]] == ["replaced_too_soon"]
    override = ("--override", "the key has leaked")
    assert seeded.done("main-key", "replace", "acme/production", uris[2], "--dry-run", *override)["blockers"] == []
    seeded.done("main-key", "replace", "acme/production", uris[2], *override)


def test_a_certificate_says_from_when_it_holds(moving: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups keep wraps of the old main key for as long as the operator has said."""
    monkeypatch.setenv("KEYREPACK_BACKUP_RETENTION", "86400")
    moving.work()
    document = moving.done("certificate", "acme/production")
    assert document["holds_from"] == document["closed_at"] + 86_400
    assert "holds from" in moving("certificate", "acme/production").out


def test_a_certificate_of_loss_names_every_key(seeded: Keyrepack) -> None:
    """Of an environment that is lost, and of no other."""
    answer = seeded("certificate", "--loss", "acme/production", "--json")
    assert (answer.status, answer.error["code"]) == (1, "not_found")
    lock(seeded, LockCause.LOST, "deleted")
    names = seeded.folder / "lost.jsonl"
    document = seeded.done("certificate", "--loss", "acme/production", "--names", str(names))
    assert document["keys"] == 55
    named: list[dict[str, Any]] = [json.loads(line) for line in names.read_text().splitlines()]
    assert len({one["key"] for one in named}) == 55
    assert "can ever be opened again" in seeded("certificate", "--loss", "acme/production").out


@pytest.mark.parametrize("arguments", [[], ["acme/production", "--loss", "acme/production"], ["x", "--names", "y"]])
def test_a_certificate_is_of_one_thing(seeded: Keyrepack, arguments: list[str]) -> None:
    """A repack, or an environment's loss."""
    assert seeded("certificate", *arguments).status == 2


@pytest.mark.parametrize("cause", list(LockCause))
def test_doctor_says_what_ends_a_lock(seeded: Keyrepack, cause: LockCause) -> None:
    """Each lock has its cause, since when, and a remedy of its own; the main key is listed as last seen."""
    lock(seeded, cause, "it says so")
    answer = seeded("doctor", "acme/production", "--json")
    found = next(one for one in answer.document["findings"] if one["detail"].startswith("Locked"))
    assert f"{cause}. it says so" in found["detail"]
    ends = {
        LockCause.REVOKED: "main-key restore",
        LockCause.RESTRICTED: "unlocks",
        LockCause.LOST: "certificate --loss",
    }
    assert ends[cause] in found["remedy"]
    assert [one["uri"] for one in answer.document["main_keys"]] == ["managed:"]
    assert "as last seen" in seeded("doctor").out


def test_doctor_of_an_environment_that_is_not_there(seeded: Keyrepack) -> None:
    """It is a fault among the others."""
    answer = seeded("doctor", "acme/nowhere", "--json")
    assert "environment" in [one["check"] for one in answer.document["findings"] if not one["ok"]]


def test_what_is_created_in_a_revoked_workspace_says_so(seeded: Keyrepack) -> None:
    """Locked from its beginning, and given back with the others."""
    seeded.done("main-key", "revoke", "acme", "--reason", "asked by phone")
    assert "locked, its workspace is revoked" in seeded("environment", "create", "acme/staging").out
    shown = seeded.done("environment", "show", "acme/staging")
    assert (shown["lock"], shown["lock_detail"]) == ("revoked", "asked by phone")
    given_back = seeded.done("main-key", "restore", "acme")["environments"]
    assert [(one["environment"], one["lock"]) for one in given_back] == [
        ("acme/production", None),
        ("acme/staging", None),
    ]


def test_the_managed_keys_generations_are_listed_with_what_hangs_from_each(seeded: Keyrepack) -> None:
    """The old one is needed as long as a root hangs from it."""
    fresh = seeded.done("managed-key", "rotate")["generation"]
    old, new = seeded.done("managed-key", "list")["generations"]
    assert (old["roots"], old["is_needed"]) == (5, True)
    assert (new["generation"], new["roots"], new["is_current"]) == (fresh, 0, True)
    seeded.done("main-key", "replace", "acme/production", "managed:", "--mode", "shallow")
    seeded.work()
    assert "needed for nothing" in seeded("managed-key", "list").out


def test_a_hidden_generation_is_told(seeded: Keyrepack) -> None:
    """The status says that the roots are rewrapped on a timer, and how often."""
    services = seeded.services()
    with services.database.write() as connection:
        main_keys.register(connection, interval=300)
        seen = {"generation": None, "cause": None, "detail": "", "answered": True}
        main_keys.record_poll(connection, "managed:", **seen, usual=300)
    services.close()
    [view] = seeded.done("main-key", "list")["main_keys"]
    assert (view["hides_generation"], view["rewrapped_every_days"]) == (True, 90)
    assert "rewrapped on a timer, every 90 days" in seeded("main-key", "list").out
