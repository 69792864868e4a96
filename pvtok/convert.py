"""Video files to latent stores and back: reading, computing and writing at the same time."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pvtok.errors import ModelMismatchError, StoreError, UsageError
from pvtok.groups import FramesTHWC, TailPolicy, frames_in, group_of, grouped, groups_under
from pvtok.model import State
from pvtok.overlap import Background, prefetch
from pvtok.store import LatentStore, StoreMeta, StoreWriter, fingerprint_file, open_store
from pvtok.tokenizer import Latents, Tokenizer
from pvtok.video import ReadOptions, VideoReader, VideoWriter

Codec = Literal["none", "zstd"]
Progress = Callable[[int], None]
"""Called with the number of frames that are new since the last call."""

STORE_SUFFIX = ".zarr"
CHECKPOINT_SECONDS = 10.0
"""A killed encode loses at most about this much work."""


@dataclass(frozen=True)
class EncodePlan:
    """What an encode will do. Frame counts of containers are estimates until all are read."""

    frames: int | None
    width: int
    height: int
    fps: Fraction
    latent_shape: tuple[int | None, int, int, int]
    bytes: int | None
    """Of the finished store, without metadata."""
    memory_bytes: int
    """Working memory beside the model, estimated."""


@dataclass(frozen=True)
class Encoded:
    """What an encode did."""

    output: Path
    frames: int
    latent_shape: tuple[int, int, int, int]
    width: int
    height: int
    fps: Fraction
    seconds: float
    new_frames: int
    """Frames encoded by this run: fewer than `frames` after a resume."""
    notices: tuple[str, ...]


def plan_encode(tok: Tokenizer, reader: VideoReader, tail: TailPolicy) -> EncodePlan:
    """What encoding `reader` would make."""
    config = tok.config
    h, w = -(-reader.height // config.spatial_ratio), -(-reader.width // config.spatial_ratio)
    frames = expected_frames(reader)
    latents = None if frames is None else groups_under(frames, tail)
    row = 2 * config.latent_channels * h * w
    chunk = config.temporal_ratio * tok.chunk_groups(reader.height, reader.width)
    # Frames in flight (read ahead, in work, as floats) and the widest activations, twice.
    pixels = chunk * reader.width * reader.height
    widest = max(config.widths[0] // config.patch_size**2, 3)
    return EncodePlan(
        frames,
        reader.width,
        reader.height,
        reader.fps,
        (latents, config.latent_channels, h, w),
        None if latents is None else latents * row,
        pixels * (3 * 8 + 2 * 4 * widest),
    )


def expected_frames(reader: VideoReader) -> int | None:
    """How many frames a reader will give, as far as its container's claim and options tell."""
    options, info = reader.options, reader.info
    frames: float | None = info.frames
    rate = float(options.fps or info.fps)
    if info.duration is not None and (options.start or options.duration or options.fps):
        left = max(0.0, info.duration - options.start)
        frames = round(rate * min(left, options.duration or left))
    if options.max_frames is not None:
        frames = options.max_frames if frames is None else min(frames, options.max_frames)
    return None if frames is None else int(frames)


