"""How many latent frames a video has, with or without segments that start afresh."""

from __future__ import annotations

from pvtok.groups import TailPolicy, frames_in, groups_covering, groups_under, whole_groups


def latents_under(frames: int, tail: TailPolicy, p: int, segment: int | None) -> int:
    """Latent frames that `frames` frames become.

    Args:
        p: frames per group after the first (the temporal ratio).
        segment: frames after which the stream starts afresh with an image group; None = never.

    Raises:
        TailError: `tail` is "error" and the last group is not whole.
    """
    if segment is None:
        return groups_under(frames, tail, p)
    whole, rest = divmod(frames, segment)
    return whole * groups_covering(segment, p) + groups_under(rest, tail, p)


def kept_frames(frames: int, tail: TailPolicy, p: int, segment: int | None) -> int:
    """Frames of the video that its latents stand for: all of them unless `tail` is "drop"."""
    if tail != "drop":
        return frames
    whole, rest = divmod(frames, segment) if segment is not None else (0, frames)
    return whole * (segment or 0) + frames_in(whole_groups(rest, p), p)


def is_segment(frames: int, p: int) -> bool:
    """Whether `frames` is a possible segment length: `1 + p*m`, m >= 0."""
    return frames > 0 and frames == frames_in(groups_covering(frames, p), p)
