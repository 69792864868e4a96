"""`pvtok decode`: a latent store to a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtok.cli import common
from pvtok.cli.common import Console, command
from pvtok.errors import UsageError


@command
def decode(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A latent store.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help=".mp4, .mkv, .mov, .webm, .avi or .gif; a name without suffix is a PNG folder.",
        ),
    ],
    frames: Annotated[
        str | None,
        typer.Option(
            metavar="A:B",
            help="Only frames A up to but without B; either may be left out, negative ones count "
            "from the end.",
        ),
    ] = None,
    crf: common.Crf = 18,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Code the video losslessly.")
    ] = False,
    audio_from: Annotated[
        Path | None, typer.Option(help="Take the sound of this file along.")
    ] = None,
    overwrite: common.Overwrite = False,
    dry_run: common.DryRun = False,
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
    """Decode a latent store into a video of the source's exact frame count, size and rate.

    Examples:

      pvtok decode latents.zarr -o video.mp4

      pvtok decode latents.zarr -o part.mp4 --frames 100:200

      pvtok decode latents.zarr -o frames/
    """
    console = Console(json=json, quiet=quiet, verbose=verbose)
    from pvtok.convert import decode_store
    from pvtok.store import open_store

    source = open_store(store)
    window = _window(frames, source.frames)
    count = window[1] - window[0]
    if dry_run:
        console.result(
            {
                "input": str(store),
                "output": str(output),
                "frames": count,
                "width": source.size[0],
                "height": source.size[1],
                "fps": float(source.fps),
                "latent_shape": list(source.latents.shape),
                "bytes": None,
                "dry_run": True,
            },
            f"{store} -> {output}: {count} frames of {source.size[0]}x{source.size[1]} at "
            f"{common.rate_text(source.fps)}/s",
        )
        return
    tok = common.load_tokenizer(
        console,
        common.store_model(source, model),
        device,
        fp32=fp32,
        fp16=fp16,
        bf16=bf16,
        compile=compile,
        kernels=kernels,
    )
    with console.progress(f"decoding {store.name}", count) as advance:
        done = decode_store(
            tok,
            source,
            output,
            frames=window,
            crf=crf,
            lossless=lossless,
            audio_from=audio_from,
            overwrite=overwrite,
            progress=advance,
        )
    for notice in done.notices:
        console.say(f"{output}: {notice}")
    console.result(
        {
            "output": str(output),
            "frames": done.frames,
            "width": done.width,
            "height": done.height,
            "fps": float(done.fps),
            "seconds": done.seconds,
            "frames_per_second": done.frames / done.seconds,
            "notices": list(done.notices),
        },
        f"{output}: {done.frames} frames of {done.width}x{done.height} at "
        f"{common.rate_text(done.fps)}/s, {done.frames / done.seconds:.1f} frames/s",
    )


def _window(text: str | None, frames: int) -> tuple[int, int]:
    if text is None:
        return 0, frames
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        a, b = int(first or 0), int(last) if last else frames
    except ValueError as error:
        raise UsageError(f"--frames {text!r}", fix="Use A:B, such as 100:200.") from error
    a, b = (n + frames if n < 0 else n for n in (a, b))
    if not 0 <= a < b <= frames:
        raise UsageError(f"--frames {text}", why=f"the store has frames 0:{frames}")
    return a, b
