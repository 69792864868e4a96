"""`pvtok eval`: how good a reconstruction is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command
from pvtok.cli.inputs import one_video


@command
def evaluate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The original video.")],
    reconstruction: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECON",
            help="A video or a latent store. (default: the model's own reconstruction)",
        ),
    ] = None,
    vmaf: Annotated[bool, typer.Option("--vmaf/--no-vmaf", help="Compute VMAF too.")] = True,
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
    """Compare a reconstruction with its source: PSNR, SSIM, MS-SSIM and VMAF.

    Without RECON the source is encoded and decoded in memory. The protocol is printed with the
    numbers; what could not be computed says why.

    Examples:

      pvtok eval video.mp4 --size 256 --crop --max-frames 32

      pvtok eval video.mp4 latents.zarr

      pvtok eval video.mp4 decoded.mp4 --json
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    from pvtok.convert import expected_frames
    from pvtok.evaluation import evaluate_files, evaluate_model
    from pvtok.store import open_store
    from pvtok.video import VideoReader

    path = one_video([source])
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
    with VideoReader(path, options) as reader:
        total = expected_frames(reader)
    tok = None
    if reconstruction is None or common.is_store(reconstruction):
        name = model or "tiny"
        if reconstruction is not None:
            name = common.store_model(open_store(reconstruction), model)
        tok = common.load_tokenizer(
            console,
            name,
            device,
            fp32=fp32,
            fp16=fp16,
            bf16=bf16,
            compile=compile,
            kernels=kernels,
        )
    with console.progress(f"evaluating {path.name}", total) as advance:
        if reconstruction is None:
            assert tok is not None
            found = evaluate_model(tok, path, options=options, with_vmaf=vmaf, progress=advance)
        else:
            found = evaluate_files(
                path, reconstruction, tok=tok, options=options, with_vmaf=vmaf, progress=advance
            )
    for notice in found.notices:
        console.say(f"{path.name}: {notice}")
    values = {"source": str(path), **found.to_json()}
    rows = [
        ("PSNR", "psnr", "dB"),
        ("SSIM", "ssim", ""),
        ("MS-SSIM", "ms_ssim", ""),
        ("VMAF", "vmaf", ""),
    ]
    lines = [f"{path.name}: {found.frames.frames} frames of {found.width}x{found.height}"]
    for label, key, unit in rows:
        value = values[key]
        shown = (
            f"{value:.4f}".rstrip("0") + f" {unit}"
            if value is not None
            else f"- ({values[f'{key}_reason']})"
        )
        lines.append(f"  {label:<8}{shown}")
    lines.append(f"protocol: {found.protocol}")
    console.result(values, "\n".join(lines))
