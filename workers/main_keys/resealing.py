"""Uploaded keys follow a rotation of the platform's own main key: what an older generation seals is sealed anew.

Housekeeping does it, from what is stored: no message says that the key was rotated, so none can be lost (R3). Once it
is done an older generation seals nothing, and its line may leave the file; `keyrepack managed-key list` says when.
"""

from __future__ import annotations

from schemas.keys import MANAGED as MANAGED
from schemas.keys import MainKeyUri
from workers.errors import KmsRefused, NotConfigured, WrapRefused
from workers.kms.local.uploaded import sealing_context
from workers.kms.port import RootWrap
from workers.runtime.logs import log
from workers.services import Services
from workers.store import uploads as store
from workers.store.database import Connection
from workers.store.outbox import record_event
from workers.store.uploads import StoredSeal

PAGE = 100
"""Keys in one transaction."""


def reseal(services: Services) -> int:
    """Seal every uploaded key by the platform's own key as it is now. Returns how many were. Safe to repeat (R2).

    A key that does not open here (a host whose file lacks its generation) is left as it is, and logged.
    """
    try:
        current = services.loop.run(services.kms.main_key(MANAGED).describe()).generation
    except (KmsRefused, NotConfigured):
        return 0  # a process that does not serve uploaded keys
    assert current is not None
    done, after = 0, 0
    while True:
        with services.database.read() as connection:
            page = store.sealed_otherwise(connection, current, after=after, limit=PAGE)
        if page:
            done += _reseal_page(services, page)
            after = page[-1].row
        if len(page) < PAGE:
            return done


def _reseal_page(services: Services, page: list[StoredSeal]) -> int:
    opened = [(seal, services.loop.run(_sealed_anew(services, seal))) for seal in page]
    fresh = [(seal, wrap) for seal, wrap in opened if wrap is not None]
    if not fresh:
        return 0
    with services.database.write() as connection:
        replaced = [_replace(connection, services, seal, wrap) for seal, wrap in fresh]
    return sum(replaced)


async def _sealed_anew(services: Services, seal: StoredSeal) -> RootWrap | None:
    """Seal the same key under the current generation, opened again and compared by the key that wraps it (R6)."""
    context = sealing_context(seal.environment_id, seal.key_id)
    try:
        return await services.kms.main_key(MANAGED).rewrap(seal.sealed, context, MANAGED)
    except WrapRefused as error:
        log.warning("upload.not_resealed", key=str(seal.key_id), generation=seal.generation, reason=error.reason.value)
        return None


def _replace(connection: Connection, services: Services, seal: StoredSeal, wrap: RootWrap) -> bool:
    if not store.replace_seal(connection, seal, sealed=wrap.blob, generation=wrap.generation):
        return False  # R2: another one was faster, or it was deleted: nothing brings a shredded key back
    if seal.generation == wrap.generation:
        return True
    record_event(
        connection,
        "main_key.resealed",
        actor=services.owner,
        environment_id=seal.environment_id,
        facts={
            "main_key": str(MainKeyUri("uploaded", str(seal.key_id))),
            "from_generation": seal.generation,
            "to_generation": wrap.generation,
        },
    )
    return True
