"""Access to AWS accounts: through which role, and which other region, each account's main keys are reached.

The file (setting `aws_access_file`, JSON)::

    {"111122223333": {"role_arn": "arn:aws:iam::111122223333:role/keyrepack", "external_id": "…",
                      "backup_region": "eu-central-1"}}

Every field may be left out. Without a role calls are made as keyrepack's own principal; without a backup region a
multi-region key is opened where its ARN says, and nowhere else. The file is read once a process.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from workers.errors import NotConfigured

MAX_FILE_BYTES = 4 * 1024 * 1024
"""An entry is about 200 bytes: enough for 20,000 accounts."""

Account = Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")]
RoleArn = Annotated[
    str, StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,512}$", max_length=600)
]
ExternalId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+=,.@:/-]{2,1224}$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")]


@dataclass(frozen=True, slots=True)
class RoleToAssume:
    """A role to assume, and the external id that its trust policy asks for."""

    arn: str
    external_id: str | None = None


class AccountAccess(BaseModel):
    """How the main keys of one account are reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role_arn: RoleArn | None = None
    external_id: ExternalId | None = Field(default=None)
    backup_region: Region | None = None

    @model_validator(mode="after")
    def _says_something(self) -> AccountAccess:
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("an external_id goes with a role_arn")
        if self.role_arn is None and self.backup_region is None:
            raise ValueError("give a role_arn, a backup_region or both, or take the account out")
        return self

    @property
    def role(self) -> RoleToAssume | None:
        """Return the role to assume, or None."""
        return None if self.role_arn is None else RoleToAssume(self.role_arn, self.external_id)


Access = Mapping[str, AccountAccess]
"""By account."""

_FILE = TypeAdapter(dict[Account, AccountAccess])


def read_access(path: Path) -> Access:
    """Read the table in a file. Raises NotConfigured, which says what is wrong and where; never half of a table."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise _unusable(path, f"It is longer than {MAX_FILE_BYTES} bytes.")
        return _FILE.validate_python(json.loads(raw, object_pairs_hook=_without_doubles))
    except OSError as error:
        raise _unusable(path, f"{error.strerror}.") from error
    except ValidationError as error:
        raise _unusable(path, _first_error(error)) from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"It is not JSON as it should be: {error}.") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object as it is written: of two entries of one name JSON would silently keep the last."""
    names = Counter(name for name, _ in pairs)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise ValueError(f"{', '.join(twice)} is there more than once")
    return dict(pairs)


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the file"
    said = "an account is 12 digits" if "[key]" in first["loc"] else first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}."


def _unusable(path: Path, why: str) -> NotConfigured:
    return NotConfigured(
        f"The AWS access file {path} cannot be used.", why, "Correct it, or unset KEYREPACK_AWS_ACCESS_FILE."
    )
