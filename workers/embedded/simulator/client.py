"""The control API from Python: blocking, standard library alone."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from schemas.keys import MainKeyUri

_TIMEOUT_SECONDS = 30.0
"""A control call is answered at once; this is for a machine with no memory left."""


class SimulatorRefused(Exception):
    """The control API did not take a request; the text says why."""


class SimulatorClient:
    """Does to simulated keys what a customer, or bad luck, would. Keys are named by ARN."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # No proxy: the environment's may not reach this machine's loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point AWS's SDKs here. Credentials are made up: the simulator checks none."""
        return {
            "AWS_ENDPOINT_URL_KMS": self.url,
            "AWS_ENDPOINT_URL_STS": self.url,
            "AWS_ACCESS_KEY_ID": "simulator",
            "AWS_SECRET_ACCESS_KEY": "simulator",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def create_key(self, **fields: Any) -> str:
        """Create a key; return its ARN. `region`, `account`, `allow`, `policy`, `key_spec`, `key_usage`, `origin`,
        `multi_region` …
        """
        return str(self.request("POST", "keys", fields)["arn"])

    def create_main_key(self, **fields: Any) -> MainKeyUri:
        """Create a key; return it as the URI of a main key."""
        return MainKeyUri("aws-kms", self.create_key(**fields))

    def replicate(self, key: str, region: str, **fields: Any) -> str:
        """Replicate a multi-region key in another region; return its ARN. `allow` or `policy` as for a new key."""
        return str(self.request("POST", "keys/replicate", {"key": key, "region": region, **fields})["arn"])

    def put_role(self, role_arn: str, *, external_id: str | None = None, trusts: list[str] | None = None) -> str:
        """Make a role, or change who may assume it: `trusts` are accounts, the default one where None."""
        fields = {"role_arn": role_arn, "external_id": external_id}
        self.request("PUT", "roles", fields if trusts is None else {**fields, "trusts": trusts})
        return role_arn

    def delete_role(self, role_arn: str) -> None:
        """Delete a role; its sessions live until they expire."""
        self.request("DELETE", f"roles?{urllib.parse.urlencode({'role_arn': role_arn})}")

    def describe_keys(self) -> list[dict[str, Any]]:
        """List every key: arn, state, generation, generations …"""
        return list(self.request("GET", "keys"))

    def rotate(self, key: str) -> str:
        """Rotate on demand, as its owner; returns the new generation."""
        return str(self.request("POST", "keys/rotate", {"key": key})["generation"])

    def set_state(self, key: str, state: str) -> None:
        """Put a key into a KeyState: Enabled, Disabled, PendingDeletion, PendingImport, Unavailable …"""
        self.request("PUT", "keys/state", {"key": key, "state": state})

    def delete(self, key: str) -> None:
        """Delete a key now, for good."""
        self.set_state(key, "Deleted")

    def allow(self, key: str, *accounts: str) -> None:
        """Set a key's policy: its owner and `accounts` may do everything, no one else anything."""
        self.request("PUT", "keys/policy", {"key": key, "allow": accounts})

    def deny(self, key: str) -> None:
        """Set a key's policy: no one may do anything. `allow` gives it back."""
        self.request("PUT", "keys/policy", {"key": key, "policy": {"Version": "2012-10-17", "Statement": []}})

    def set_policy(self, key: str, policy: dict[str, Any]) -> None:
        """Set a key's policy to a document."""
        self.request("PUT", "keys/policy", {"key": key, "policy": policy})

    def hide_material_id(self, key: str, *, hidden: bool = True) -> None:
        """Leave material ids out of a key's answers, as older regions and custom key stores do."""
        self.request("PUT", "keys/material-id", {"key": key, "hidden": hidden})

    def inject(self, kind: str, **fields: Any) -> int:
        """Put a fault in force, by its number: error, throttle, delay, drop, hang. `key`, `operation`, `count` …"""
        return int(self.request("POST", "faults", {"kind": kind, **fields})["number"])

    def clear_faults(self, *, number: int | None = None, key: str | None = None) -> int:
        """End one fault, a key's faults, or all; returns how many."""
        query = {name: value for name, value in (("number", number), ("key", key)) if value is not None}
        return int(self.request("DELETE", f"faults?{urllib.parse.urlencode(query)}")["cleared"])

    def advance_clock(self, *, seconds: float = 0, days: float = 0) -> float:
        """Put the simulator's clock forward; returns its time."""
        return float(self.request("POST", "clock", {"seconds": seconds, "days": days})["now"])

    def calls(self) -> dict[str, Any]:
        """Return counts of calls: `total`, `by_operation`, `by_key`."""
        return dict(self.request("GET", "calls"))

    def clear_calls(self) -> None:
        """Count from zero again."""
        self.request("DELETE", "calls")

    def reset(self) -> None:
        """Forget every key, fault and count."""
        self.request("POST", "reset")

    def request(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Any:
        """Make any control call. Raises SimulatorRefused, or URLError if no simulator listens."""
        data = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(f"{self.url}/_simulator/{path}", data=data, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read().decode(errors="replace")
            raise SimulatorRefused(f"{method} {path}: {detail}") from error
