"""Steps of every backend against the plain ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pvtok.kernels.pixels import repeat_edges
from pvtok.steps import CompiledSteps, GraphedSteps, Steps, TorchSteps
from tests.models import small_model


def frames(count: int, height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (batch, count, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@torch.inference_mode()
def stream(steps: Steps, x: Tensor, plan: list[int]) -> tuple[Tensor, Tensor]:
    """Latents and frames of a stream cut by `plan`."""
    latents, decoded, encoding, decoding = [], [], None, None
    for chunk in x.split(plan, dim=1):
        z, encoding = steps.encode(chunk, encoding)
        y, finite, decoding = steps.decode(z, decoding)
        assert bool(finite)
        latents.append(z)
        decoded.append(y)
    return torch.cat(latents, dim=2), torch.cat(decoded, dim=1)


def assert_alike(steps: Steps, reference: Steps, x: Tensor, plan: list[int]) -> None:
    z, y = stream(steps, x, plan)
    z_reference, y_reference = stream(reference, x, plan)
    torch.testing.assert_close(z, z_reference, rtol=1e-4, atol=1e-4)
    assert int((y.int() - y_reference.int()).abs().max()) <= 1


@pytest.mark.parametrize("name", ["patch4", "patch2", "plain"])
def test_states_have_one_layout_whatever_the_chunks(name: str) -> None:
    """Compiled steps are specialised on it: another layout would be compiled anew."""
    steps = TorchSteps(small_model(name))
    seen = []
    for plan in ([5, 4, 4], [1, 4, 8]):
        encoding = decoding = None
        for chunk in frames(13).split(plan, dim=1):
            with torch.inference_mode():
                z, encoding = steps.encode(chunk, encoding)
                _, _, decoding = steps.decode(z, decoding)
            seen.append([x.stride() for x in (*encoding.values(), *decoding.values())])
    assert all(strides == seen[0] for strides in seen)


@pytest.mark.parametrize("size", [(32, 48), (20, 33)])
def test_edges_are_repeated_to_whole_multiples(size: tuple[int, int]) -> None:
    x = frames(2, *size)
    padded = repeat_edges(x, 16)
    assert padded.shape == (1, 2, 32, 48, 3)
    assert torch.equal(padded[:, :, : size[0], : size[1]], x)
    assert bool((padded[:, :, size[0] - 1 :, : size[1]] == x[:, :, -1:]).all())
    assert bool((padded[:, :, :, size[1] - 1 :] == padded[:, :, :, size[1] - 1, None]).all())


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_noticed(poison: float) -> None:
    net = small_model("patch2")
    steps = TorchSteps(net)
    z = torch.zeros(1, 8, 1, 2, 3)
    with torch.inference_mode():
        assert bool(steps.decode(z, None)[1])
        net.decoder.conv_out.bias.data[-1] = poison
        assert not bool(steps.decode(z, None)[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["patch4", "plain"])
def test_compiled_steps_are_one_graph_and_give_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = TorchSteps(small_model(name))
    # Two shapes (first and later chunks) in two directions are four graphs.
    assert_alike(CompiledSteps(plain), plain, frames(13), [5, 4, 4])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4
    assert not torch._dynamo.utils.counters["graph_break"]


RUN = """
import torch
from pvtok.steps import CompiledSteps, TorchSteps
from tests.models import small_model
steps = CompiledSteps(TorchSteps(small_model("patch2")))
with torch.inference_mode():
    steps.encode(torch.zeros(1, 5, 32, 32, 3, dtype=torch.uint8), None)
print(torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_was_compiled_serves_the_next_process(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    env["XDG_CACHE_HOME"] = str(tmp_path)
    hits = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", RUN],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 0, done.stderr
        hits.append(int(done.stdout.split()[-1]))
    assert hits[0] == 0
    assert hits[1] > 0
    assert list((tmp_path / "pvtok" / "compile").iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphed_steps_give_the_same_and_leave_values_alone() -> None:
    plain = TorchSteps(small_model("patch2").cuda().prepare_inference())
    graphed = GraphedSteps(plain)
    x = frames(13).cuda()
    assert_alike(graphed, plain, x, [5, 4, 4])
    with torch.inference_mode():
        z, state = graphed.encode(x[:, :5], None)
        kept, past = z.clone(), {path: value.clone() for path, value in state.items()}
        graphed.encode(x[:, 8:13], None)
    assert torch.equal(z, kept)
    assert all(torch.equal(state[path], past[path]) for path in past)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_large_steps_are_not_graphed() -> None:
    plain = TorchSteps(small_model("patch2").cuda().prepare_inference())
    graphed = GraphedSteps(plain, largest=1)
    assert_alike(graphed, plain, frames(5).cuda(), [5])
    assert not graphed._graphs
