"""Families of contenders: same weights, random ones that are nowhere zero."""

from __future__ import annotations

import pytest
import torch

from pvtok.bench.contenders import OurFamily, is_random, our_contender, random_net, steps_for
from pvtok.configs import PRESETS
from pvtok.errors import MissingDependencyError, UsageError
from tests.models import SMALL, small_tokenizer


def test_random_weights_are_nowhere_zero_and_follow_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PRESETS, "small", SMALL["patch2"])
    before = torch.get_rng_state()
    a, same, other = (random_net("small", seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(bool(value.any()) for value in a.values())
    assert all(torch.equal(value, same[name]) for name, value in a.items())
    assert not torch.equal(a["decoder.conv_out.weight"], other["decoder.conv_out.weight"])


def test_presets_without_weights() -> None:
    assert is_random("paper")
    assert is_random("base")
    assert not is_random("tiny")
    assert OurFamily("paper", 7).weights == "random, seed 7"
    assert OurFamily("tiny", 7).weights.startswith("sha256 ")


def test_backends_share_weights() -> None:
    tok = small_tokenizer()
    family = OurFamily("tiny", 0)
    one, two = (our_contender(tok, family, name) for name in ("auto", "torch"))
    frames = torch.randint(0, 256, (1, 5, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(one.codec.encode(frames), two.codec.encode(frames))
    assert one.parameter_bytes == sum(p.nbytes for p in tok.net.parameters())


def test_backends_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'cuda-graphs'"):
        steps_for(small_tokenizer(), "cuda-graphs")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(MissingDependencyError, match="triton"):
        steps_for(small_tokenizer(), "triton")
