"""How good a model is on clips it was not trained on: reconstruction, prediction, latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtok.contact_sheet import contact_sheet
from pvtok.errors import UsageError, VideoError
from pvtok.groups import FramesTHWC
from pvtok.media import VIDEO_SUFFIXES, find_media
from pvtok.metrics import psnr_per_frame
from pvtok.metrics.frame import PSNR_CAP_DB
from pvtok.prediction import with_border
from pvtok.tokenizer import Latents, Tokenizer
from pvtok.training.config import TrainConfig
from pvtok.training.data import render_clip
from pvtok.training.randomness import numpy_generator
from pvtok.video import ReadOptions, read_frames

SHEET_COLUMNS = 6


@dataclass(frozen=True)
class Clip:
    name: str
    frames: FramesTHWC


@dataclass(frozen=True)
class Validation:
    """Results over all clips, means over clips.

    Attributes:
        psnr: mean over frames of per-frame PSNR of the reconstruction, dB.
        psnr_of_mse: PSNR of each clip's mean squared error, dB.
        prediction_per_frame, copy_last_per_frame: PSNR against the truth of every predicted frame,
            and of repeating the last frame of the context; empty where no clip is long enough.
        wins: clips on which the prediction's mean is above that of repeating the last frame.
        predicted_clips: clips that are long enough to predict.
        ltd: latent temporal distance: root mean square over channels and places of the difference
            of adjacent latent frames, mean over all pairs. Channels are normalised over these
            clips, so latents that have nothing to do with each other are 1.41 apart. (The paper's
            L2 distance, section "Analyses", made independent of the latents' size.)
    """

    clips: int
    psnr: float
    psnr_of_mse: float
    predicted_clips: int
    prediction_per_frame: tuple[float, ...]
    copy_last_per_frame: tuple[float, ...]
    wins: int
    ltd: float | None
    sheet: NDArray[np.uint8] | None
    """Source, reconstruction and prediction of the first clips."""

    def row(self) -> dict[str, Any]:
        """For the log."""
        values: dict[str, Any] = {
            "clips": self.clips,
            "psnr": self.psnr,
            "psnr_of_mse": self.psnr_of_mse,
            "ltd": self.ltd,
        }
        if self.predicted_clips:
            values |= {
                "prediction_psnr": float(np.mean(self.prediction_per_frame)),
                "copy_last_psnr": float(np.mean(self.copy_last_per_frame)),
                "wins": self.wins,
                "predicted_clips": self.predicted_clips,
                "prediction_per_frame": list(self.prediction_per_frame),
                "copy_last_per_frame": list(self.copy_last_per_frame),
            }
        return values


def validation_clips(config: TrainConfig, held_out: Sequence[Path]) -> tuple[list[Clip], list[str]]:
    """The clips to validate on, decoded, and notices about those that could not be.

    The first `limit` of the configured files or, without any, of the held-out ones; scenes that
    training does not draw where the data are procedural and no file is held out.
    """
    wanted = config.validation
    options = ReadOptions(size=wanted.size, crop=True, max_frames=wanted.frames, tonemap=True)
    if wanted.clips:
        found = find_media(wanted.clips, VIDEO_SUFFIXES, "videos", key="validation.clips")
        held_out = [media.path for media in found]
    clips, notices = [], []
    for path in held_out[: wanted.limit]:
        try:
            clips.append(Clip(path.name, read_frames(path, options)))
        except VideoError as error:
            notices.append(f"not validated on {path}: {error}")
    if not held_out and config.data.procedural:
        for index in range(wanted.limit):
            rng = numpy_generator(config.seed, "validation", index)
            scene_CTHW = render_clip(rng, wanted.frames, wanted.size)
            clips.append(Clip(f"scene {index}", scene_CTHW.permute(1, 2, 3, 0).numpy().copy()))
    if wanted.clips and not clips and wanted.limit:
        raise UsageError("none of validation.clips can be read", why=notices[0])
    return clips, notices


def validate(
    tok: Tokenizer, clips: Sequence[Clip], *, context: int, horizon: int, samples: int
) -> Validation:
    """Reconstruct every clip, and predict `horizon` frames from its first `context`.

    Through the same steps as every user: frames of 8 bits in and out.
    """
    psnr, psnr_of_mse, wins = [], [], 0
    predictions: list[NDArray[np.float64]] = []
    copies: list[NDArray[np.float64]] = []
    latents: list[Latents] = []
    rows: list[tuple[str, FramesTHWC]] = []
    for clip in clips:
        frames = clip.frames
        z = tok.encode(frames)
        y = tok.decode(z)[: len(frames), : frames.shape[1], : frames.shape[2]]
        latents.append(z)
        psnr.append(float(_psnr(frames, y).mean()))
        error = np.square(frames.astype(np.float32) - y).mean(dtype=np.float64)
        psnr_of_mse.append(float(min(PSNR_CAP_DB, 10 * np.log10(255**2 / max(error, 1e-9)))))
        seen, truth = frames[:context], frames[context : context + horizon]
        shown = len(rows) < 3 * samples
        if shown:
            rows += [(clip.name, frames), ("reconstruction", y)]
        if len(truth) == horizon:
            future = tok.predict(seen, horizon, detail=False)  # the model's own
            predictions.append(_psnr(truth, future))
            copies.append(_psnr(truth, np.repeat(seen[-1:], horizon, axis=0)))
            wins += bool(predictions[-1].mean() > copies[-1].mean())
            if shown:
                predicted = np.concatenate([seen, with_border(future)])
                rows.append((f"prediction after {context} frames", predicted))
    return Validation(
        clips=len(clips),
        psnr=float(np.mean(psnr)),
        psnr_of_mse=float(np.mean(psnr_of_mse)),
        predicted_clips=len(predictions),
        prediction_per_frame=_means(predictions),
        copy_last_per_frame=_means(copies),
        wins=wins,
        ltd=latent_temporal_distance(latents),
        sheet=contact_sheet(rows, SHEET_COLUMNS) if rows else None,
    )


def latent_temporal_distance(clips: Sequence[Latents]) -> float | None:
    """See `Validation.ltd`; None where no clip has two latent frames."""
    every = np.concatenate([z.swapaxes(0, 1).reshape(z.shape[1], -1) for z in clips], axis=1)
    std = every.std(axis=1, dtype=np.float64)[:, None, None] + 1e-12
    distances = [np.sqrt(np.square(np.diff(z, axis=0) / std).mean((1, 2, 3))) for z in clips]
    every_pair = np.concatenate(distances)
    return float(every_pair.mean()) if len(every_pair) else None


def _psnr(truth: FramesTHWC, frames: FramesTHWC) -> NDArray[np.float64]:
    return np.minimum(psnr_per_frame(truth, frames), PSNR_CAP_DB)


def _means(values: Sequence[NDArray[np.float64]]) -> tuple[float, ...]:
    return tuple(float(v) for v in np.mean(values, axis=0)) if values else ()
