"""Detail that latents lost, carried over into predicted frames.

A prediction is decoded from latents, so it lacks what coding took from the context. Where the
context's pixels are at hand and the model predicts that nothing changes, that detail is still
there: the coding error of the last context frame is added, and fades where motion is predicted.
Nothing of the true future is used. The method is ours.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from pvtok.groups import FramesTHWC

STILL = 8.0
"""Predicted change, in steps of 1/255 (root mean square over `NEIGHBOURHOOD`), at which 61 % of
the detail is kept. Chosen among 4, 8 and 16 with an untrained model; the three differ by 0.1 dB."""
NEIGHBOURHOOD = 9
"""Pixels a side over which change is averaged."""


def carry_detail(
    predicted: FramesTHWC, last_decoded: FramesTHWC, last_seen: FramesTHWC
) -> FramesTHWC:
    """Add the detail of the last context frame.

    Args:
        predicted: uint8 `(T, H, W, 3)`.
        last_decoded, last_seen: the context's last frame, decoded and true, `(1, H, W, 3)`.
    """
    decoded, seen = (
        torch.from_numpy(f.astype(np.float32)).movedim(-1, 1) for f in (last_decoded, last_seen)
    )
    frames = []
    for frame in predicted:  # one at a time: large frames, long predictions
        y = torch.from_numpy(frame.astype(np.float32)).movedim(-1, 0)[None]
        change = (y - decoded).square().mean(1, keepdim=True)
        change = F.avg_pool2d(change, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False)
        kept = torch.exp(-change / (2 * STILL**2))
        y = (y + kept * (seen - decoded)).round().clamp(0, 255)
        frames.append(y.movedim(1, -1).to(torch.uint8).numpy())
    return np.concatenate(frames)
