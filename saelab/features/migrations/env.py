"""What Alembic runs revisions in: the connection that `saelab.features.database.migrate` gives, in one transaction of its own."""

from alembic import context

from saelab.features.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
