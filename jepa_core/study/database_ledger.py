"""Claims and outcomes in a database, for workers that share no disk: PostgreSQL, or SQLite on one host.

A cell is a row, and claiming it one short transaction: PostgreSQL locks the row with `FOR UPDATE SKIP
LOCKED`, so that workers never wait for each other, SQLite locks the file. Claims age by the database's clock,
whatever the workers' clocks say. Outcomes lie in the row, since nobody else can read the worker's disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from jepa_core.errors import UserError, printable
from jepa_core.study.ledger import Attempt, Claim, ClaimLost, Ended, Record, new_attempt, since_retry

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Row

T = TypeVar("T")

DIALECTS = ("postgresql", "sqlite")
TRIES = 6
"""How often a transaction is tried while the database is away; the pauses double from a second on."""


class DatabaseLedger:
    """A `Ledger` in a database. Raises UserError where it cannot be reached."""

    def __init__(self, url: str, study: str, lease: float = 60.0) -> None:
        self.study, self.lease = study, lease
        self.engine = open_engine(url)
        self.shown = self.engine.url.render_as_string(hide_password=True)
        self._define_tables()
        self._do(lambda connection: self._tables.create_all(connection), tries=1)

    def records(self, cells: Iterable[tuple[str, str]]) -> dict[str, Record]:
        """What is known of cells, given as (id, identity)."""
        from sqlalchemy import select

        keys = list(cells)
        rows = self._do(
            lambda c: c.execute(select(self._cells).where(self._cells.c.study == self.study)).all()
        )
        now = self._do(self._now)
        by_key = {(row.cell, row.identity): row for row in rows}
        return {cell: self._record(by_key.get((cell, identity)), identity, now) for cell, identity in keys}

    def claim(self, cell: str, identity: str) -> Claim | None:
        """A claim on a cell, or None where another worker has it, or is just claiming it."""
        return self._do(lambda connection: self._claim(connection, cell, identity))

    def beat(self, claim: Claim) -> bool:
        """Renews a claim; False where it is lost."""
        attempt = replace(claim.attempt, **claim.progress)
        return self._do(lambda connection: self._update(connection, claim, attempt))

    def close(
        self, claim: Claim, ended: Ended, error: str = "", outcome: Mapping[str, Any] | None = None
    ) -> None:
        """Ends a claim and publishes what came of it. Raises ClaimLost where it is another worker's."""
        attempt = replace(claim.attempt, ended=ended, error=error, **claim.progress)
        values = {} if outcome is None else {"outcome": json.dumps(outcome)}
        if not self._do(lambda connection: self._update(connection, claim, attempt, **values)):
            raise ClaimLost(claim.cell)

    def forget(self, cell: str, identity: str) -> None:
        """Lets a failed cell be tried again; leaves one alone that a worker has."""

        def change(connection: Connection) -> None:
            row = self._lock_row(connection, cell, identity)
            if row is not None and not self._is_held(row, self._now(connection)):
                attempts = [*_attempts(row), replace(new_attempt(identity, self.lease), ended="retry")]
                self._write(connection, cell, identity, row.generation + 1, attempts)

        self._do(change)

    def share(self, key: str, value: Any) -> Any:
        """Publishes a value; the first one stays, and is returned."""
        values = {"study": self.study, "key": key, "value": json.dumps(value)}
        self._do(lambda connection: connection.execute(self._insert(self._shared, values)))
        return self.shared_value(key)

    def shared_value(self, key: str) -> Any:
        """A value that was published, or None."""
        from sqlalchemy import select

        table = self._shared
        query = select(table.c.value).where(table.c.study == self.study, table.c.key == key)
        text = self._do(lambda connection: connection.execute(query).scalar())
        return None if text is None else json.loads(text)

    def _define_tables(self) -> None:
        from sqlalchemy import Column, Float, Integer, MetaData, String, Table, Text

        self._tables = MetaData()
        names = ("study", "cell", "identity")
        key = [Column(name, String(400), primary_key=True) for name in names]
        self._cells = Table(
            "jepa_study_cells",
            self._tables,
            *key,
            Column("generation", Integer, nullable=False),
            Column("attempts", Text, nullable=False),
            Column("beat", Float, nullable=False),
            Column("outcome", Text),
        )
        self._shared = Table(
            "jepa_study_shared",
            self._tables,
            Column("study", String(400), primary_key=True),
            Column("key", String(400), primary_key=True),
            Column("value", Text, nullable=False),
        )

    def _claim(self, connection: Connection, cell: str, identity: str) -> Claim | None:
        key = {"study": self.study, "cell": cell, "identity": identity}
        empty = {"generation": 0, "attempts": "[]", "beat": 0.0}
        connection.execute(self._insert(self._cells, key | empty))
        row = self._lock_row(connection, cell, identity)
        if row is None or self._is_held(row, self._now(connection)):
            return None
        before, attempt = _attempts(row), new_attempt(identity, self.lease)
        self._write(connection, cell, identity, row.generation + 1, [*before, attempt])
        last = before[-1] if before else None
        evict = last is not None and not last.ended and last.process.state() != "dead"
        return Claim(cell, row.generation + 1, attempt, evict)

    def _update(self, connection: Connection, claim: Claim, attempt: Attempt, **values: Any) -> bool:
        """Rewrites a claim that is still the newest; waits for the row, unlike who wants a new claim."""
        row = self._lock_row(connection, claim.cell, attempt.identity, skip=False)
        if row is None or row.generation != claim.generation:
            return False
        attempts = [*_attempts(row)[:-1], attempt]
        self._write(connection, claim.cell, attempt.identity, claim.generation, attempts, **values)
        return True

    def _lock_row(
        self, connection: Connection, cell: str, identity: str, skip: bool = True
    ) -> Row[Any] | None:
        """A cell's row, locked until the transaction ends; None where it is missing, or locked by another."""
        from sqlalchemy import select

        query = select(self._cells).where(*self._is(cell, identity)).with_for_update(skip_locked=skip)
        return connection.execute(query).first()

    def _write(
        self,
        connection: Connection,
        cell: str,
        identity: str,
        generation: int,
        attempts: list[Attempt],
        **values: Any,
    ) -> None:
        text = json.dumps([attempt.to_json() for attempt in attempts])
        values |= {"generation": generation, "attempts": text, "beat": self._now(connection)}
        connection.execute(self._cells.update().where(*self._is(cell, identity)).values(**values))

    def _is(self, cell: str, identity: str) -> list[Any]:
        columns = self._cells.c
        return [columns.study == self.study, columns.cell == cell, columns.identity == identity]

    def _record(self, row: Row[Any] | None, identity: str, now: float) -> Record:
        if row is None:
            return Record()
        outcome = json.loads(row.outcome) if row.outcome else None
        return Record(since_retry(_attempts(row), identity), outcome, self._is_held(row, now))

    @staticmethod
    def _is_held(row: Row[Any], now: float) -> bool:
        attempts = _attempts(row)
        if not attempts or attempts[-1].ended or attempts[-1].process.state() == "dead":
            return False
        return bool(now - row.beat <= attempts[-1].lease)

    def _now(self, connection: Connection) -> float:
        """The database's time, in seconds."""
        from sqlalchemy import text

        clock = (
            "SELECT extract(epoch FROM clock_timestamp())"
            if self.engine.dialect.name == "postgresql"
            else "SELECT (julianday('now') - 2440587.5) * 86400.0"
        )
        return float(connection.execute(text(clock)).scalar() or 0.0)

    def _insert(self, table: Any, values: Mapping[str, Any]) -> Any:
        """Inserts a row unless there is one with its key."""
        from sqlalchemy.dialects import postgresql, sqlite

        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        return insert(table).values(**values).on_conflict_do_nothing()

    def _do(self, work: Callable[[Connection], T], tries: int = TRIES) -> T:
        """One transaction, tried again while the database is away. Raises UserError where it stays away."""
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        for number in range(tries):
            try:
                with self.engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if number + 1 == tries:
                    raise self._connection_error(error) from None
                time.sleep(2.0**number)
            except SQLAlchemyError as error:
                raise self._connection_error(error) from None
        raise AssertionError("the last try returns or raises")

    def _connection_error(self, error: Exception) -> UserError:
        reason = printable(" ".join(str(getattr(error, "orig", None) or error).split())[:200])
        return UserError(f"the database {self.shown} cannot be used: {reason}")


