"""Nearest x2 upsampling followed by a 3-tap convolution, plainly and folded.

Of the three taps that a convolution lays on a twice-repeated signal, two always meet the same
source sample. Adding their weights once leaves two taps per axis on the source: 9 -> 4 multiplies
per output in space, 27 -> 8 with time, and the upsampled signal is never made. Exact but for
rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtok.kernels.causal_conv3d import causal_conv3d, with_past
from pvtok.kernels.products import convolve


def upsample_conv(
    x_BCTHW: Tensor, past_BCKHW: Tensor | None, weight_OIDHW: Tensor, bias_O: Tensor | None
) -> Tensor:
    """Repeat each sample twice along height and width (and time, for a 3-tap time filter), then
    convolve, causally in time.

    `past_BCKHW` is the one source frame before the chunk, None (zeros) before the first, and not
    used where the filter has one tap in time.

    Returns:
        `[B, O, T or 2T, 2H, 2W]`.
    """
    temporal = weight_OIDHW.shape[2] == 3
    if temporal:
        x_BCTHW = with_past(x_BCTHW, past_BCKHW, 1).repeat_interleave(2, dim=2)
    x_BCTHW = x_BCTHW.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    return convolve(F.conv3d, x_BCTHW, weight_OIDHW, bias_O, padding=(0, 1, 1))


def fold_upsample_weight(weight_OIDHW: Tensor) -> Tensor:
    """The folded filters: `[P * O, I, 2 or 1, 2, 2]` with `P` phases, ordered (time, y, x, O)."""
    w_POI = weight_OIDHW.unsqueeze(0)  # [P, O, I, kt, kh, kw]
    if weight_OIDHW.shape[2] == 3:  # time: both phases read (previous, current)
        w_POI = _fold(w_POI, axis=3)
    w_POI = _fold(w_POI, axis=4)
    w_POI = _fold(w_POI, axis=5)
    return w_POI.flatten(0, 1)


def _fold(w: Tensor, axis: int) -> Tensor:
    """Split the leading phase axis in two, merging taps along `axis`.

    Even outputs 2i meet source i-1 with tap 0 and i with taps 1, 2; odd outputs 2i+1 meet i with
    taps 0, 1 and i+1 with tap 2. For causal time the same merge reads (i-1, i) in both phases, with
    taps (0, 1 | 2) for even outputs and (0 | 1, 2) for odd ones.
    """
    a, b, c = w.unbind(axis)
    even, odd = torch.stack([a, b + c], axis), torch.stack([a + b, c], axis)
    pair = [odd, even] if axis == 3 else [even, odd]
    return torch.stack(pair, dim=1).flatten(0, 1)


def upsample_conv_folded(
    x_BCTHW: Tensor, past_BCKHW: Tensor | None, folded_QIDHW: Tensor, bias_O: Tensor | None
) -> Tensor:
    """`upsample_conv` by the filters of `fold_upsample_weight`.

    One convolution makes all phases on a grid one larger than the source; each phase is read from
    it with its own offset.
    """
    pt = folded_QIDHW.shape[2]
    bias = None if bias_O is None else bias_O.repeat(4 * pt)
    phases = causal_conv3d(x_BCTHW, past_BCKHW, folded_QIDHW, bias, padding=(1, 1))
    B, Q, T, H1, W1 = phases.shape
    H, W, O = H1 - 1, W1 - 1, Q // (4 * pt)
    phases = phases.movedim(1, -1).unflatten(-1, (pt, 2, 2, O))
    rows = []
    for y in (0, 1):
        columns = [phases[:, :, y : y + H, x : x + W, :, y, x].movedim(4, 2) for x in (0, 1)]
        rows.append(torch.stack(columns, dim=5))  # [B, T, pt, H, W, 2, O]
    out = torch.stack(rows, dim=4)  # [B, T, pt, H, 2, W, 2, O]
    return out.reshape(B, T * pt, 2 * H, 2 * W, O).movedim(-1, 1)
