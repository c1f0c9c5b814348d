"""calibration.py, against errors counted by hand and fits made in other ways."""

import math
import random

import pytest
import torch
from conftest import call, with_figures
from test_search import checkpoints, children, solvable  # noqa: F401 (a fixture)

import plots
import search
from calibration import (
    area_under_curve,
    bins_of,
    calibrated,
    calibration_error,
    error_interval,
    fit_calibration,
    log_loss,
    solvable_puzzles,
    states_below,
)


def verdicts(n, slope=1.0, bias=0.0, seed=0):
    """Log-odds l, and truths that hold with probability sigmoid(slope * l + bias)."""
    generator = torch.Generator().manual_seed(seed)
    log_odds = 3 * torch.randn(n, generator=generator)
    probability = (slope * log_odds + bias).sigmoid()
    return log_odds, torch.rand(n, generator=generator) < probability


def test_the_error_by_hand():
    """Four verdicts of 0.9, half of them right, and one of 0 that is right: 4/5 * 0.4."""
    probability = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.0], dtype=torch.float64)
    truth = torch.tensor([True, False, True, False, False])
    assert calibration_error(probability, truth) == pytest.approx(0.8 * 0.4)
    assert bins_of(probability, truth) == [(0.0, 0.0, 1), (pytest.approx(0.9), 0.5, 4)]
    # a verdict of 1 is in the last bin
    assert bins_of(torch.ones(2), torch.tensor([True, True])) == [(1.0, 1.0, 2)]


def test_opposite_errors_in_one_bin_cancel_and_in_two_do_not():
    truth = torch.tensor([True, False])
    assert calibration_error(torch.tensor([0.51, 0.49]), truth) == pytest.approx(0, abs=1e-6)
    assert calibration_error(torch.tensor([0.8, 0.2]), ~truth) == pytest.approx(0.8)


def test_true_probabilities_have_no_error_and_confident_ones_do():
    log_odds, truth = verdicts(100000)
    assert calibration_error(log_odds.sigmoid(), truth) < 0.005
    assert calibration_error((3 * log_odds).sigmoid(), truth) > 0.05


@pytest.mark.parametrize('slope, bias', [(1.0, 0.0), (0.4, -2.0), (2.5, 1.0), (-0.7, 0.3)])
def test_a_fit_finds_slope_and_bias_and_mends_the_error(slope, bias):
    log_odds, truth = verdicts(100000, slope, bias)
    fit = fit_calibration(log_odds, truth)
    assert fit == pytest.approx((slope, bias), abs=0.05)

    other_log_odds, other_truth = verdicts(100000, slope, bias, seed=1)
    assert calibration_error(calibrated(other_log_odds, *fit), other_truth) < 0.01

    # no neighbour is more likely
    best = log_loss(calibrated(log_odds, *fit), truth)
    for step in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        neighbour = (fit[0] + step[0], fit[1] + step[1])
        assert log_loss(calibrated(log_odds, *neighbour), truth) > best


def test_shuffled_truth_gives_a_constant_guess_with_a_small_error_and_a_large_loss():
    log_odds, truth = verdicts(50000)
    shuffled = truth[torch.randperm(len(truth), generator=torch.Generator().manual_seed(1))]
    fit = fit_calibration(log_odds, shuffled)
    probability = calibrated(log_odds, *fit)
    assert abs(fit[0]) < 0.02 and calibration_error(probability, truth) < 0.01
    assert log_loss(probability, truth) == pytest.approx(1, abs=0.01)  # bits: a coin
    assert log_loss(log_odds.sigmoid(), truth) < 0.7


def test_a_fit_without_end_is_refused():
    for truth in (torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)):
        with pytest.raises(ValueError, match='solvable'):
            fit_calibration(torch.randn(5), truth)


def test_log_loss_by_hand():
    probability = torch.tensor([0.5, 0.25])
    assert log_loss(probability, torch.tensor([True, True])) == pytest.approx(1.5)
    assert math.isfinite(log_loss(torch.tensor([0.0]), torch.tensor([True])))


def test_the_area_under_the_curve_is_the_share_of_pairs():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(8, (60,), generator=generator).float()  # many ties
    truth = torch.rand(60, generator=generator) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in values[truth] for b in values[~truth]]
    assert area_under_curve(values, truth) == pytest.approx(float(sum(pairs)) / len(pairs))
    assert area_under_curve(-values, truth) == pytest.approx(1 - float(sum(pairs)) / len(pairs))
    assert math.isnan(area_under_curve(values, torch.ones(60, dtype=torch.bool)))


