"""`pvtok predict`: what comes next, after a context."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command
from pvtok.errors import StoreError, UsageError

DEFAULT_SOURCE = "latents.zarr"


@command
def predict(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE", help=f"A video or a store. (default: {DEFAULT_SOURCE} here)"
        ),
    ] = None,
    context: Annotated[
        int, typer.Option(help="Frames the model sees; a store rounds them up to whole groups.")
    ] = 9,
    at: Annotated[
        str, typer.Option(help="First frame of the context, or 'end' to predict beyond the end.")
    ] = "0",
    frames: Annotated[
        int | None,
        typer.Option(help="Frames to predict. (default: up to the model's training length)"),
    ] = None,
    detail: Annotated[
        bool,
        typer.Option(
            "--detail/--no-detail",
            help="Give still parts the detail that the latents lost (videos only).",
        ),
    ] = True,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT", help="Context and predicted frames, as for decode."
        ),
    ] = Path("predicted.mp4"),
    crf: common.Crf = 18,
    overwrite: common.Overwrite = False,
    dry_run: common.DryRun = False,
    size: common.Size = None,
    crop: common.Crop = False,
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
    """Predict the frames that follow a context, and compare them with what really came.

    The latents of unseen frames are replaced by the model's padding token and decoded. The output
    shows the context, then the predicted frames in an orange border. Beyond the model's training
    length it goes on from its own predictions. Of a video, not of a store, still parts get back
    the detail that the latents lost; --no-detail shows the decoder's output alone.

    Examples:

      pvtok predict --context 8

      pvtok predict video.mp4 --context 9 --frames 16 -o future.mp4

      pvtok predict latents.zarr --context 17 --at end --json
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    start = _start(at)
    if context < 1:
        raise UsageError(f"--context {context}", why="prediction needs at least one frame")
    if frames is not None and frames < 1:
        raise UsageError(f"--frames {frames}", why="at least one frame must be predicted")
    path = source or Path(DEFAULT_SOURCE)
    if source is None and not path.exists():
        raise StoreError(
            f"there is no {DEFAULT_SOURCE} in this folder",
            fix=f"Make one with 'pvtok encode VIDEO -o {DEFAULT_SOURCE}', or name a SOURCE.",
        )
    from pvtok.convert import expected_frames
    from pvtok.prediction import predict_store, predict_video, with_border
    from pvtok.store import open_store
    from pvtok.video import VideoReader, VideoWriter

    store = open_store(path) if common.is_store(path) else None
    if store is not None and (size is not None or crop):
        raise UsageError("--size and --crop", why="a store has its size already")
    options = common.read_options(size=size, crop=crop)
    total = store.frames if store else None
    if store is None:
        with VideoReader(path, options) as reader:
            total = expected_frames(reader)
    tok = common.load_tokenizer(
        console,
        common.store_model(store, model) if store else model or "tiny",
        device,
        fp32=fp32,
        fp16=fp16,
        bf16=bf16,
        compile=compile,
        kernels=kernels,
    )
    if dry_run:
        wanted = tok.default_horizon(context) if frames is None else frames
        console.result(
            {
                "input": str(path),
                "output": str(output),
                "frames": total,
                "context_frames": context,
                "predicted_frames": wanted,
                "dry_run": True,
            },
            f"{path} -> {output}: {context} frames of context, {wanted} predicted",
        )
        return
    if store:
        made = predict_store(tok, store, context, at=start, frames=frames, seed=seed)
    else:
        made = predict_video(
            tok,
            path,
            context,
            at=start,
            frames=frames,
            options=options,
            detail=detail,
            seed=seed,
        )
    height, width = made.context.shape[1:3]
    with VideoWriter(output, width, height, made.fps, crf=crf, overwrite=overwrite) as writer:
        writer.write(made.context)
        writer.write(with_border(made.predicted))
    notices = [*made.notices, *writer.notices]
    for notice in notices:
        console.say(notice)
    scores, copied = made.against_truth(), made.copy_last_against_truth()
    values: dict[str, Any] = {
        "output": str(output),
        "context_frames": len(made.context),
        "predicted_frames": len(made.predicted),
        "psnr": scores.psnr if scores else None,
        "psnr_copy_last": copied.psnr if copied else None,
        "psnr_per_frame": scores.psnr_per_frame if scores else None,
        "psnr_copy_last_per_frame": copied.psnr_per_frame if copied else None,
        "ssim_per_frame": scores.ssim_per_frame if scores else None,
        "ssim_copy_last_per_frame": copied.ssim_per_frame if copied else None,
        "truth": made.truth_source,
        "truth_frames": len(made.truth),
        "model": tok.name,
        "notices": notices,
    }
    lines = [f"{output}: {len(made.context)} frames of context, {len(made.predicted)} predicted"]
    if scores and copied:
        lines += _table(made.truth_source or "", scores, copied)
    console.result(values, "\n".join(lines))


def _start(text: str) -> Any:
    if text == "end":
        return "end"
    try:
        start = int(text)
    except ValueError as error:
        raise UsageError(f"--at {text!r}", fix="Use a frame number or 'end'.") from error
    if start < 0:
        raise UsageError(f"--at {text}", why="frames are counted from 0", fix="Or use 'end'.")
    return start


def _table(truth: str, scores: Any, copied: Any) -> list[str]:
    """Per predicted frame: the model and copying the last frame, against the truth."""
    against = {"video": "the video", "reconstruction": "the store's own later frames"}[truth]
    lines = [
        f"against {against}:",
        "frame  PSNR dB  copy-last    SSIM  copy-last",
    ]
    ssim = scores.ssim_per_frame or [None] * scores.frames
    ssim_copied = copied.ssim_per_frame or [None] * copied.frames
    for i in range(scores.frames):
        a, b = (f"{v:.4f}" if v is not None else "-" for v in (ssim[i], ssim_copied[i]))
        lines.append(
            f"{i + 1:>5}  {scores.psnr_per_frame[i]:>7.2f}  {copied.psnr_per_frame[i]:>9.2f}"
            f"  {a:>6}  {b:>9}"
        )
    lines.append(f" mean  {scores.psnr:>7.2f}  {copied.psnr:>9.2f}")
    return lines
