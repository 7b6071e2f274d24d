"""The control API under `/_simulator/`: what a customer, or bad luck, would do to a key. JSON in, JSON out.

====== ========================= =====================================================================================
GET    health                    `{"ok": true}`
POST   reset                     forget keys, faults and counts
GET    keys                      every key: arn, state, generation …
POST   keys                      create: `region`, `account`, `allow` (accounts), `key_spec`, `key_usage`, `policy` …
POST   keys/rotate               `key`: rotate on demand, as its owner
PUT    keys/state                `key`, `state`: a KeyState, or "Deleted"
PUT    keys/policy               `key`, and `policy` (a document) or `allow` (accounts that may do everything)
PUT    keys/material-id          `key`, `hidden`: whether material ids are left out of answers
POST   keys/replicate            `key`, `region`: a multi-region key's replica there; `policy`, `allow` as above
PUT    roles                     `role_arn`, `external_id` (asked for where given), `trusts` (accounts)
DELETE roles?role_arn=…          delete a role; its sessions live until they expire
GET    faults                    the faults in force
POST   faults                    `kind` (error, throttle, delay, drop, hang), and `key`, `operation`, `region`,
                                 `count`, `code`, `seconds`: see `Fault`
DELETE faults?number=…&key=…     end one, a key's, or all
GET    clock                     `{"now": seconds}`
POST   clock                     `seconds` and/or `days` forward
GET    calls                     counts: total, by_operation, by_key
DELETE calls                     count from zero again
====== ========================= =====================================================================================

A `key` is an ARN. Errors are `{"error": …}` with status 400, or 404 for what is not there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workers.embedded.simulator.api import Simulator
from workers.embedded.simulator.clock import DAY
from workers.embedded.simulator.keys import SimulatedKey
from workers.embedded.simulator.policy import owner_policy
from workers.embedded.simulator.refusals import Refusal
from workers.embedded.simulator.request import DEFAULT_ACCOUNT
from workers.embedded.simulator.rotation import rotate_on_demand
from workers.embedded.simulator.states import STATES

PREFIX = "/_simulator/"
DEFAULT_REGION = "eu-west-1"
DEFAULT_WINDOW_DAYS = 30
_KEY_FIELDS = ("key_spec", "key_usage", "description", "multi_region", "origin")

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCall:
    """One request to the control API."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes


