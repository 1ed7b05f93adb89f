from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_learn_finetune import GENTLE, SETTINGS, films, task
from training_together import Noting

from rentgen.cli.ray import open_pool
from rentgen.errors import DataError, SettingError
from rentgen.learn.crew import Crew
from rentgen.learn.finetune import Films, FineTuning, finetune
from rentgen.learn.head import Head
from rentgen.parallel.pool import Seat
from rentgen.parallel.ray import Ray
from rentgen.records import History


def several(part: Films) -> Films:
    """Return the same films with two findings each, some of them unknown."""
    rng = np.random.default_rng(len(part))
    labels = np.stack([part.labels, rng.integers(-1, 2, len(part))], 1)
    return Films(part.images, labels)


def mixed(folder: Path) -> FineTuning:
    """Return a task in which films of one process meet those of the other: mixing, batch norm, weights, odd shares."""
    settings = replace(SETTINGS, epochs=2, batch_size=7, class_weights=True, learning_rate=1e-3)
    wanted = task(folder, settings)
    uneven = Films(films(60, 1).images[::-1][:45], films(60, 1).labels[:45])
    return replace(wanted, parts={**wanted.parts, "train": uneven}, shift=replace(GENTLE, mixup=0.4, cutmix=1.0))


def findings(folder: Path) -> FineTuning:
    """Return a task with several findings on a network without batch norm, whose dropout matters."""
    wanted = task(folder, replace(SETTINGS, epochs=2, batch_size=16, learning_rate=1e-3), "test_vit")
    parts = {name: several(part) for name, part in wanted.parts.items()}
    return replace(wanted, parts=parts, dropout=0.5)


def weights(folder: Path, wanted: FineTuning, pool: Ray | None) -> tuple[dict[str, torch.Tensor], Head, History]:
    folder.mkdir()
    wanted = replace(wanted, checkpoint=folder / "member.pt")
    backbone, head, history = finetune(wanted) if pool is None else finetune(wanted, pool=pool)
    return backbone.network.state_dict(), head, history


@pytest.mark.parametrize("make", [mixed, findings])
def test_two_processes_do_what_one_does_with_twice_the_batch(make, cluster: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    wanted = make(tmp_path)
    start = wanted.backbone.network.state_dict()
    here, own_head, own = weights(tmp_path / "here", wanted, None)
    there, head, history = weights(tmp_path / "there", wanted, Ray(cluster, processes=2))
    moved = max(float((here[name] - value).abs().max()) for name, value in start.items())
    assert moved > 1e-2
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, rtol=1e-3, atol=moved / 200)
    np.testing.assert_allclose(head.hidden_weight, own_head.hidden_weight, atol=1e-4)
    assert history.best_epoch == own.best_epoch
    for part, epochs in own.parts.items():
        for one, other in zip(epochs, history.parts[part], strict=True):
            assert other.loss == pytest.approx(one.loss, rel=2e-3)
    # What Ray Train noted for itself is gone.
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"member.pt"}


def test_a_process_that_dies_costs_no_more_than_the_steps_since_the_last_checkpoint(
    cluster: str, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    pool = Noting(cluster, processes=2, notes=notes)
    steps: list[int] = []

    def watch(stage: str, done: int, total: int, note: str = "") -> None:
        steps.append(done)
        if done > 8 and len(pool.processes_of(1)) == 1 and not killed:
            killed.append(pool.processes_of(1)[0])
            os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    slow = task(tmp_path, replace(SETTINGS, epochs=40, patience=100))
    backbone, _, history = finetune(slow, pool=pool, progress=watch)
    assert len(pool.processes_of(1)) == 2, "the process of rank 1 was begun again"
    assert steps[-1] == 320
    expected, _, own = finetune(replace(slow, checkpoint=tmp_path / "own.pt"))
    assert own.best_epoch == history.best_epoch
    assert len(own.parts["train"]) == len(history.parts["train"]) == 40
    for name, value in expected.network.state_dict().items():
        torch.testing.assert_close(backbone.network.state_dict()[name], value, rtol=2e-2, atol=2e-2)


def test_what_the_work_raises_and_what_the_cluster_has_not_are_told(cluster: str, tmp_path: Path) -> None:
    wanted = task(tmp_path)
    broken = replace(wanted, head=replace(wanted.head, class_bias=np.full(2, np.inf, np.float32)))
    with pytest.raises(DataError, match=r"The loss of step 1 is nan: .*--find-lr"):
        finetune(broken, pool=Ray(cluster, processes=2))
    with pytest.raises(
        SettingError, match=r"Expected at most [0-9]+ processes, as the cluster has .* CPUs, but got 999"
    ):
        finetune(wanted, pool=Ray(cluster, processes=999))
    with pytest.raises(SettingError, match="Expected --ray with --processes"):
        open_pool(None, 2)


def test_every_film_is_somebodys_and_nobody_elses() -> None:
    for count in (0, 1, 5, 32):
        for size in (1, 2, 3, 7):
            shares = [Crew(Seat(rank, size)).rows(count) for rank in range(size)]
            assert np.concatenate(shares).tolist() == list(range(count))
            lengths = [len(share) for share in shares]
            assert max(lengths) - min(lengths) <= 1
