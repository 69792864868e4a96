"""`pvtok encode`: a video to a latent store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command
from pvtok.cli.inputs import one_video


@command
def encode(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="A video file, a GIF, a folder of images, a glob or @list.txt that names one.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.zarr", help="The store to make.")
    ],
    tail: Annotated[
        str,
        typer.Option(
            help="Frames that do not fill the last group of four: repeat_last, drop or error."
        ),
    ] = "repeat_last",
    codec: Annotated[
        str,
        typer.Option(help="Compression of chunks: none or zstd (Gaussian latents gain little)."),
    ] = "none",
    overwrite: common.Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an encode that was interrupted.")
    ] = False,
    dry_run: common.DryRun = False,
    size: common.Size = None,
    crop: common.Crop = False,
    max_frames: common.MaxFrames = None,
    start: common.StartAt = 0.0,
    duration: common.Duration = None,
    fps: common.Fps = None,
    color_matrix: common.Matrix = None,
    tonemap: common.Tonemap = False,
    deinterlace: common.Deinterlace = False,
    allow_truncated: common.AllowTruncated = False,
    model: common.Model = None,
    device: common.Device = "auto",
    fp32: common.Fp32 = False,
    fp16: common.Fp16 = False,
    bf16: common.Bf16 = False,
    compile: common.Compile = False,
    kernels: common.Kernels = "auto",
    seed: common.Seed = 0,
    json: common.Json = False,
    quiet: common.Quiet = False,
    verbose: common.Verbose = False,
    debug: common.Debug = False,
) -> None:
    """Encode a video into a chunked Zarr store of latents.

    Any length and size go in; the true ones are kept and come out again on decoding. Every latent
    frame stands for four frames of 16x16 pixels (the first for one frame). A killed encode leaves
    no store that looks whole, and goes on with --resume.

    Examples:

      pvtok encode video.mp4 -o latents.zarr

      pvtok encode video.mp4 -o small.zarr --size 256 --crop --max-frames 32

      pvtok encode frames/ -o latents.zarr --fps 24 --json
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    from pvtok.convert import encode_video, plan_encode, store_path
    from pvtok.errors import UsageError
    from pvtok.groups import TAIL_POLICIES
    from pvtok.video import VideoReader

    source = one_video(inputs)
    store_path(output)
    if tail not in TAIL_POLICIES:
        raise UsageError(f"--tail {tail!r}", fix=f"Use one of {', '.join(TAIL_POLICIES)}.")
    if codec not in ("none", "zstd"):
        raise UsageError(f"--codec {codec!r}", fix="Use none or zstd.")
    options = common.read_options(
        size=size,
        crop=crop,
        start=start,
        duration=duration,
        max_frames=max_frames,
        fps=fps,
        color_matrix=color_matrix,
        tonemap=tonemap,
        deinterlace=deinterlace,
        allow_truncated=allow_truncated,
    )
    with VideoReader(source, options) as reader:  # names what is wrong before a model is loaded
        tok = common.load_tokenizer(
            console,
            model or "tiny",
            device,
            fp32=fp32,
            fp16=fp16,
            bf16=bf16,
            compile=compile,
            kernels=kernels,
        )
        plan = plan_encode(tok, reader, tail)
    if dry_run:
        console.result(
            {
                "input": str(source),
                "output": str(output),
                "frames": plan.frames,
                "width": plan.width,
                "height": plan.height,
                "fps": float(plan.fps),
                "latent_shape": list(plan.latent_shape),
                "bytes": plan.bytes,
                "memory_bytes": plan.memory_bytes,
                "model": tok.name,
                "dry_run": True,
            },
            f"{source}: about {plan.frames if plan.frames is not None else '?'} frames, "
            f"{plan.width}x{plan.height} at {common.rate_text(plan.fps)}/s -> {output}: latents "
            f"{common.shape_text(plan.latent_shape)} float16, {common.megabytes(plan.bytes)}; "
            f"working memory about {common.megabytes(plan.memory_bytes)}",
        )
        return
    with console.progress(f"encoding {source.name}", plan.frames) as advance:
        done = encode_video(
            tok,
            source,
            output,
            options=options,
            tail=tail,
            codec=codec,  # type: ignore[arg-type]
            overwrite=overwrite,
            resume=resume,
            progress=advance,
        )
    for notice in done.notices:
        console.say(f"{source.name}: {notice}")
    speed = done.new_frames / done.seconds if done.seconds else 0.0
    console.result(
        {
            "output": str(output),
            "frames": done.frames,
            "latent_shape": list(done.latent_shape),
            "width": done.width,
            "height": done.height,
            "fps": float(done.fps),
            "seconds": done.seconds,
            "frames_per_second": speed,
            "model": tok.name,
            "model_sha256": tok.sha256,
            "new_frames": done.new_frames,
            "notices": list(done.notices),
        },
        f"{output}: {done.frames} frames of {done.width}x{done.height} at "
        f"{common.rate_text(done.fps)}/s as latents {common.shape_text(done.latent_shape)}"
        + (f", {speed:.1f} frames/s" if done.new_frames else "; it was complete already"),
    )
