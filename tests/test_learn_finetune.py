from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rentgen.errors import DataError
from rentgen.images.corrupt import stress
from rentgen.learn.backbones import Backbone, load
from rentgen.learn.export import TorchClassifier
from rentgen.learn.find_rate import find_rate
from rentgen.learn.finetune import Films, FineTuning, finetune
from rentgen.learn.head import Head
from rentgen.learn.settings import FineTuneSettings, ShiftSettings
from rentgen.learn.stages import find_stages, one_cycle, open_from, open_stages

SIDE = 64
GENTLE = ShiftSettings(borders=0.0, markers=0.0, jpeg=0.0, window=0.0, gamma=0.1, contrast=0.1)
SETTINGS = FineTuneSettings(epochs=4, batch_size=8, learning_rate=3e-3, precision="f32", ema=0.8, unfreeze_epochs=1.0)


def films(count: int, seed: int) -> Films:
    """Return films with a bright disc at the left or at the right: class 0 or 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images = rng.integers(40, 90, (count, SIDE, SIDE))
    for image, label in zip(images, labels, strict=True):
        x, y = (18 if label == 0 else 46) + rng.integers(-4, 5), rng.integers(20, 44)
        image[(rows - y) ** 2 + (columns - x) ** 2 < 64] += 130
    return Films(images.astype(np.uint8), labels.astype(np.int64))


def task(folder: Path, settings: FineTuneSettings = SETTINGS, name: str = "test_efficientnet") -> FineTuning:
    backbone = load(name, weights="random", size=(SIDE, SIDE), normalise="film")
    rng = np.random.default_rng(0)
    shapes = ((16, backbone.features), (16,), (2, 16), (2,))
    head = Head(*(rng.normal(0, 0.1, shape).astype(np.float32) for shape in shapes))
    validation = films(24, 2)
    return FineTuning(
        backbone=backbone,
        head=head,
        parts={
            "train": films(64, 1),
            "validation": validation,
            "stress": Films(stress(validation.images), validation.labels),
        },
        settings=settings,
        shift=replace(GENTLE, flip=False),
        smooth_px=0.5,
        dropout=0.1,
        identity="drawn",
        checkpoint=folder / "member.pt",
    )


def state(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}


def test_it_learns_what_the_frozen_network_cannot_and_leaves_the_start_alone(tmp_path: Path) -> None:
    wanted = task(tmp_path, replace(SETTINGS, epochs=12))
    before = state(wanted.backbone)
    seen: list[str] = []
    backbone, head, history = finetune(wanted, progress=lambda stage, done, total, note="": seen.append(note))
    assert set(history.parts) == {"train", "validation", "stress"}
    assert history.parts["validation"][history.best_epoch].accuracy > 0.9
    assert all(torch.equal(value, before[name]) for name, value in state(wanted.backbone).items())
    assert not backbone.network.training
    assert "left" in seen[-1]
    validation = wanted.parts["validation"]
    with torch.inference_mode():
        logits = TorchClassifier(backbone, head)(torch.from_numpy(validation.images))[0]
    accuracy = (logits.argmax(1).numpy() == validation.labels).mean()
    assert accuracy == pytest.approx(history.parts["validation"][history.best_epoch].accuracy)


def test_frozen_stages_keep_weights_and_batch_norm_statistics_to_the_bit(tmp_path: Path) -> None:
    wanted = task(tmp_path, replace(SETTINGS, epochs=2, frozen_stages=3))
    backbone, _, _ = finetune(wanted)
    stages = find_stages(backbone.network)
    before, after = state(wanted.backbone), state(backbone)
    frozen = {name.rpartition(".")[0] for name, stage in stages.items() if stage < 3}
    opened = {name.rpartition(".")[0] for name, stage in stages.items() if stage >= 3}
    assert frozen
    for name, value in before.items():
        module = name.rpartition(".")[0]
        if module in frozen:
            assert torch.equal(value, after[name]), name
        elif module in opened and name.endswith(("running_mean", "weight")):
            assert not torch.equal(value, after[name]), name


def test_batch_norm_can_stay_as_it_was_pretrained(tmp_path: Path) -> None:
    wanted = task(tmp_path, replace(SETTINGS, epochs=2, batch_norm="frozen", unfreeze_epochs=0.0))
    backbone, _, _ = finetune(wanted)
    before, after = state(wanted.backbone), state(backbone)
    for name, value in before.items():
        if "running_" in name:
            assert torch.equal(value, after[name]), name
    assert any(not torch.equal(value, after[name]) for name, value in before.items() if name.endswith(".weight"))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_stages_open_from_the_top_down(name: str, tmp_path: Path) -> None:
    backbone = load(name, weights="random", size=(SIDE, SIDE) if "vit" not in name else (160, 160))
    stages = find_stages(backbone.network)
    top = max(stages.values())
    assert top >= 3
    assert set(stages.values()) == set(range(top + 1))
    settings = FineTuneSettings(frozen_stages=1, unfreeze_epochs=2.0)
    starts = [open_from(stage, top, settings) for stage in range(top + 1)]
    assert starts[0] == float("inf")
    assert starts[-1] == 0
    assert starts[1:] == sorted(starts[1:], reverse=True)
    assert max(starts[1:]) <= 2.0
    head = Head(
        np.zeros((4, backbone.features), np.float32), np.zeros(4, np.float32), np.zeros((2, 4), np.float32),
        np.zeros(2, np.float32),
    )  # fmt: skip
    model = TorchClassifier(backbone, head)
    for epoch in (0.0, 1.0, 3.0):
        open_stages(model, stages, settings, epoch)
        for parameter_name, parameter in model.backbone.network.named_parameters():
            assert parameter.requires_grad == (starts[stages[parameter_name]] <= epoch)
        for module_name, module in model.backbone.network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                stage = stages[f"{module_name}.weight"]
                assert module.training == (starts[stage] <= epoch)


def test_one_cycle_rises_and_falls() -> None:
    rates = [one_cycle(step, 100, 0.1) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    first = finetune(task(tmp_path))
    begun = time.monotonic()
    again = finetune(task(tmp_path))
    assert time.monotonic() - begun < 5
    assert all(torch.equal(value, state(again[0])[name]) for name, value in state(first[0]).items())
    assert again[2].parts == first[2].parts


def test_another_task_does_not_go_on_from_it(tmp_path: Path) -> None:
    finetune(task(tmp_path, replace(SETTINGS, epochs=1)))
    _, _, history = finetune(task(tmp_path, replace(SETTINGS, epochs=2, seed=5)))
    assert len(history.parts["train"]) == 2


def test_a_damaged_checkpoint_costs_the_training_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = task(tmp_path, replace(SETTINGS, epochs=1))
    wanted.checkpoint.write_bytes(b"no checkpoint")
    _, _, history = finetune(wanted)
    assert len(history.parts["train"]) == 1
    assert "is damaged; training starts anew" in caplog.text


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from rentgen.learn import finetune as module
from test_learn_finetune import task
module.CHECKPOINT_SECONDS = 0.0
wanted = task(Path({folder!r}))
backbone, head, history = module.finetune(wanted, progress=lambda stage, done, total, note="": print(done, flush=True))
torch.save(backbone.network.state_dict(), {folder!r} + "/done.pt")
"""


