"""Write the recorded results into docs/benchmarks.md and docs/kernels.md as tables.

    python benchmarks/render.py [--check]

Text between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced by the table of
`results/NAME.jsonl`; the rest is left alone. With `--check` nothing is written, and the exit code
is 1 if the tables are not those of the results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HERE = Path(__file__).resolve().parent
DOCUMENTS = [HERE.parent / "docs" / name for name in ("benchmarks.md", "kernels.md")]
MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    for document in DOCUMENTS:
        before = document.read_text()
        after = rendered(before, HERE / "results")
        if not check:
            document.write_text(after)
        elif after != before:
            print(f"{document.name} is not what benchmarks/render.py makes of the results")
            stale = 1
    return stale


def rendered(document: str, results: Path) -> str:
    """The document with each marked place filled from the results of its name."""

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        path = results / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        rows = [json.loads(line) for line in lines if line.strip()]
        return f"{begin}\n{TABLES[name](rows) if rows else 'Nothing is recorded yet.'}\n\n{end}"

    return MARKED.sub(fill, document)


def bench_tables(rows: list[Row]) -> str:
    """Rows of `pvtok bench --save`: one table for each device, then one for files."""
    parts = []
    for device in dict.fromkeys(row["device"] for row in rows):
        here = [row for row in rows if row["device"] == device]
        clips = [row for row in here if row["stage"] != "io"]
        files = [row for row in here if row["stage"] == "io"]
        parts.append(f"**{device}**")
        if clips:
            parts.append(
                table(
                    "model,backend,dtype,stage,clips,it/s,frames/s,p5 / p50 / p95 ms,memory,"
                    "TFLOP/s,of peak,runs,check,commit",
                    map(clip_cells, clips),
                )
            )
        if files:
            parts.append(
                table(
                    "model,backend,dtype,what,frames,frames/s,model alone,share,runs,commit",
                    map(file_cells, files),
                )
            )
    return "\n\n".join(parts)


def clip_cells(row: Row) -> list[str]:
    return [
        *(row[key] for key in ("name", "backend", "dtype", "stage")),
        "{batch} x {frames}x{height}x{width}".format(**row),
        number(row["it_per_s"]),
        number(row["frames_per_s"]),
        " / ".join(number(row.get(key)) for key in ("p5_ms", "p50_ms", "p95_ms")),
        "-" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
        number(row["tflops"]),
        percent(row["peak_share"]),
        f"{row['warm_up']} + {row['timed']}",
        row["check"].split(":")[0],
        row["commit"],
    ]


def file_cells(row: Row) -> list[str]:
    return [
        *(row[key] for key in ("name", "backend", "dtype", "protocol")),
        "{frames}x{height}x{width}".format(**row),
        number(row["frames_per_s"]),
        number(row["model_frames_per_s"]),
        percent(row["share_of_model"]),
        f"{row['warm_up']} + {row['timed']}",
        row["commit"],
    ]


def speed_table(rows: list[Row]) -> str:
    """Rows of `benchmarks/speed.py`."""
    cells = (
        [
            row["name"],
            row["model"],
            row["dtype"],
            f"{row['height']}x{row['width']}",
            f"{number(row['value'])} ({number(row['lowest'])} to {number(row['highest'])})",
            row["device"],
            row["commit"],
        ]
        for row in rows
    )
    return table("what,model,dtype,size,frames/s,device,commit", cells)


def cpu_table(rows: list[Row]) -> str:
    """Rows of `benchmarks/cpu_path.py`."""
    cells = (
        [
            row["name"] + (" (default)" if row["chosen"] else ""),
            f"{row['frames']}x{row['height']}x{row['width']}",
            number(row["frames_per_s"]),
            f"{number(row['times_plain'])} "
            f"({number(row['times_plain_lowest'])} to {number(row['times_plain_highest'])})",
            str(row["rounds"]),
            row["device"],
            row["commit"],
        ]
        for row in rows
    )
    return table("what,size,frames/s,times plain,rounds,device,commit", cells)


def compiled_table(rows: list[Row]) -> str:
    """Rows of `benchmarks/aot.py`: launches that compile to the same figures share a line."""
    numbers = "registers,spills,shared_bytes,wgmma,mma,bulk_loads"
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        figures = [str(row[key]) for key in numbers.split(",")]
        options = f"{row['num_warps']} / {row['num_stages']}" if "num_stages" in row else "-"
        key = (row["target"], row["dtype"], row["kernel"], row["tile"], options, *figures)
        lines.setdefault(key, []).append(row["preset"])
    return table(
        "GPU,dtype,kernel,tile,warps / stages,registers,spills,shared bytes,wgmma,mma,bulk,preset",
        [[*key, ", ".join(dict.fromkeys(presets))] for key, presets in sorted(lines.items())],
    )


TABLES: dict[str, Callable[[list[Row]], str]] = {
    "bench": bench_tables,
    "speed": speed_table,
    "cpu_path": cpu_table,
    "aot_36": compiled_table,
    "aot_39": compiled_table,
}


def table(headings: str, rows: Iterable[list[str]]) -> str:
    names = headings.split(",")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def number(value: float | None) -> str:
    """Three digits, or whole."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


if __name__ == "__main__":
    sys.exit(main())