class Control:
    """Answers the control API."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._routes: Mapping[tuple[str, str], Callable[[Fields], Any]] = {
            ("GET", "health"): lambda _: {"ok": True},
            ("POST", "reset"): lambda _: self._reset(),
            ("GET", "keys"): lambda _: [_described(key) for key in simulator.keys.all()],
            ("POST", "keys"): self._create_key,
            ("POST", "keys/rotate"): self._rotate,
            ("PUT", "keys/state"): self._set_state,
            ("PUT", "keys/policy"): self._set_policy,
            ("PUT", "keys/material-id"): self._hide_material_id,
            ("POST", "keys/replicate"): self._replicate,
            ("PUT", "roles"): self._put_role,
            ("DELETE", "roles"): lambda fields: simulator.roles.delete(str(fields["role_arn"])),
            ("GET", "faults"): lambda _: simulator.faults.as_json(),
            ("POST", "faults"): lambda fields: simulator.faults.add(**fields).as_json(),
            ("DELETE", "faults"): self._clear_faults,
            ("GET", "clock"): lambda _: {"now": simulator.clock.now()},
            ("POST", "clock"): self._advance,
            ("GET", "calls"): lambda _: simulator.calls.as_json(),
            ("DELETE", "calls"): lambda _: simulator.calls.clear(),
        }

    def answer(self, call: ControlCall) -> tuple[int, Any]:
        """Status and JSON."""
        route = self._routes.get((call.method, call.path.removeprefix(PREFIX)))
        if route is None:
            return 404, {"error": f"There is no {call.method} {call.path}."}
        try:
            return 200, route({**call.query, **json.loads(call.body or b"{}")})
        except Refusal as refusal:
            return 404 if refusal.code == "NotFoundException" else 400, {"error": f"{refusal.code}: {refusal.message}"}
        except KeyError as error:
            return 400, {"error": f"{error.args[0]} is missing."}
        except (TypeError, ValueError) as error:
            return 400, {"error": str(error)}

    def _reset(self) -> None:
        self._simulator.reset()

    def _create_key(self, fields: Fields) -> Any:
        account, region = str(fields.get("account", DEFAULT_ACCOUNT)), str(fields.get("region", DEFAULT_REGION))
        wanted = {name: fields[name] for name in _KEY_FIELDS if name in fields}
        key = self._simulator.keys.create(account, region, **wanted)
        self._apply_policy(key, {"allow": [DEFAULT_ACCOUNT], **fields})
        return _described(key)

    def _rotate(self, fields: Fields) -> Any:
        key = self._key(fields)
        rotate_on_demand(key.material, self._simulator.clock.now())
        return _described(key)

    def _set_state(self, fields: Fields) -> Any:
        key, state = self._key(fields), fields["state"]
        if state == "Deleted":
            self._simulator.keys.delete(key)
            return {"arn": key.arn, "state": state}
        if state not in STATES:
            raise ValueError(f"state is one of Deleted, {', '.join(STATES)}.")
        if state == "PendingDeletion":
            key.delete_after(self._simulator.clock.now(), int(fields.get("days", DEFAULT_WINDOW_DAYS)))
        else:
            key.set_state(state)
        return _described(key)

    def _set_policy(self, fields: Fields) -> Any:
        key = self._key(fields)
        self._apply_policy(key, fields)
        return _described(key)

    def _replicate(self, fields: Fields) -> Any:
        replica = self._simulator.keys.replicate(self._key(fields), str(fields["region"]))
        self._apply_policy(replica, {"allow": [DEFAULT_ACCOUNT], **fields})
        return _described(replica)

    def _put_role(self, fields: Fields) -> Any:
        trusts = [str(account) for account in fields.get("trusts", [DEFAULT_ACCOUNT])]
        role = self._simulator.roles.put(str(fields["role_arn"]), trusts=trusts, external_id=fields.get("external_id"))
        return {"role_arn": role.arn}

    def _apply_policy(self, key: SimulatedKey, fields: Fields) -> None:
        policy = fields.get("policy")
        if policy is None:
            owner, partition = key.moto.account_id, key.arn.split(":")[1]
            policy = owner_policy(partition, list(dict.fromkeys([owner, *fields["allow"]])))
        key.moto.policy = policy if isinstance(policy, str) else json.dumps(policy)

    def _hide_material_id(self, fields: Fields) -> Any:
        key = self._key(fields)
        key.hides_material_id = bool(fields["hidden"])
        return _described(key)

    def _clear_faults(self, fields: Fields) -> Any:
        number = fields.get("number")
        ended = self._simulator.faults.clear(number=None if number is None else int(number), key=fields.get("key"))
        return {"cleared": ended}

    def _advance(self, fields: Fields) -> Any:
        seconds = float(fields.get("seconds", 0)) + float(fields.get("days", 0)) * DAY
        return {"now": self._simulator.clock.advance(seconds)}

    def _key(self, fields: Fields) -> SimulatedKey:
        arn = str(fields["key"])
        parts = arn.split(":")
        if len(parts) != 6:
            raise ValueError(f"{arn!r} is not an ARN.")
        return self._simulator.keys.find(arn, parts[4], parts[3])


def _described(key: SimulatedKey) -> dict[str, Any]:
    return {
        "arn": key.arn,
        "key_id": key.moto.id,
        "account": key.moto.account_id,
        "region": key.moto.region,
        "state": key.state,
        "generation": key.material.current.material_id,
        "generations": [generation.material_id for generation in key.material.generations],
        "hides_material_id": key.hides_material_id,
    }
