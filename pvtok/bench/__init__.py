"""Measuring speed: contenders in one process, taking turns, each checked before it is timed."""
