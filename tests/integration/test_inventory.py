"""The inventory and the certificate of loss on PostgreSQL: the same statements as on SQLite, the same answers."""

from __future__ import annotations

from tests.engine import World, usual_tree
from workers.main_keys.inventory import certificate_of_loss, list_main_keys
from workers.store.environments import find_environment, set_lock
from workers.store.models import metadata


def test_postgresql_answers_as_sqlite_does(postgresql_url: str) -> None:
    """A main key left in mid-move, with its stale roots, and a census of an environment's keys."""
    world = World(url=postgresql_url, clock=None, settings={"batch_size": 5, "shard_size": 10})
    try:
        with world.main.database.write() as connection:
            metadata.create_all(connection)
        environment = world.environment()
        material = usual_tree(world, environment)
        world.start(environment)
        views = {view.uri: view for view in list_main_keys(world.main)}
        old = views["memory:a"]
        assert (old.stale_roots, sum(old.roots.values()), old.environments[0].draining) == (5, 5, True)
        assert old.oldest_stale is not None
        assert (views["memory:b"].stale_roots, views["memory:b"].roots) == (0, {})
        assert [view.uri for view in list_main_keys(world.main, ["memory:b"])] == ["memory:b"]
        with world.main.database.write() as connection:
            set_lock(connection, environment.id, cause="lost", detail=None)
        with world.main.database.snapshot() as connection:
            lost = find_environment(connection, environment.environment_id)
            assert certificate_of_loss(connection, lost)["keys"] == len(material) + 3
    finally:
        world.close()
