"""The file that says how accounts are reached: what is read, and every mistake named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workers.errors import NotConfigured
from workers.kms.aws.access import RoleToAssume, read_access

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/team/keyrepack"


def written(folder: Path, content: Any) -> Path:
    path = folder / "access.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_account_has_a_role_and_a_backup_region(tmp_path: Path) -> None:
    """Role, external id and backup region are read by account; each may be left out."""
    whole = {"role_arn": ROLE, "external_id": "e-1", "backup_region": "eu-central-1"}
    table = read_access(written(tmp_path, {ACCOUNT: whole, "444455556666": {"backup_region": "us-gov-east-1"}}))
    assert (table[ACCOUNT].role, table[ACCOUNT].backup_region) == (RoleToAssume(ROLE, "e-1"), "eu-central-1")
    assert (table["444455556666"].role, table["444455556666"].backup_region) == (None, "us-gov-east-1")
    assert read_access(written(tmp_path, {})) == {}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "the file: .*dictionary"),
        ({"1111": {"role_arn": ROLE}}, "1111: an account is 12 digits"),
        ({"１１１１２２２２３３３３": {"role_arn": ROLE}}, "an account is 12 digits"),
        ({ACCOUNT: None}, f"{ACCOUNT}: "),
        ({ACCOUNT: {}}, f"{ACCOUNT}: give a role_arn, a backup_region or both"),
        ({ACCOUNT: {"role": ROLE}}, f"{ACCOUNT}.role: Extra inputs"),
        ({ACCOUNT: {"role_arn": "keyrepack"}}, f"{ACCOUNT}.role_arn: "),
        ({ACCOUNT: {"role_arn": "arn:aws:iam::111122223333:user/x"}}, f"{ACCOUNT}.role_arn: "),
        ({ACCOUNT: {"role_arn": ROLE + "\n"}}, f"{ACCOUNT}.role_arn: "),
        ({ACCOUNT: {"role_arn": ROLE, "external_id": "x"}}, f"{ACCOUNT}.external_id: "),
        ({ACCOUNT: {"role_arn": ROLE, "external_id": "a b"}}, f"{ACCOUNT}.external_id: "),
        ({ACCOUNT: {"external_id": "e-1", "backup_region": "eu-west-1"}}, "an external_id goes with a role_arn"),
        ({ACCOUNT: {"backup_region": "europe"}}, f"{ACCOUNT}.backup_region: "),
        (f'{{"{ACCOUNT}": {{"role_arn": "{ROLE}"}}, "{ACCOUNT}": {{}}}}', f"{ACCOUNT} is there more than once"),
        (" " * 5_000_000, "longer than"),
    ],
)
def test_a_malformed_file_is_refused_whole(tmp_path: Path, content: Any, why: str) -> None:
    """Nothing of a file with a mistake is used, and the error says which account and field, and what it should be."""
    with pytest.raises(NotConfigured, match=why) as caught:
        read_access(written(tmp_path, content))
    assert "access.json" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is configured and not there is no empty file."""
    with pytest.raises(NotConfigured, match="No such file"):
        read_access(tmp_path / "none.json")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused like any other that is not JSON."""
    path = tmp_path / "access.json"
    path.write_bytes(b"\xff\x00\xff{")
    with pytest.raises(NotConfigured, match="not JSON"):
        read_access(path)