def _attempts(row: Row[Any]) -> list[Attempt]:
    return [Attempt.from_json(facts) for facts in json.loads(row.attempts)]


def open_engine(url: str) -> Engine:
    """An engine for a database's URL; nothing is connected yet.

    Raises UserError for what is no such URL, for other databases, and without the packages for it.
    """
    try:
        from sqlalchemy import create_engine, make_url
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError:
        raise UserError("claims in a database need SQLAlchemy: pip install 'jepa-core[study]'") from None
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in DIALECTS:
            name = parsed.get_backend_name()
            raise UserError(f"claims in a {name} database are not supported; known: {', '.join(DIALECTS)}")
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        sqlite = parsed.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"timeout": 30} if sqlite else {"connect_timeout": 10}
        engine = create_engine(parsed, connect_args=options, pool_pre_ping=True)
    except SQLAlchemyError as error:
        raise UserError(f"setting 'study.claims' is no database's URL: {error}") from None
    except ModuleNotFoundError as error:
        raise UserError(
            f"claims in this database need {error.name}: pip install 'jepa-core[study]'"
        ) from None
    if sqlite:
        _lock_when_begun(engine)
    return engine


def _lock_when_begun(engine: Engine) -> None:
    """SQLite locks its file when a transaction begins and not at its first write: no stale claim is read."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def disable_autobegin(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def lock_database(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
