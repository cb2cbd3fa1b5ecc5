"""How a database finds what is asked of it: which statements read whole tables, however long the history is."""

import re
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import event

from airflow_mqtt.database import tables

TABLES = ("mqtt_job", "mqtt_job_event", "mqtt_job_log")


class Plans:
    """Explains every statement that goes over an engine."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.statements: list[str] = []
        event.listen(engine, "before_execute", self._note)

    def _note(self, _connection, clause, *_):
        if not isinstance(clause, sa.TextClause | sa.Insert):
            self.statements.append(
                str(clause.compile(dialect=self.engine.dialect, compile_kwargs={"literal_binds": True}))
            )

    def whole_reads(self) -> list[str]:
        """The statements that read half of a table of ours or more, each with its plan."""
        found = []
        with self.engine.connect() as connection:
            rows = {table: connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) for table in TABLES}
            for statement in dict.fromkeys(self.statements):
                escaped = statement.replace("%", "%%")
                if self.engine.dialect.name == "postgresql":
                    plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {escaped}").scalar_one()
                    whole = any(read >= rows[table] / 2 for table, read in _reads(plan[0]["Plan"]))
                    connection.rollback()  # ANALYZE does it
                else:
                    plan = [str(row[-1]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {escaped}")]
                    whole = any(_is_whole(line) for line in plan)
                if whole:
                    found.append(f"{statement}\n{plan}")
        return found


def _reads(node: dict) -> Iterator[tuple[str, float]]:
    """Each table that a plan of PostgreSQL's reads, and how many of its rows: those that it throws away count too."""
    table = node.get("Relation Name", "")
    if table in TABLES and node["Node Type"].endswith("Scan"):
        thrown = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
        yield table, (node["Actual Rows"] + thrown) * node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from _reads(child)


#: Indexes that hold a part of the rows alone.
PARTIAL = {index.name for index in tables.job.indexes if index.dialect_options["sqlite"]["where"] is not None}


def _is_whole(line: str) -> bool:
    """Whether a line of SQLite's plan reads a whole table. An index helps nothing if the team alone is sought in it."""
    found = re.search(r"(SCAN|SEARCH) mqtt_job\w*(?: USING (?:COVERING )?INDEX (\w+)(?: \((.*)\))?)?$", line)
    if found is None or found[2] in PARTIAL:
        return False
    return found[1] == "SCAN" or found[3] == "team_name=?"
