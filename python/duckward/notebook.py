"""The magics `%duckward` and `%%duckward` of Jupyter and IPython: SQL through a ward, with live progress.

    %load_ext duckward
    %duckward select count(*) from flights
    %%duckward --memory 512MB --connection con slow <<
    select carrier, median(dep_delay) from flights group by carrier

`--connection` names a DuckDB connection or a ward among the variables, `ward` or `con` unless told. With
`name <<` the whole answer becomes a `pyarrow.Table` of that name, from disk if it is larger than memory;
without, the first rows are shown and the others counted.
"""

from __future__ import annotations

import re
from typing import Any

import duckward

from .cli import follow, table_text

# Rows that are shown.
ROWS = 20
OPTION = re.compile(r"\s*--(\w+)(?:\s*=\s*|\s+)('[^']*'|\"[^\"]*\"|\S+)")
TARGET = re.compile(r"\s*([^\W\d]\w*)\s*<<")
# Run with the notebook's variables as globals, where DuckDB looks for data frames.
BEGIN = "_duckward_answer = _duckward_ward.sql(_duckward_sql)\n"
STREAM = BEGIN + "_duckward_schema, _duckward_batches = _duckward_answer.schema, iter(_duckward_answer)\n"
STREAM += "_duckward_first = next(_duckward_batches, None)"
TABLE = BEGIN + "_duckward_table = _duckward_answer.to_arrow()"


def parse(text: str) -> tuple[dict[str, str], str | None, str]:
    """Options, the variable before `<<`, and the SQL. Raises ValueError for an unknown option, or no SQL."""
    options = {}
    while found := OPTION.match(text):
        name, value = found[1], found[2].strip("'\"")
        if name not in ("memory", "connection"):
            raise ValueError(f"--{name} is not an option of this magic; it has --memory and --connection")
        options[name], text = value, text[found.end() :]
    target = TARGET.match(text)
    sql = text[target.end() :] if target else text
    if not sql.strip():
        raise ValueError("no SQL: %duckward [--memory SIZE] [--connection NAME] [VARIABLE <<] SQL")
    return options, target[1] if target else None, sql


class Wards:
    """The wards that the magic has made, one for each connection it was used with."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, str | None, Any]] = []

    def find(self, variables: dict[str, Any], name: str | None, memory: str | None) -> Any:
        """The ward of the connection or ward `name`. Raises ValueError or duckward.Error if there is none."""
        names = [name] if name else ["ward", "con"]
        found = next((variables[each] for each in names if each in variables), None)
        if found is None:
            raise ValueError(f"there is no variable {' or '.join(names)} with a DuckDB connection or a ward")
        if isinstance(found, duckward.Ward):
            if memory:
                raise ValueError("--memory is for connections; a ward keeps the budget it was made with")
            return found
        for con, budget, ward in self.made:
            if con is found and memory in (None, budget):
                return ward
            # One that only the magic has may give way to another budget.
            if con is found and all(value is not ward for value in variables.values()):
                ward.close()
        ward = duckward.guard(found) if memory is None else duckward.guard(found, memory)
        self.made = [*((c, b, w) for c, b, w in self.made if c is not found), (found, memory, ward)]
        return ward


def load_ipython_extension(ipython: Any) -> None:
    """Registers the line and cell magic `duckward` with the shell `ipython`."""
    import IPython.display
    from IPython.core.error import UsageError

    ui: Any = IPython.display
    wards = Wards()

    def magic(line: str, cell: str | None = None) -> None:
        """SQL through a ward: %duckward [--memory SIZE] [--connection NAME] [VARIABLE <<] SQL"""
        try:
            options, target, sql = parse(line if cell is None else f"{line}\n{cell}")
            ward = wards.find(ipython.user_ns, options.get("connection"), options.get("memory"))
        except (ValueError, duckward.Error) as error:
            raise UsageError(str(error)) from None
        scope: dict[str, Any] = {"_duckward_ward": ward, "_duckward_sql": sql}
        kept, total = [], 0

        def work() -> None:
            nonlocal total
            exec(TABLE if target else STREAM, ipython.user_ns, scope)
            batch = scope.get("_duckward_first")
            while batch is not None:
                kept.extend([batch.slice(0, ROWS - total)] if total < ROWS else [])
                total += batch.num_rows
                batch = next(scope["_duckward_batches"], None)

        def progress(seconds: float) -> None:
            part = "" if (share := ward.progress()) is None else f"{share:.0%}, "
            handle.update(ui.HTML(f"<i>{part}{seconds:.0f} s, memory level {ward.level}</i>"))

        # A terminal would print every update as a line of its own; a notebook has a kernel.
        handle: Any = ui.display(ui.HTML(""), display_id=True) if hasattr(ipython, "kernel") else None
        try:
            follow(work, ward, progress if handle else None)
        except BaseException:
            if "_duckward_answer" in scope:
                scope["_duckward_answer"].close()  # The traceback would keep it, and the connection busy.
            raise
        finally:
            if handle:
                handle.update(ui.HTML(""))
        answer, schema = scope["_duckward_answer"], scope.get("_duckward_schema")
        if target:
            table = ipython.user_ns[target] = scope["_duckward_table"]
            kept, total, schema = table[:ROWS].to_batches(), table.num_rows, table.schema
        if answer.columns:
            hint = f"{target} holds them" if target else "VARIABLE << keeps them"
            print(table_text(schema, kept, total, None, True, hint))
        ui.display(answer.report)

    ipython.register_magic_function(magic, "line_cell", "duckward")
