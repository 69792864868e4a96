"""The patch code's faster forms against their definitions."""

from __future__ import annotations

import pytest
import torch

from pvtok.model.patch_code import expert_places, mixed_maps, sparsely_mixed_maps, steps_per_unit


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("experts", [4, 64])
def test_leaving_out_experts_that_weigh_nothing(experts: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 6, generator=generator)
    maps = torch.randn(experts, 6, 7, generator=generator)
    # Places on the grid, half way between neighbours, and beyond its edge.
    places = expert_places(experts, x.device)
    chosen = torch.randint(experts, (2, 3, 5), generator=generator)
    place = places[chosen] + offset / steps_per_unit(experts)
    distance = (place[..., None, :] - places).square().sum(-1)
    sharpness = 0.5 * (5 * steps_per_unit(experts)) ** 2
    weights = torch.softmax(-sharpness * distance, dim=-1)
    sparse = sparsely_mixed_maps(x, weights, maps)
    torch.testing.assert_close(sparse, mixed_maps(x, weights, maps))


def test_any_mix_is_right_however_even() -> None:
    x, maps = torch.randn(4, 6), torch.randn(9, 6, 5)
    even = torch.full((4, 9), 1 / 9)
    torch.testing.assert_close(sparsely_mixed_maps(x, even, maps), mixed_maps(x, even, maps))
