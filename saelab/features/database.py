"""The database under a feature store: a SQLite file or a schema of a PostgreSQL database; opened, checked, upgraded where it is older."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import SQLITE_ERROR
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, make_url, select, text, update
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError, ProgrammingError
from sqlalchemy.pool import ConnectionPoolEntry

from saelab.errors import Corrupt, Invalid, NotFound, SaelabError
from saelab.features import tables
from saelab.run import cannot_write, write_atomically

_KINDS = "Give a path, a URL that begins with sqlite:///, or one such as postgresql://user@host/database?schema=name."
_MIGRATIONS = Path(__file__).parent / "migrations"
_MAPPED_BYTES = 2**30


def is_server(where: Path | str) -> bool:
    """Whether a place names a PostgreSQL database. Raises `Invalid` for a URL of any other kind but SQLite's."""
    name = str(where)
    if "://" not in name or name.startswith("sqlite:///"):
        return False
    if not name.startswith(("postgresql://", "postgresql+psycopg://")):
        raise Invalid(f"A feature store cannot be opened from {name}. {_KINDS}")
    return True


def store_place(folder: Path) -> Path | str:
    """Where the feature store of a dictionary is: `features.db` in its folder, or the URL that `features.url` there names."""
    named = folder / "features.url"
    return named.read_text("utf-8").strip() if named.is_file() else folder / "features.db"


def put_store_place(folder: Path, url: str | None, schema: str) -> Path | str:
    """Settles where the feature store of a dictionary shall be, and says so to `store_place`: in its folder, or under a URL.

    Arguments:
    - `folder`: the dictionary's.
    - `url`: of a PostgreSQL database; none for the folder.
    - `schema`: schema in the database, where the URL names none.
    """
    if url is None:
        (folder / "features.url").unlink(missing_ok=True)
        return folder / "features.db"
    if not is_server(url):
        raise Invalid(f"{url} is no PostgreSQL database. Give postgresql://user@host/database, or nothing for a file in the run's folder.")
    named = url if "schema=" in url else f"{url}{'&' if '?' in url else '?'}schema={quote(schema)}"
    server_engine(named)[0].dispose()  # refuses what cannot be before anything is written
    write_atomically(folder / "features.url", named + "\n")
    return named


def file_of(where: Path | str) -> Path:
    """The file of a SQLite store."""
    return Path(str(where).removeprefix("sqlite:///"))


def server_engine(where: str) -> tuple[Engine, str]:
    """The engine of a PostgreSQL database, and the schema in it that the URL names (`saelab` where it names none).

    Raises `Invalid` for a URL that cannot be read, that holds a password, or where psycopg is not installed.
    """
    try:
        url = make_url(where)
    except ArgumentError:
        raise Invalid(f"{where} is no URL of a database. {_KINDS}") from None
    if url.password is not None:
        raise Invalid("A URL with a password would be kept in the run's folder. Leave it out, and set PGPASSWORD or write ~/.pgpass.")
    schema = url.query.get("schema", "saelab")
    if not isinstance(schema, str) or not schema or '"' in schema or "\\" in schema:
        raise Invalid(f"{schema!r} cannot be the name of a schema. {_KINDS}")
    plain: URL = url.difference_update_query(["schema"]).set(drivername="postgresql+psycopg")
    search_path = '"' + schema.replace(" ", "\\ ") + '"'
    try:
        return create_engine(plain, connect_args={"options": f"-csearch_path={search_path}"}), schema
    except ModuleNotFoundError:
        raise Invalid("Feature stores in PostgreSQL need the package psycopg. Install it: pip install 'saelab[postgres]'") from None


class Database:
    """An open database of features.

    Arguments:
    - `where`: path of the file, or a URL.

    Raises `NotFound` if it is not there, `Corrupt` if it is no feature store or one of a newer version, `Invalid` for a URL that cannot be.
    """

    def __init__(self, where: Path | str) -> None:
        self.where = str(where)
        if is_server(where):
            self.engine, _ = server_engine(self.where)
        else:
            self.path = file_of(where)
            if not self.path.is_file():
                raise NotFound(f"There is no feature store at {self.path}. Run `saelab collect` first.")
            self.where = str(self.path)
            self.engine = create_engine(f"sqlite:///{self.path}")
            event.listen(self.engine, "connect", _prepare)
        self.facts = self._read_facts()
        if self.facts.get("schema") != tables.SCHEMA:
            self._upgrade()
            self.facts = self._read_facts()

    def close(self) -> None:
        """Lets go of it."""
        self.engine.dispose()

    def _read_facts(self) -> dict[str, Any]:
        try:
            with self.engine.connect() as connection:
                return {key: json.loads(value) for key, value in connection.execute(select(tables.meta))}
        except OperationalError as error:
            if self.engine.dialect.name == "postgresql":
                raise NotFound(f"{self.where} cannot be reached: {error.orig}".strip()) from None
            if getattr(error.orig, "sqlite_errorcode", SQLITE_ERROR) != SQLITE_ERROR:  # the disk's fault or another process's
                raise self._cannot_write(error) from None
            raise self._no_store(error) from None
        except ProgrammingError:
            raise NotFound(f"There is no feature store at {self.where}. Run `saelab collect` first.") from None
        except DatabaseError as error:
            raise self._no_store(error) from None

    def _no_store(self, error: DatabaseError) -> Corrupt:
        return Corrupt(f"{self.where} is not a feature store ({error.orig}). Run `saelab collect` to make it anew.")

    def _upgrade(self) -> None:
        """Brings an older store up to this version: all of it, or nothing where anything fails."""
        found = self.facts.get("schema")
        if not isinstance(found, int) or not 1 <= found < tables.SCHEMA:
            raise Corrupt(
                f"{self.where} has schema version {found}, but this saelab reads version {tables.SCHEMA} and upgrades older ones. "
                "Run `saelab collect` to make it anew, or use the version of saelab that wrote it."
            )
        try:
            with self.engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    connection.execute(text("BEGIN IMMEDIATE"))  # the driver begins none for statements that change tables
                now = connection.scalar(select(tables.meta.c.value).where(tables.meta.c.key == "schema"))
                if now == str(found):  # no other process was faster
                    migrate(connection, found)
                    put_fact(connection, "schema", tables.SCHEMA)
                connection.commit()
        except OperationalError as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: DatabaseError) -> SaelabError:
        return cannot_write(Path(self.where), error.orig or error)

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """A connection whose changes are kept when it is left, and none of them after an error. Raises `Conflict` if it cannot write."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise self._cannot_write(error) from None


def migrate(connection: Connection, version: int, to: str = "head") -> None:
    """Runs the revisions from a version of the schema to another, or to the newest. A revision has the number of the schema it leads to."""
    from alembic import command  # here, as few stores are old
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    if version:
        MigrationContext.configure(connection).stamp(ScriptDirectory.from_config(config), str(version))
    command.upgrade(config, to)


def put_fact(connection: Connection, key: str, value: object) -> None:
    """Keeps a fact of the whole store."""
    written = json.dumps(value)
    if not connection.execute(update(tables.meta).where(tables.meta.c.key == key).values(value=written)).rowcount:
        connection.execute(insert(tables.meta).values(key=key, value=written))


def _prepare(connection: Any, _: ConnectionPoolEntry) -> None:  # noqa: ANN401 - the driver's own connection
    """Lets readers work while another process writes, and reads through the file's own pages."""
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
