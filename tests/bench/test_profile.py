"""Time by kind of operation adds up."""

from __future__ import annotations

import pytest
import torch

from pvtok.bench.profile import breakdown, kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::slow_conv3d_forward", "convolution"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "convolution"),
        ("aten::addmm", "linear"),
        ("aten::silu", "norm and activation"),
        ("aten::cat", "copy and layout"),
        ("Memcpy DtoH (Device -> Pageable)", "copy and layout"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::mul", "elementwise"),
        ("triton_poi_fused_add_3", "fused by compile"),
        ("aten::rand", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_shares_add_up_and_name_what_ran() -> None:
    weight, x = torch.randn(16, 16, 3, 3), torch.randn(2, 16, 64, 64)

    def run() -> None:
        torch.cat([torch.conv2d(x, weight)] * 3).mul(2.0)

    found = breakdown(run, torch.device("cpu"), top=3)
    kinds = {share.kind: share for share in found if not share.name}
    assert {"convolution", "copy and layout", "elementwise"} <= kinds.keys()
    assert sum(share.share for share in kinds.values()) == pytest.approx(1.0)
    operations = [share for share in found if share.name]
    assert len(operations) == 3
    assert operations[0].milliseconds >= operations[1].milliseconds
