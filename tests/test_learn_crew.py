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
from rentgen.learn.objective import objective_of
from rentgen.parallel.pool import Seat
from rentgen.parallel.ray import Ray


def mixed(folder: Path) -> FineTuning:
    """Return a task in which films of one process meet those of the other: mixing, batch norm, weights, odd shares."""
    settings = replace(SETTINGS, epochs=4, batch_size=7, class_weights=True, learning_rate=1e-3)
    wanted = task(folder, settings)
    uneven = Films(films(60, 1).images[::-1][:45], films(60, 1).labels[:45])
    return replace(wanted, parts={**wanted.parts, "train": uneven}, shift=replace(GENTLE, mixup=0.4, cutmix=1.0))


def test_two_processes_do_what_one_does_with_twice_the_batch_though_one_dies(cluster: str, tmp_path: Path) -> None:
    for name in ("notes", "here", "there"):
        (tmp_path / name).mkdir()
    wanted = mixed(tmp_path)
    here, own_head, own = finetune(replace(wanted, checkpoint=tmp_path / "here" / "member.pt"))
    pool = Noting(cluster, processes=2, notes=tmp_path / "notes")
    killed: list[int] = []
    steps: list[int] = []

    def watch(stage: str, done: int, total: int, note: str = "") -> None:
        steps.append(done)
        # The checkpoint of the first epoch is there, and no other will be for an epoch.
        if done > 6 and not killed:
            killed.append(pool.processes_of(1)[0])
            os.kill(killed[0], signal.SIGKILL)

    there, head, history = finetune(
        replace(wanted, checkpoint=tmp_path / "there" / "member.pt"), pool=pool, progress=watch
    )
    assert len(pool.processes_of(1)) == 2, "the process of rank 1 was begun again"
    assert steps[-1] == 24
    # Adam makes much of gradients that are next to nothing: single weights may differ by more than all of them do.
    weights, ours, start = (one.network.state_dict() for one in (there, here, wanted.backbone))
    apart, moved = (
        sum(float((one[name].double() - ours[name].double()).square().sum()) for name in ours) ** 0.5
        for one in (weights, start)
    )
    assert apart < 5e-3 * moved, f"{apart / moved:.2g} of the way"
    np.testing.assert_allclose(head.hidden_weight, own_head.hidden_weight, atol=1e-3)
    assert history.best_epoch == own.best_epoch
    for part, epochs in own.parts.items():
        for one, other in zip(epochs, history.parts[part], strict=True):
            assert other.loss == pytest.approx(one.loss, rel=2e-3)
    # What Ray Train noted for itself is gone.
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"member.pt"}


@pytest.mark.parametrize("several", [False, True])
def test_the_shares_losses_make_the_whole_batchs(several: bool) -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(-1, 2, (30, 2)) if several else rng.integers(0, 2, 30))
    objective = objective_of(labels, 2, weigh=True, smoothing=0.1)
    logits, prepared = torch.from_numpy(rng.normal(size=(30, 2))), objective.prepare(labels)
    whole = objective.loss(logits, *prepared)
    for size in (1, 2, 3, 7):
        shares = []
        for rank in range(size):
            crew = Crew(Seat(rank, size))
            own = crew.rows(30)
            mine = [one[own] for one in prepared]
            scale = crew.scale(objective.divisor(*mine), objective.divisor(*prepared))
            shares.append(float(objective.loss(logits[own], *mine) * scale))
        assert np.mean(shares) == pytest.approx(whole.item(), rel=1e-6)


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
