"""The cost model against numbers worked out by hand, and the command on drawn films."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Trained
from typer.testing import CliRunner

from rentgen.cli import app
from rentgen.deploy.cost import PREDICTING, TRAINING, Driver, Job, Pace, Prices, plan
from rentgen.deploy.pace import Timed
from rentgen.errors import SettingError
from rentgen.parallel.pool import Work

# Of one film: 10 ms for the audit, 2 readings of 5 ms, 4 views of 20 ms: 100 ms.
PACE = Pace(
    audit_s=0.010, decode_s=0.005, reads=2, view_s=0.020, views=4, film_bytes=2_000_000, feature_bytes=2_500,
    scratch_bytes=50_000, answer_bytes=180,
)  # fmt: skip
DRIVER = Driver(start_s=60, alone_s=1e-3, epoch_s=1e-4, pair_s=1e-8, given_s=1e-3, memory_bytes=10_000)
FREE = Prices(0, 0, 0, 0)


def test_a_run_by_hand() -> None:
    found = plan(PACE, DRIVER, Job(films=36_000, workers=10, epochs=100, driver_cores=4), FREE)
    # Alone: 60 s + 36,000 * (1 ms + 100 * 0.1 ms) + 36,000 * 35,999 / 2 * 10 ns = 60 + 396 + 6.48 s; shared: 360 s.
    assert found.pair_hours * 3600 == pytest.approx(6.47982)
    assert found.leading_hours * 3600 == pytest.approx(462.47982)
    assert found.wall_hours * 3600 == pytest.approx(822.47982)
    assert found.core_hours == pytest.approx(1.0)
    assert found.driver_core_hours == pytest.approx(4 * 822.47982 / 3600)
    assert (found.runs, found.gpu_hours) == (1, 0)


def test_the_one_that_gives_out_bounds_the_workers() -> None:
    # 100 ms over 1,000 workers would be 0.1 ms a film, but giving one out takes 1 ms.
    quick = replace(DRIVER, start_s=0, alone_s=0, pair_s=0)
    walls = [plan(PACE, quick, Job(3600, workers), FREE).wall_hours * 3600 for workers in (1, 10, 100, 1000)]
    assert walls == pytest.approx([360, 36, 3.6, 3.6])
    # They wait, and are paid for it.
    assert plan(PACE, quick, Job(3600, 1000), FREE).core_hours == pytest.approx(1.0)
    assert plan(PACE, quick, Job(3600, 100), FREE).core_hours == pytest.approx(0.1)


def test_runs_follow_one_another_and_bound_pairs_memory_and_scratch() -> None:
    whole = plan(PACE, DRIVER, Job(2500, 10, run_films=10_000), FREE)
    parted = plan(PACE, DRIVER, Job(2500, 10, run_films=1000), FREE)
    assert (whole.runs, parted.runs) == (1, 3)
    pairs = 2 * 1000 * 999 / 2 + 500 * 499 / 2
    assert parted.pair_hours * 3600 == pytest.approx(pairs * 1e-8)
    assert parted.leading_hours * 3600 == pytest.approx(3 * 60 + 2500 * 1e-3 + pairs * 1e-8)
    assert (parted.driver_gb, parted.scratch_gb) == pytest.approx((0.01, 0.05))
    assert (whole.driver_gb, whole.scratch_gb) == pytest.approx((0.025, 0.125))
    assert parted.core_hours == pytest.approx(whole.core_hours)


def test_gigabytes_and_money_by_hand() -> None:
    still = Driver(0, 0, 0, 0, 0, 0)
    prices = Prices(core_hour=0.05, gpu_hour=1.0, gb_month=0.02, million_reads=0.4)
    found = plan(PACE, still, Job(36_000_000, 1000, months=3, driver_cores=10, run_films=10**9), prices)
    assert (found.film_gb, found.feature_gb, found.answer_gb) == pytest.approx((72_000, 360, 6.48))
    assert found.read_gb == pytest.approx(3 * 72_000)
    assert found.storage_money == pytest.approx((72_000 + 360 + 6.48) * 3 * 0.02)
    # 1,000 core-hours of workers, 10 cores that lead for an hour, 108 million reads.
    assert found.money - found.storage_money == pytest.approx(1000 * 0.05 + 10 * 0.05 + 108 * 0.4)


def test_a_gpu_waits_while_its_worker_reads() -> None:
    still = Driver(0, 0, 0, 0, 0, 0)
    found = plan(PACE, still, Job(3600, 10, gpus=2, gpu_view_s=0.001), FREE)
    # On GPUs 5 ms of reading and 4 ms of views a film; on cores the audit and the second reading.
    assert found.gpu_hours == pytest.approx(0.009)
    assert found.core_hours == pytest.approx(0.015)
    assert found.wall_hours * 3600 == pytest.approx(3600 * 0.009 / 2 + 3600 * 0.015 / 10)


def test_cost_grows_with_films_and_never_falls() -> None:
    for driver in (TRAINING, PREDICTING):
        plans = [plan(PACE, driver, Job(10**power, 256), Prices()) for power in range(3, 9)]
        for small, large in itertools.pairwise(plans):
            assert large.wall_hours > small.wall_hours
            assert large.money > small.money
            assert large.core_hours >= 9.99 * small.core_hours


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: replace(PACE, decode_s=-1), "Expected decode_s to be a number from 0, but got -1"),
        (lambda: replace(PACE, views=float("nan")), "Expected views to be a number from 0"),
        (lambda: replace(DRIVER, pair_s=float("inf")), "Expected pair_s to be a number from 0"),
        (lambda: Prices(core_hour=-0.1), "Expected core_hour to be a number from 0"),
        (lambda: Job(0, 1), "Expected films to be at least 1"),
        (lambda: Job(1, 1, months=-1), "Expected months to be a number from 0"),
        (lambda: Job(1, 1, gpus=2), "above 0 where there are GPUs"),
    ],
)
def test_what_cannot_be_is_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(SettingError, match=message):
        build()


def nap(state: int, item: float) -> float:
    time.sleep(item)
    return state + item


def test_a_timed_worker_counts_work_and_not_its_opening_or_its_caller() -> None:
    def open_slowly(threads: int) -> int:
        time.sleep(0.2)
        return threads

    worker = Timed()
    for _ in worker.map(Work(open_slowly, nap, here=99), [0.05, 0.05]):
        time.sleep(0.2)
    assert 0.1 <= worker.seconds < 0.2


def asked(*words: str) -> dict[str, object]:
    """Run the command as a user does and return its JSON."""
    result = CliRunner().invoke(app, ["cost", *words, "--json", "-"])
    assert result.exit_code == 0, result.output
    document: dict[str, object] = json.loads(result.stdout)
    return document


def test_the_command_measures_training(trained: Trained) -> None:
    recipe = trained.recipe
    path = trained.cache / "cost.toml"
    path.write_text('[backbone]\nname = "tf_efficientnet_lite0"\n[augment]\nviews = 1\n')
    found = asked(
        str(trained.data), "--recipe", str(path), "--films", "50000", "--sample", "8", "--cache", str(trained.cache)
    )
    assert (found["what"], found["films_measured"]) == ("train", 8)
    pace, plans = found["pace"], found["plans"]
    assert isinstance(pace, dict)
    assert isinstance(plans, list)
    # Half-precision rows of 1,280 features, a key of 32 bytes, and what a small shard has around them.
    assert 2 * 1280 + 32 < pace["feature_bytes"] < 2 * 1280 + 32 + 200
    assert pace["views"] == pytest.approx(1 + 0.7 + 0.3)
    assert pace["reads"] == pytest.approx(1.6)
    assert pace["scratch_bytes"] == pytest.approx(0.3 * 224 * 224)
    assert pace["answer_bytes"] == pytest.approx(71 * 2.5)
    assert 0 < pace["decode_s"] < pace["audit_s"] + 1
    assert pace["view_s"] > 0
    sizes = [path.stat().st_size for path in trained.data.rglob("*.png")]
    assert min(sizes) <= pace["film_bytes"] <= max(sizes)
    assert [row["films"] for row in plans] == [1000, 10_000, 50_000]
    expected = plan(Pace(**pace), TRAINING, Job(50_000, 256, epochs=400), Prices())
    assert plans[-1] == pytest.approx(expected.to_dict())
    assert recipe.head.epochs  # the fixture's own recipe was not asked


def test_the_command_measures_prediction_and_prints_a_table(trained: Trained) -> None:
    words = (str(trained.data), "--bundle", str(trained.bundle), "--sample", "6")
    found = asked(*words, "--films", "1000000", "--workers", "32", "--core-hour", "0.1", "--gb-month", "0")
    pace, plans = found["pace"], found["plans"]
    assert isinstance(pace, dict)
    assert isinstance(plans, list)
    assert (found["what"], pace["audit_s"], pace["reads"], pace["views"]) == ("predict", 0, 1, 1)
    assert 100 < pace["answer_bytes"] < 2000
    assert plans[-1]["workers"] == 32
    assert plans[-1]["storage_money"] == 0
    shown = CliRunner().invoke(app, ["cost", *words, "--films", "2000"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "read and prepare, 1.00 times" in shown.output
    assert "no quotation" in shown.output
    assert "2,000" in shown.output


def test_unreadable_films_are_no_pace(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no film")
    result = CliRunner().invoke(app, ["cost", str(tmp_path), "--bundle", str(trained.bundle)])
    assert result.exit_code == 1
    assert "that were tried could be read" in str(result.exception)
