"""Frame metrics: PSNR, SSIM and MS-SSIM of a reconstruction against its reference.

Sources: SSIM, Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
Similarity"; MS-SSIM, Wang et al. 2003, "Multiscale Structural Similarity for Image Quality
Assessment". Both are computed by torchmetrics (the extra `eval`).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pvtok.errors import UsageError
from pvtok.groups import FramesTHWC

if TYPE_CHECKING:
    from torch import Tensor

PEAK = 255.0
PSNR_CAP_DB = 100.0
"""What PSNR counts for at most. Equal frames have an infinite PSNR: a mean over them says nothing
and JSON cannot hold it. One step in one sample of a 256x256 frame is 101 dB, so nothing but a frame
that is equal for all purposes is ever capped."""

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
MS_SSIM_SCALES = 5
MS_SSIM_MIN_SIDE = SSIM_WINDOW * 2 ** (MS_SSIM_SCALES - 1)
"""Shortest side MS-SSIM is defined for: the coarsest scale must still hold one whole window."""

_BATCH_PIXELS = 1 << 20  # of one float batch: bounds the memory whatever the chunk or frame size

PSNR_PROTOCOL = (
    f"PSNR: mean over frames of per-frame RGB PSNR, 8 bit, peak 255, capped at {PSNR_CAP_DB:g} dB "
    "per frame (equal frames count as the cap); PSNR of MSE: from the mean squared error of all "
    "frames together, same cap"
)
SSIM_PROTOCOL = (
    "SSIM: mean over frames, RGB, mean of the channels, Gaussian window 11x11, sigma 1.5, "
    "K1 0.01, K2 0.03, data range 255, windows inside the frame only"
)
MS_SSIM_PROTOCOL = (
    "MS-SSIM: mean over frames, RGB, 5 scales with the weights of Wang et al. 2003, window as "
    "SSIM, as torchmetrics computes it (the coarsest scale has reflected borders)"
)


@dataclass(frozen=True)
class FrameMetricsResult:
    """Metrics of one clip. A value that could not be had is None and `reasons` says why.

    Attributes:
        frames: frames compared.
        psnr: mean of `psnr_per_frame`, dB.
        psnr_of_mse: PSNR of the clip's mean squared error, dB; never above `psnr`.
        ssim, ms_ssim: means over frames; 1 is equal.
        psnr_per_frame: dB, each at most `PSNR_CAP_DB`; in the order of the frames.
        ssim_per_frame: in the order of the frames.
        equal_frames: frames without any difference, whose PSNR is the cap.
        reasons: why a metric is None, by the metric's name.
        protocol: how the numbers were made; belongs beside them wherever they are shown.
    """

    frames: int
    psnr: float
    psnr_of_mse: float
    ssim: float | None
    ms_ssim: float | None
    psnr_per_frame: list[float]
    ssim_per_frame: list[float] | None
    equal_frames: int
    reasons: dict[str, str] = field(default_factory=dict)
    protocol: str = ""

    def to_json(self) -> dict[str, Any]:
        """Means only, ready for JSON: finite numbers, or null with a `<metric>_reason` beside."""
        return {
            "frames": self.frames,
            "psnr": self.psnr,
            "psnr_of_mse": self.psnr_of_mse,
            "ssim": self.ssim,
            "ms_ssim": self.ms_ssim,
            "equal_frames": self.equal_frames,
            **{f"{metric}_reason": reason for metric, reason in self.reasons.items()},
            "protocol": self.protocol,
        }


def psnr_per_frame(reference: FramesTHWC, reconstruction: FramesTHWC) -> NDArray[np.float64]:
    """PSNR of every frame, dB, `[T]`; `inf` for equal frames.

    Args:
        reference, reconstruction: uint8 `[T, H, W, 3]`.

    Raises:
        UsageError: the arrays differ in shape or are not uint8 frames.
    """
    _check_pair(reference, reconstruction)
    return _psnr(_squared_error(reference, reconstruction) / _samples_per_frame(reference))


class FrameMetrics:
    """Accumulates the frame metrics of one clip, chunk by chunk, in bounded memory.

    Args:
        ssim, ms_ssim: whether to compute them (MS-SSIM costs about as much as all the rest).
        device: torch device SSIM and MS-SSIM are computed on.
    """

    def __init__(self, *, ssim: bool = True, ms_ssim: bool = True, device: str = "cpu") -> None:
        self._device = device
        self._size: tuple[int, int] | None = None
        self._mse: list[float] = []
        self._values: dict[str, list[float]] = {"ssim": [], "ms_ssim": []}
        self._reasons: dict[str, str] = {}
        for metric, wanted in (("ssim", ssim), ("ms_ssim", ms_ssim)):
            if not wanted:
                self._reasons[metric] = "not asked for"
            elif importlib.util.find_spec("torchmetrics") is None:
                self._reasons[metric] = "torchmetrics is missing: pip install 'pvtok[eval]'"

    def update(self, reference: FramesTHWC, reconstruction: FramesTHWC) -> None:
        """Compare one more chunk of the clip.

        Args:
            reference, reconstruction: uint8 `[T, H, W, 3]`; any T, one size for the whole clip.

        Raises:
            UsageError: shapes differ from each other or from earlier chunks, or are not uint8.
        """
        _check_pair(reference, reconstruction)
        size = (reference.shape[1], reference.shape[2])
        if self._size is None:
            self._size = size
            self._rule_out_by_size(min(size))
        elif size != self._size:
            raise UsageError(
                f"a chunk of {size[1]}x{size[0]} frames after {self._size[1]}x{self._size[0]}",
                fix="Use one FrameMetrics per clip.",
            )
        mse = _squared_error(reference, reconstruction) / _samples_per_frame(reference)
        self._mse.extend(mse.tolist())
        for metric, values in self._values.items():
            if metric not in self._reasons:
                values.extend(_structural(metric, reference, reconstruction, self._device))

    def result(self) -> FrameMetricsResult:
        """Metrics of all frames so far.

        Raises:
            UsageError: no frame was compared.
        """
        if not self._mse:
            raise UsageError("no frames to compare", fix="Give clips of at least one frame.")
        psnr = np.minimum(_psnr(np.array(self._mse)), PSNR_CAP_DB)
        of_mse = np.minimum(_psnr(np.mean(self._mse, keepdims=True)), PSNR_CAP_DB)
        has_ssim, has_ms_ssim = ("ssim" not in self._reasons, "ms_ssim" not in self._reasons)
        return FrameMetricsResult(
            frames=len(self._mse),
            psnr=float(psnr.mean()),
            psnr_of_mse=float(of_mse[0]),
            ssim=float(np.mean(self._values["ssim"])) if has_ssim else None,
            ms_ssim=float(np.mean(self._values["ms_ssim"])) if has_ms_ssim else None,
            psnr_per_frame=psnr.tolist(),
            ssim_per_frame=list(self._values["ssim"]) if has_ssim else None,
            equal_frames=self._mse.count(0.0),
            reasons=dict(self._reasons),
            protocol="; ".join(
                text
                for text, shown in (
                    (PSNR_PROTOCOL, True),
                    (SSIM_PROTOCOL, has_ssim),
                    (MS_SSIM_PROTOCOL, has_ms_ssim),
                )
                if shown
            ),
        )

    def _rule_out_by_size(self, side: int) -> None:
        for metric, least in (("ssim", SSIM_WINDOW), ("ms_ssim", MS_SSIM_MIN_SIDE)):
            if side < least:
                self._reasons.setdefault(
                    metric, f"needs sides of at least {least} pixels, the shorter one is {side}"
                )


def _check_pair(reference: FramesTHWC, reconstruction: FramesTHWC) -> None:
    for name, frames in (("reference", reference), ("reconstruction", reconstruction)):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise UsageError(
                f"{name} is {frames.dtype} {frames.shape}", why="frames are uint8 [T, H, W, 3]"
            )
    if reference.shape != reconstruction.shape:
        raise UsageError(
            f"reference {reference.shape} and reconstruction {reconstruction.shape} differ in shape"
        )
    if 0 in reference.shape[1:]:
        raise UsageError(f"frames of shape {reference.shape} hold no pixels")


def _samples_per_frame(frames: FramesTHWC) -> int:
    return int(np.prod(frames.shape[1:]))


def _squared_error(reference: FramesTHWC, reconstruction: FramesTHWC) -> NDArray[np.int64]:
    """Sum of squared differences of every frame, exact, `[T]`."""
    return np.array(
        [
            # Frame by frame: the wide temporaries stay small.
            np.square(np.subtract(a, b, dtype=np.int16), dtype=np.int32).sum(dtype=np.int64)
            for a, b in zip(reference, reconstruction, strict=True)
        ],
        dtype=np.int64,
    )


def _psnr(mse: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.asarray(10.0 * np.log10(PEAK**2 / mse), dtype=np.float64)


def _structural(
    metric: str, reference: FramesTHWC, reconstruction: FramesTHWC, device: str
) -> list[float]:
    """SSIM ("ssim") or MS-SSIM ("ms_ssim") of every frame."""
    import torch

    measure = _ssim if metric == "ssim" else _ms_ssim
    _, height, width, _ = reference.shape
    batch = max(1, _BATCH_PIXELS // (height * width))
    values: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(reference), batch):
            a_TCHW, b_TCHW = (
                torch.from_numpy(np.ascontiguousarray(frames[start : start + batch]))
                .to(device)
                .permute(0, 3, 1, 2)
                .float()
                .contiguous()
                for frames in (reconstruction, reference)
            )
            values.extend(measure(a_TCHW, b_TCHW).double().reshape(-1).tolist())
    return values


def _ssim(a_TCHW: Tensor, b_TCHW: Tensor) -> Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, map_TCHW = structural_similarity_index_measure(
        a_TCHW,
        b_TCHW,
        sigma=SSIM_SIGMA,
        data_range=PEAK,
        reduction="none",
        return_full_image=True,
    )
    # The library's own mean takes in windows over reflected borders, which the paper has not.
    border = SSIM_WINDOW // 2
    inside: Tensor = map_TCHW[..., border:-border, border:-border]
    return inside.mean(dim=(1, 2, 3))


def _ms_ssim(a_TCHW: Tensor, b_TCHW: Tensor) -> Tensor:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    return multiscale_structural_similarity_index_measure(
        a_TCHW,
        b_TCHW,
        sigma=SSIM_SIGMA,
        kernel_size=SSIM_WINDOW,
        data_range=PEAK,
        reduction="none",
    )
