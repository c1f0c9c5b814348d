"""Is a verdict of 0.9 right nine times out of ten? How to measure that, and how to mend it.

For search.py --method calibration. A verdict is a number l, the log-odds of 'yes', and the truth is
known: the exact solver says which states can make their target.

1. Calibration error (Naeini et al. 2015; Guo et al. 2017, 1706.04599): sort the verdicts into bins
   of equal width. In each, compare the mean probability with the share of states that are solvable.
   The error is the mean absolute difference, weighted with the number of states.
2. Calibration (Platt 1999): a slope and a bias, p = sigmoid(slope * l + bias), fitted to the truth
   by maximum likelihood. The order of the verdicts stays as it is.
3. A constant guess is calibrated, too, and worth nothing. So the log loss stands beside the error,
   and that of the best constant guess beside both.
"""

import math

import torch
import torch.nn.functional as F

from countdown import can_reach, first_of_each, legal_moves, multisets


N_BINS = 15  # as in Guo et al.


# -----------------------------------------------------------------------------
# states to judge

def solvable_puzzles(n, target):
    """Every multiset of n numbers from 1 to 13 that makes the target with integers, (P, n). For
    n > 4 of a fixed 200 multisets."""
    puzzles = multisets(n)
    return puzzles[can_reach(puzzles, torch.full((len(puzzles),), target))]


def states_below(puzzles):
    """The states below puzzles (P, n) that a search can meet and judge, each once: {m: (N, m)} for
    m = n - 1, ... 2 numbers left. {} without a puzzle."""
    states = puzzles
    result = {}
    while len(states) > 0 and states.size(1) > 2:
        child, legal, _ = legal_moves(states)
        states = child[first_of_each(child, legal)].unique(dim=0)
        result[states.size(1)] = states
    return result


# -----------------------------------------------------------------------------
# the error, and the cure

def bins_of(probability, truth):
    """The bins that hold a verdict: a list of (mean probability, share that is true, how many).

    probability (N,), truth (N,) bool.
    """
    number = (probability * N_BINS).long().clamp(max=N_BINS - 1)
    result = []
    for i in range(N_BINS):
        inside = number == i
        count = int(inside.sum())
        if count > 0:
            mean = probability[inside].mean().item()
            share = truth[inside].double().mean().item()
            result.append((mean, share, count))
    return result


def calibration_error(probability, truth):
    """The expected calibration error of verdicts: 0 is perfect, 1 the most."""
    total = sum(count * abs(mean - share) for mean, share, count in bins_of(probability, truth))
    return total / len(truth)


def error_interval(probability, truth, n_draws=200):
    """95% bootstrap interval of the calibration error, over the states.

    The error of a sample drawn from a sample is too large on average, since noise adds to a sum of
    absolute values. So this is the basic bootstrap, which mirrors the quantiles at the error.
    """
    error = calibration_error(probability, truth)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(n_draws):
        drawn = torch.randint(len(truth), (len(truth),), generator=generator)
        errors.append(calibration_error(probability[drawn], truth[drawn]))
    low, high = torch.tensor(errors).quantile(torch.tensor([0.025, 0.975])).tolist()
    return max(0.0, 2 * error - high), max(0.0, 2 * error - low)


def fit_calibration(log_odds, truth):
    """Slope and bias of the maximum likelihood: sigmoid(slope * log_odds + bias) fits the truth.

    log_odds (N,), truth (N,) bool, with both values among them: else the fit has no end, and
    ValueError is raised.
    """
    if truth.all() or not truth.any():
        raise ValueError('a calibration needs states that are solvable and states that are not')
    log_odds = log_odds.double()
    truth = truth.double()
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn='strong_wolfe')

    def closure():
        optimizer.zero_grad()
        slope, bias = parameters
        loss = F.binary_cross_entropy_with_logits(slope * log_odds + bias, truth)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return tuple(parameters.detach().tolist())


def calibrated(log_odds, slope, bias):
    """Probabilities (N,) of verdicts (N,)."""
    return (slope * log_odds.double() + bias).sigmoid()


def log_loss(probability, truth):
    """Bits that the truth costs under these probabilities, on average over the states."""
    probability = probability.double().clamp(1e-12, 1 - 1e-12)
    return F.binary_cross_entropy(probability, truth.double()).item() / math.log(2)


def area_under_curve(values, truth):
    """The area under the ROC curve: in how many pairs of a true and a false state the true one has
    the higher value. Ties count half. NaN without a pair. values (N,), truth (N,) bool."""
    unique, rank = values.unique(return_inverse=True)           # ranks of equal values are equal
    n_true = torch.bincount(rank[truth], minlength=len(unique)).double()
    n_false = torch.bincount(rank[~truth], minlength=len(unique)).double()
    n_false_below = n_false.cumsum(0) - n_false
    pairs = n_true.sum() * n_false.sum()
    return ((n_true * (n_false_below + n_false / 2)).sum() / pairs).item()
