"""`python -m pvtok` is `pvtok`."""

from pvtok.cli.main import run

run()
