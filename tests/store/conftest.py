"""Most tests here ask what is written, not whether it survives a power cut: they spare the disk.

Durability has its own tests in test_durable.py, and test_kill.py runs real processes.
"""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
