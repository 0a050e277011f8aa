"""The README's examples run as they are written, in its order, in an empty folder."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parents[2] / "README.md"
# They build the project, or take minutes and have tests of their own.
ELSEWHERE = ("make ", "duckward demo")

RUNNER = """
import subprocess, sys
names = {}
for kind, text in eval(sys.stdin.read()):
    if kind == "python":
        exec(compile(text, text, "exec"), names)
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True)
print(names["found"].step, names["done"].rows)
"""


def blocks() -> list[tuple[str, str]]:
    found = re.findall(r"^```(python|sh)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    return [
        (kind, "".join(line for line in text.splitlines(True) if not line.startswith(ELSEWHERE)))
        for kind, text in found
    ]


def test_the_examples_run_as_they_are_written(tmp_path: pathlib.Path) -> None:
    scripts = pathlib.Path(sys.executable).parent
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=repr(blocks()),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # What the last profile and the last load of it say.
    assert done.stdout.splitlines()[-1] == "month 1000"
    assert (tmp_path / "lake" / "flights").is_dir()
