"""The figures that duckward promises, measured: `make bench`, or `python benches/run.py [names] [--quick]`.

Every figure is taken side by side with what it is compared to, in one run, in turns. On a machine that does
other things too, look at the spread, and run it again. A missed promise is printed and is no failure; a wrong
answer is.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import bench
import cost
import ingest
import latency
import partition
import pieces
import stream
import tpch
import validate
import validate_pieces

# In this order: first what takes little.
BENCHMARKS: dict[str, Callable[[bool], Iterator[bench.Row]]] = {
    "own_memory": cost.footprint,
    "select_1": cost.select_1,
    "reading": cost.reading,
    "stream": stream.stream,
    "tpch": tpch.tpch,
    "pieces": pieces.pieces,
    "validate": validate.validate,
    "validate_pieces": validate_pieces.pieces,
    "partition": partition.partition,
    "ingest": ingest.ingest,
    "interrupt": latency.interrupt,
    "stop": latency.stop,
}
WIDTHS = (34, 40, 12)


def line(cells: tuple[str, str, str, str]) -> str:
    """One line of the table."""
    return " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, (*WIDTHS, 0), strict=True)).rstrip()


def child(name: str, arguments: str) -> int:
    """Runs a function of a module here, named by `bench.command`, and prints what it returned."""
    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(f"{bench.MARK}{json.dumps(found)}", flush=True)
    return 0


def main() -> int:
    """Runs the benchmarks named on the command line, or all."""
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description="The figures that duckward promises, measured.")
    parser.add_argument("names", nargs="*", metavar="name", help="benchmarks to run; none: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a figure")
    parser.add_argument("--list", action="store_true", help="what there is")
    options = parser.parse_args()
    if options.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:<12} {(benchmark.__doc__ or '').splitlines()[0]}")
        return 0
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}")
    import duckdb

    import duckward

    print(
        f"duckward {duckward.__version__}, DuckDB {duckdb.__version__}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}{', quick' if options.quick else ''}\n"
    )
    print(line(("name", "measured", "promised", "verdict")))
    print("-" * (sum(WIDTHS) + 16), flush=True)
    good = True
    for name in options.names or BENCHMARKS:
        began = time.monotonic()
        try:
            for row in BENCHMARKS[name](options.quick):
                print(line((row.name, row.measured, row.promised, row.verdict)))
                if row.compared:
                    indent = "    "
                    print(textwrap.fill(row.compared, 106, initial_indent=indent, subsequent_indent=indent))
                sys.stdout.flush()
        except bench.BenchError as error:
            good = False
            print(line((name, "not measured", "-", "FAILED")))
            print(textwrap.indent(str(error), "    "))
        print(f"    ({name}: {time.monotonic() - began:.0f} s)", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