def run_until(folder: Path, steps: int | None) -> list[int]:
    """Run the training in a process of its own; kill it hard after so many steps. Return the steps that it made."""
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    made = []
    for line in process.stdout:
        made.append(int(line))
        if steps is not None and len(made) == steps:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    process.wait(timeout=120)
    assert process.returncode == (0 if steps is None else -signal.SIGKILL)
    return made


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert run_until(whole, None) == list(range(1, 33))
    first = run_until(killed, 11)
    second = run_until(killed, 9)
    third = run_until(killed, None)
    assert first[0] == 1
    assert second[0] > 1
    assert third[0] > second[0]
    assert third[-1] == 32
    expected, found = (torch.load(folder / "done.pt", weights_only=True) for folder in (whole, killed))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_rate_that_is_too_high_is_named(tmp_path: Path) -> None:
    wanted = task(tmp_path, replace(SETTINGS, learning_rate=1.0, clip_norm=0.0, warmup=0.0, unfreeze_epochs=0.0))
    broken = replace(wanted, head=replace(wanted.head, class_bias=np.full(2, np.inf, np.float32)))
    with pytest.raises(DataError, match=r"The loss of step 1 is nan: the rate 1 is too high .*--find-lr"):
        finetune(broken)


def test_an_empty_part_is_named(tmp_path: Path) -> None:
    wanted = task(tmp_path)
    empty = Films(np.empty((0, SIDE, SIDE), np.uint8), np.empty(0, np.int64))
    with pytest.raises(DataError, match="Expected films in the stress part, but it is empty"):
        finetune(replace(wanted, parts={**wanted.parts, "stress": empty}))


def test_the_rate_finder_tries_rates_and_suggests_one_below_the_lowest_loss(tmp_path: Path) -> None:
    found = find_rate(task(tmp_path), steps=40)
    assert list(found.rates) == sorted(found.rates)
    assert len(found.rates) == len(found.losses) >= 10
    lowest = found.rates[int(np.argmin(found.losses))]
    assert found.suggestion == pytest.approx(lowest / 10)
