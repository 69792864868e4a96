"""How good a reconstruction is: numbers together with the protocol that makes them comparable."""

from pvtok.metrics.frame import FrameMetrics, FrameMetricsResult, psnr_per_frame
from pvtok.metrics.vmaf import VMAF_PROTOCOL, vmaf, why_no_vmaf

__all__ = [
    "VMAF_PROTOCOL",
    "FrameMetrics",
    "FrameMetricsResult",
    "psnr_per_frame",
    "vmaf",
    "why_no_vmaf",
]
