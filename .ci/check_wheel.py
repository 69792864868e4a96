"""Build the wheel and check that every file of the package is in it.

`pvtok/cli` and `pvtok/kernels` are links to top-level folders, and packages and data files are
listed by hand in pyproject.toml: a file that is forgotten there works in a checkout and is missing
from what users install.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALWAYS = ("pvtok/cli/main.py", "pvtok/kernels/__init__.py", "pvtok/py.typed")


def expected() -> set[str]:
    """Paths inside the wheel of all files of the package, links followed."""
    folders = {"pvtok": "pvtok", "cli": "pvtok/cli", "kernels": "pvtok/kernels"}
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", *folders], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    paths = set(ALWAYS)
    for name in filter(None, tracked.split("\0")):
        top, _, rest = name.partition("/")
        if rest and not (ROOT / name).is_symlink() and not rest.endswith((".md", ".gitignore")):
            paths.add(f"{folders[top]}/{rest}")
    return paths


def contents() -> set[str]:
    """Paths inside a freshly built wheel."""
    with tempfile.TemporaryDirectory() as out:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(out).glob("pvtok-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return set(archive.namelist())


def main() -> int:
    wanted, held = expected(), contents()
    missing = sorted(wanted - held)
    if not any(name.startswith("pvtok/assets/") for name in held):
        missing.append("pvtok/assets/ (any file of it)")
    for name in missing:
        print(f"missing from the wheel: {name}", file=sys.stderr)
    if not missing:
        print(f"The wheel holds all {len(wanted)} files of the package.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