def encode_video(
    tok: Tokenizer,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    options: ReadOptions | None = None,
    tail: TailPolicy = "repeat_last",
    codec: Codec = "none",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Encoded:
    """Encode a video file into a latent store.

    Interrupted or killed, the store is resumable from its last checkpoint, and the result is the
    same to the byte.

    Raises:
        UsageError: the output's name does not end in `.zarr`.
        VideoError and its children: the source cannot be read.
        StoreError and its children, OutputExistsError, WriteError: see `StoreWriter.create`.
    """
    output = store_path(output)
    options = options or ReadOptions()
    begun = time.monotonic()
    with VideoReader(source, options, chunk_frames=16) as reader:
        plan = plan_encode(tok, reader, tail)
        meta = _meta(tok, Path(source), reader, options, tail)
        with StoreWriter.create(
            output, meta, codec=codec, overwrite=overwrite, resume=resume
        ) as writer:
            if writer.already_complete:
                store = open_store(output)
                return _encoded(output, store.frames, store.latents.shape, plan, 0.0, 0, ())
            done = frames_in(writer.latents_done)
            if progress and done:
                progress(done)
            _encode_stream(tok, reader, writer, tail, done, progress)
            notices = tuple(reader.notices)
            writer.finish(
                frames=reader.frames_read,
                timestamps=reader.timestamps if reader.info.variable_rate else None,
            )
    store = open_store(output)
    seconds = time.monotonic() - begun
    return _encoded(
        output, store.frames, store.latents.shape, plan, seconds, store.frames - done, notices
    )


def _encode_stream(
    tok: Tokenizer,
    reader: VideoReader,
    writer: StoreWriter,
    tail: TailPolicy,
    done: int,
    progress: Progress | None,
) -> None:
    state = _state_from(writer.state, tok) if done else None
    groups = tok.chunk_groups(reader.height, reader.width)
    last_checkpoint = time.monotonic()
    appended: State | None = None

    def write(item: tuple[Latents, State]) -> None:
        nonlocal last_checkpoint, appended
        latents, after = item
        writer.append(latents)
        appended = after
        if time.monotonic() - last_checkpoint > CHECKPOINT_SECONDS:
            writer.checkpoint(_state_bytes(after))
            last_checkpoint = time.monotonic()

    frames = prefetch(_skipping(reader, done))

    def counted() -> Iterator[FramesTHWC]:
        for chunk in frames:
            yield chunk
            if progress:  # asked for more: this chunk is in work or done
                progress(len(chunk))

    try:
        with Background(write) as background:
            for chunk in grouped(counted(), groups, tail, done=done):
                latents, state = tok.encode_step(chunk, state)
                background.put((latents, state))
    except KeyboardInterrupt:
        if appended is not None:
            writer.checkpoint(_state_bytes(appended))
        raise
    finally:
        frames.close()


def _skipping(reader: VideoReader, count: int) -> Iterator[FramesTHWC]:
    """Chunks of a reader without its first `count` frames (they are read all the same: exact)."""
    for chunk in reader:
        cut = min(count, len(chunk))
        count -= cut
        if cut < len(chunk):
            yield chunk[cut:]


def _state_bytes(state: State) -> bytes:
    return save_tensors({k: v.contiguous().cpu() for k, v in state.items()})


def _state_from(data: bytes | None, tok: Tokenizer) -> State:
    if data is None:
        raise StoreError("the unfinished store has latents but no streaming state")
    return {k: v.to(tok.device) for k, v in load_tensors(data).items()}


def _meta(
    tok: Tokenizer, source: Path, reader: VideoReader, options: ReadOptions, tail: TailPolicy
) -> StoreMeta:
    config, info = tok.config, reader.info
    ps = config.spatial_ratio
    right, bottom = -reader.width % ps, -reader.height % ps
    chosen = {
        "size": options.size,
        "crop": options.crop,
        "start": options.start,
        "duration": options.duration,
        "max_frames": options.max_frames,
        "fps": str(options.fps) if options.fps else None,
        "deinterlace": options.deinterlace,
        "allow_truncated": options.allow_truncated,
    }
    return StoreMeta(
        model_name=tok.name,
        model_sha256=tok.sha256,
        model_config=config.to_dict(),
        channels=config.latent_channels,
        latent_height=(reader.height + bottom) // ps,
        latent_width=(reader.width + right) // ps,
        temporal_ratio=config.temporal_ratio,
        spatial_ratio=ps,
        fps=reader.fps,
        width=reader.width,
        height=reader.height,
        crop=(0, 0, right, bottom),
        tail=tail,
        source={
            "name": source.resolve().name,
            "fingerprint": fingerprint(source),
            "read": chosen,
        },
        latent_mean=list(config.latent_mean) if config.latent_mean else None,
        latent_std=list(config.latent_std) if config.latent_std else None,
        color={
            "matrix": options.color_matrix or info.color_matrix,
            "range": info.color_range,
            "assumed": info.color_assumed and options.color_matrix is None,
            "tonemapped": info.hdr,
        },
        compute_dtype=tok.dtype_name,
    )


def fingerprint(source: Path) -> str:
    """SHA-256 fingerprint of a file, or of the names and contents of an image folder."""
    if not source.is_dir():
        return fingerprint_file(source)
    digest = hashlib.sha256()
    for file in sorted(p for p in source.iterdir() if p.is_file()):
        digest.update(f"{file.name}\0{fingerprint_file(file)}\0".encode())
    return digest.hexdigest()


def _encoded(
    output: Path,
    frames: int,
    shape: tuple[int, ...],
    plan: EncodePlan,
    seconds: float,
    new_frames: int,
    notices: tuple[str, ...],
) -> Encoded:
    t, c, h, w = shape
    return Encoded(
        output,
        frames,
        (t, c, h, w),
        plan.width,
        plan.height,
        plan.fps,
        seconds,
        new_frames,
        notices,
    )


def store_path(path: str | os.PathLike[str]) -> Path:
    """Check that a path names a store."""
    if Path(path).suffix != STORE_SUFFIX:
        raise UsageError(
            f"{os.fspath(path)!r} does not name a latent store",
            fix=f"Use a name that ends in {STORE_SUFFIX}.",
        )
    return Path(path)


@dataclass(frozen=True)
class Decoded:
    """What a decode did."""

    output: Path
    frames: int
    width: int
    height: int
    fps: Fraction
    seconds: float
    notices: tuple[str, ...]


def decode_store(
    tok: Tokenizer,
    store: LatentStore,
    output: str | os.PathLike[str],
    *,
    frames: tuple[int, int] | None = None,
    crf: int = 18,
    lossless: bool = False,
    audio_from: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Decoded:
    """Decode a store, or the frames `a:b` of it, into a video file, GIF or PNG folder.

    The output has the source's exact frame count, size and rate. A window reads only the latents
    it needs: its own and those of the decoder's temporal receptive field before them.

    Raises:
        ModelMismatchError: the store was made by another model.
        CorruptStoreError: a chunk is damaged; nothing is left at `output`.
        OutputExistsError, WriteError, VideoError, UsageError: about the output.
    """
    begun = time.monotonic()
    a, b = frames or (0, store.frames)
    if not 0 <= a < b <= store.frames:
        raise UsageError(f"frames {a}:{b}", why=f"the store has frames 0:{store.frames}")
    if audio_from is not None and (a, b) != (0, store.frames):
        raise UsageError(f"sound with frames {a}:{b}", why="it would not be in time")
    width, height = store.size
    times = None if store.timestamps is None else [float(t) for t in store.timestamps[a:b]]
    with (
        VideoWriter(
            output,
            width,
            height,
            store.fps,
            crf=crf,
            lossless=lossless,
            overwrite=overwrite,
            audio_from=audio_from,
            timestamps=times,
        ) as writer,
        Background(writer.write) as background,
    ):
        for chunk in decode_frames(tok, store, a, b):
            background.put(chunk)
            if progress:
                progress(len(chunk))
    seconds = time.monotonic() - begun
    return Decoded(Path(output), b - a, width, height, store.fps, seconds, tuple(writer.notices))


def decode_frames(
    tok: Tokenizer, store: LatentStore, a: int = 0, b: int | None = None
) -> Iterator[FramesTHWC]:
    """Frames `a:b` of a store in chunks, uint8 `[T, height, width, 3]` at the true size."""
    b = store.frames if b is None else b
    require_model(tok, store)
    width, height = store.size
    left, top = store.meta.crop[:2]
    first = max(0, group_of(a) - tok.net.decoder.past_latents)
    last = group_of(b - 1) + 1
    step = tok.chunk_groups(height, width)
    windows = ((g, min(g + step, last)) for g in range(first, last, step))
    chunks = prefetch(np.asarray(store.latents[g:end]) for g, end in windows)
    state: State | None = None
    # A stream begun at group g yields that group's last frame first.
    position = frames_in(first + 1) - 1
    try:
        for latents in chunks:
            decoded, state = tok.decode_step(latents, state)
            begin, end = max(a - position, 0), min(b - position, len(decoded))
            position += len(decoded)
            if begin < end:
                yield decoded[begin:end, top : top + height, left : left + width]
    finally:
        chunks.close()


def require_model(tok: Tokenizer, store: LatentStore) -> None:
    """Refuse a store that `tok` would decode into garbage.

    Raises:
        ModelMismatchError: another model made it.
        StoreError: it is segmented.
    """
    if store.model_sha256 != tok.sha256:
        raise ModelMismatchError(
            f"{store.path} was made by model {store.model_name!r} ({store.model_sha256[:12]})",
            why=f"this is {tok.name!r} ({tok.sha256[:12]})",
            fix="Give the model that made it with --model.",
        )
    if store.meta.segment is not None:
        raise StoreError(f"{store.path} is segmented", why="this version decodes one stream")
