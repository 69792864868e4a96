"""Loss terms and their sum."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pvtok.errors import UsageError
from pvtok.training.losses import RELATIVE_FLOOR, LossConfig, Terms, reconstruction_terms


def clips(frames: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, frames, 16, 16, generator=generator) * 2 - 1
    return x + 0.1 * torch.randn(x.shape, generator=generator), x


def test_terms_are_the_errors_of_frames_and_of_their_changes() -> None:
    y, x = clips()
    terms = reconstruction_terms(y, x, LossConfig(mse=2.0, difference=0.5))
    mse = (y - x).square().mean()
    changes = ((y[:, :, 1:] - y[:, :, :-1]) - (x[:, :, 1:] - x[:, :, :-1])).square().mean()
    torch.testing.assert_close(terms.values["mse"], mse)
    torch.testing.assert_close(terms.values["difference"], changes)
    # The first frame has no change, and the sum is a mean over all frames.
    torch.testing.assert_close(terms.total, 2.0 * mse + 0.5 * changes * 4 / 5)


def test_an_image_has_no_difference() -> None:
    y, x = clips(frames=1)
    terms = reconstruction_terms(y, x, LossConfig())
    assert float(terms.values["difference"]) == 0.0
    torch.testing.assert_close(terms.total, (y - x).square().mean())


def test_errors_are_computed_in_fp32() -> None:
    y, x = clips()
    y, x = y.bfloat16(), x.bfloat16()
    terms = reconstruction_terms(y, x, LossConfig(difference=0.0))
    assert terms.total.dtype == torch.float32
    torch.testing.assert_close(terms.total, (y.float() - x.float()).square().mean())


def test_relative_errors_have_the_gradient_of_the_mean_log() -> None:
    y, x = clips()
    y = (
        x + (y - x) * torch.tensor([0.1, 1.0, 3.0, 0.3, 10.0]).view(1, 1, 5, 1, 1)
    ).requires_grad_()
    config = LossConfig(difference=0.0, relative=True)
    (relative,) = torch.autograd.grad(reconstruction_terms(y, x, config).total, y)
    log = ((y - x).square().mean((1, 3, 4)) + RELATIVE_FLOOR).log().mean()
    torch.testing.assert_close(relative, torch.autograd.grad(log, y)[0])
    # What is logged stays absolute.
    assert torch.equal(
        reconstruction_terms(y, x, config).values["mse"],
        reconstruction_terms(y, x, LossConfig()).values["mse"],
    )


def test_a_sum_keeps_every_unweighted_value() -> None:
    value = torch.tensor(3.0, requires_grad=True)
    terms = Terms(torch.tensor(1.0), {"mse": torch.tensor(1.0)})
    terms = terms.plus("kl", value, 0.5).plus("generator", value, torch.tensor(2.0))
    assert float(terms.total.detach()) == 1.0 + 1.5 + 6.0
    assert {k: float(v) for k, v in terms.values.items()} == {"mse": 1, "kl": 3, "generator": 3}
    assert not any(v.requires_grad for v in terms.values.values())
    terms.total.backward()
    assert float(value.grad) == 2.5  # type: ignore[arg-type]


def test_a_term_of_weight_zero_is_only_logged() -> None:
    terms = Terms(torch.tensor(1.0), {}).plus("kl", torch.tensor(math.nan), 0.0)
    assert float(terms.total) == 1.0
    assert terms.values["kl"].isnan()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mse": -1.0}, "mse = -1.0"),
        ({"difference": math.nan}, "difference = nan"),
        ({"kl": math.inf}, "kl = inf"),
        ({"lpips": -0.1}, "lpips = -0.1"),
        ({"adversarial": -1.0}, "adversarial = -1.0"),
        ({"lecam": -1.0}, "lecam = -1.0"),
        ({"lpips_frames": -1}, "lpips_frames = -1"),
        ({"adversarial_start": -1}, "adversarial_start = -1"),
        ({"discriminator_width": 0}, "discriminator_width = 0"),
        ({"discriminator_levels": 0}, "discriminator_levels = 0"),
        ({"lpips_net": "squeeze"}, "'squeeze'.*vgg or alex"),
        ({"adversarial_weighting": "auto"}, "'auto'.*adaptive or fixed"),
        ({"discriminator_norm": "batch"}, "'batch'.*spectral or group or none"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        dataclasses.replace(LossConfig(), **change)  # type: ignore[arg-type]
