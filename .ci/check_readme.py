"""Check that the commands README.md shows exist: `pvtok` ones with their options, `make` targets.

Nothing is run but `--help` and `make -n`: whether the commands do what they say is for the tests.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUST_SHOW = (
    "pvtok encode",
    "pvtok decode",
    "pvtok predict",
    "pvtok bench",
    "make demo",
    "make test",
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELLS = {"", "sh", "bash", "shell", "console", "text"}
SEPARATORS = {"|", "||", "&", "&&", ";", ";;", "(", ")", ">", ">>", "<"}


def commands(text: str) -> list[list[str]]:
    """Every simple command of the fenced shell blocks, as its words."""
    found: list[list[str]] = []
    for language, block in FENCE.findall(text):
        if language not in SHELLS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            try:
                words = list(lexer)
            except ValueError:
                continue  # output, not a command
            command: list[str] = []
            for word in [*words, ";"]:
                if word in SEPARATORS:
                    found.append(command)
                    command = []
                else:
                    command.append(word)
    return [words for words in found if words]


@cache
def help_of(command: str) -> str | None:
    """Help text of `pvtok COMMAND` (of `pvtok` for an empty name); None if there is none."""
    run = subprocess.run(
        [str(Path(sys.executable).with_name("pvtok")), *command.split(), "--help"],
        env={**os.environ, "COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout if run.returncode == 0 else None


def faults_of(words: list[str]) -> list[str]:
    """What is wrong with one command; nothing for programs that are not ours."""
    while words and ("=" in words[0] or words[0] in ("uv", "run", "time", "srun")):
        words = words[1:]
    if not words:
        return []
    line = " ".join(words)
    program = Path(words[0]).name
    if program == "make":
        targets = [w for w in words[1:] if "=" not in w and not w.startswith("-")]
        run = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, check=False)
        return [] if run.returncode == 0 else [f"{line}: no such target"]
    if program != "pvtok":
        return []
    name = words[1] if len(words) > 1 and not words[1].startswith("-") else ""
    text = help_of(name)
    if text is None:
        return [f"{line}: there is no command {name!r}"]
    options = {word.split("=")[0] for word in words[1:] if re.match(r"--?[a-zA-Z]", word)}
    return [
        f"{line}: no option {option}"
        for option in sorted(options - {"--help"})
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
    ]


def main() -> int:
    text = (ROOT / "README.md").read_text()
    shown = commands(text)
    flat = "\n".join(" ".join(words) for words in shown)
    faults = [f"README.md does not show `{line}`" for line in MUST_SHOW if line not in flat]
    for words in shown:
        faults += faults_of(words)
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"All {len(shown)} commands of README.md exist.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
