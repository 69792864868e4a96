"""Several processes are one: the same weights as one process with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtok.training import trainer as module
from pvtok.training.config import TrainConfig
from pvtok.training.distributed import World, launch
from pvtok.training.trainer import Trainer
from tests.training.runs import config, rows, saved

CHILD = """
import sys, warnings
warnings.simplefilter("error")
import json
from pathlib import Path
from pvtok.training import trainer as module
from pvtok.training.config import from_dict
from pvtok.training.distributed import world
module.STATISTICS_CLIPS = 4
values, folder, resume = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"
with world("cpu") as processes:
    module.Trainer(from_dict(values), folder, processes, resume=resume).run()
"""


def two_processes(run: TrainConfig, folder: Path, *, resume: bool = False) -> None:
    values = json.dumps(run.to_dict())
    code = launch([sys.executable, "-c", CHILD, values, str(folder), str(resume)], 2)
    assert code == 0


def halved(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages with half of the batch for each process."""
    return [
        stage | {"shapes": [s | {"batch": s["batch"] // 2} for s in stage["shapes"]]}
        for stage in values
    ]


STAGES = [
    {
        "name": "video",
        "steps": 4,
        "shapes": [{"frames": 9, "size": 32, "batch": 2}, {"frames": 5, "size": 48, "batch": 4}],
        "max_drop_ratio": 1.0,
    },
    {
        "name": "decoder",
        "steps": 3,
        "shapes": [{"frames": 9, "size": 32, "batch": 2}],
        "train": "decoder",
    },
]
LOSSES = {
    "adversarial": 0.1,
    "adversarial_start": 2,
    "discriminator_width": 4,
    "discriminator_levels": 2,
    "lecam": 0.01,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STATISTICS_CLIPS", 4)
        Trainer(config(stages=STAGES, losses=LOSSES, log_every=1), folder).run()
    return folder


def assert_same_run(alone: Path, together: Path) -> None:
    a, b = saved(alone), saved(together)
    assert a["samples"] == b["samples"]
    for part in ("model", "average", "discriminator"):
        assert a[part].keys() == b[part].keys()
        for name, value in a[part].items():
            # Sums in another order. Adam makes much of the smallest gradients, so the bound is
            # absolute: a fiftieth of one step.
            torch.testing.assert_close(b[part][name], value, rtol=0, atol=2e-5, msg=name)
    for one, two in zip(rows(alone), rows(together), strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            if isinstance(value, float):
                # Means that are nearly 0, such as those of logits, are sums of larger numbers.
                bound = {"rel": 3e-6, "abs": 1e-6} if one["kind"] == "train" else {"rel": 1e-3}
                assert two[name] == pytest.approx(value, **bound), (name, one, two)


@pytest.mark.parametrize("sharding", ["none", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_are_one(alone: Path, tmp_path: Path, sharding: str) -> None:
    """Over stages, shapes, dropped groups, frozen encoder and adversarial terms."""
    run = config(
        stages=halved(STAGES), losses=LOSSES, log_every=1, optimizer={"sharding": sharding}
    )
    two_processes(run, tmp_path / "run")
    assert_same_run(alone, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_resuming_on_two_processes(tmp_path: Path, alone: Path, sharding: str) -> None:
    """From the checkpoint at step 3, that of one process: they are of one kind."""
    run = config(
        stages=halved(STAGES), losses=LOSSES, log_every=1, optimizer={"sharding": sharding}
    )
    two_processes(run, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())
    whole = saved(tmp_path / "run")
    newest[-1].unlink()
    two_processes(run, tmp_path / "run", resume=True)
    again = saved(tmp_path / "run")
    assert whole["step"] == again["step"]
    for name, value in whole["model"].items():
        assert torch.equal(value, again["model"][name]), name


def test_an_error_of_the_first_process_ends_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    values = json.dumps(config(stages=halved(STAGES)).to_dict())
    code = (
        "import sys\nfrom pvtok.errors import PvtokError\n"
        f"try:\n    exec({CHILD!r})\nexcept PvtokError as error:\n"
        "    print(error, file=sys.stderr)\n    sys.exit(error.exit_code)"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pvtok.training.distributed import launch;"
            "sys.exit(launch(sys.argv[1:], 2))",
            *(sys.executable, "-c", code, values, str(tmp_path / "run"), "False"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.count("--resume") == 1
    assert "Traceback" not in done.stderr


def test_alone_nothing_is_exchanged() -> None:
    world = World()
    values = torch.tensor([1.0, 2.0])
    assert world.mean(values) is values
    called = []
    world.in_first(lambda: called.append(1))
    assert called == [1]
    assert world.first


def test_launching_hands_on_the_exit_code() -> None:
    code = "import os, sys, time; time.sleep(0.1); sys.exit(7 * (os.environ['RANK'] == '1'))"
    assert launch([sys.executable, "-c", code], 2) == 7
    assert launch([sys.executable, "-c", "import os; os.environ['MASTER_PORT']"], 2) == 0
    assert "RANK" not in os.environ