def test_the_interval_holds_the_error_and_narrows_with_more_states():
    widths = []
    for n in (300, 30000):
        log_odds, truth = verdicts(n)
        probability = (2 * log_odds).sigmoid()
        low, high = error_interval(probability, truth)
        assert low < calibration_error(probability, truth) < high
        # where there is no error, noise alone gives some, and the interval must not exclude 0
        assert error_interval(log_odds.sigmoid(), truth)[0] < 0.004
        widths.append(high - low)
    assert widths[0] > 5 * widths[1]


@pytest.mark.parametrize('n, target', [(2, 24), (3, 24), (3, 77), (4, 91)])
def test_the_states_below_solvable_puzzles(n, target):
    puzzles = [tuple(row) for row in solvable_puzzles(n, target).tolist()]
    assert len(set(puzzles)) == len(puzzles) > 0
    rng = random.Random(0)
    for _ in range(300):
        puzzle = tuple(sorted(rng.randint(1, 13) for _ in range(n)))
        assert (puzzle in puzzles) == solvable(puzzle, target)

    some = rng.sample(puzzles, min(10, len(puzzles)))
    below = states_below(torch.tensor(some))
    states = set(some)
    assert list(below) == list(range(n - 1, 1, -1))
    for m in below:
        states = {child for state in states for child in children(state)}
        rows = [tuple(row) for row in below[m].tolist()]
        assert len(rows) == len(states) and set(rows) == states


def test_without_a_puzzle_there_are_no_states():
    assert len(solvable_puzzles(2, 101)) == 0  # 101 is prime
    assert states_below(torch.zeros(0, 3, dtype=torch.long)) == {}


# -----------------------------------------------------------------------------
# search.py --method calibration

def test_search_measures_calibration(checkpoints, tmp_path):  # noqa: F811
    argv = ['--device', 'cpu', '--ckpt', checkpoints['three'], '--method', 'calibration',
            '--out_dir', tmp_path]
    with with_figures():
        code, out, err = call(search, list(map(str, argv)))
    assert code == 0, err
    run = plots.read_run(tmp_path)
    trained, on_24 = [record for record in run.log if record['arm'] == 'calibration']
    assert (trained['target'], on_24['target']) == ('trained', 24)
    assert trained['numbers'] == on_24['numbers'] == 2

    # all states of two numbers below puzzles of 24, each once, and the truth about them
    below = set()
    for puzzle in solvable_puzzles(3, 24).tolist():
        below |= children(tuple(puzzle))
    assert on_24['n'] == len(below)
    assert on_24['solvable'] == pytest.approx(sum(map(solvable, below)) / len(below))

    # a model of random weights: what mends trained targets mends 24, too
    assert trained['ece_calibrated'] < 0.3 * trained['ece_raw']
    assert on_24['ece_calibrated'] < on_24['ece_raw']
    assert trained['loss_calibrated'] < trained['loss_raw']
    assert run.final['ece_24_raw'] == on_24['ece_raw'] and run.final['ece_24'] == pytest.approx(
        on_24['ece_calibrated'])
    assert run.final['ece_24_raw_low'] < run.final['ece_24_raw'] < run.final['ece_24_raw_high']
    assert 'ece_24_raw=' in out and (tmp_path / 'plot.png').exists()


@pytest.mark.parametrize('method', ['calibration', 'budgets'])
@pytest.mark.parametrize('name, argv, message', [
    ('three', '--puzzles x.txt', '--puzzles'),
    ('three', '--target 197', 'make 197'),
    ('three', '--propose model', 'all legal moves'),
    ('two', '', 'at least 3 numbers'),
    ('cycle', '', 'countdown'),
])
def test_what_cannot_be_calibrated_is_refused(name, argv, message, method,
                                              checkpoints, tmp_path):  # noqa: F811
    argv = f'--device cpu --ckpt {checkpoints[name]} --method {method} {argv}'.split()
    code, _, err = call(search, [*argv, '--out_dir', str(tmp_path / 'run')])
    assert code == 2 and err.count('\n') == 1 and message in err
