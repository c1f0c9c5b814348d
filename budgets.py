"""How many nodes does a puzzle deserve? For search.py --method budgets.

A search with a fixed budget spends as much on a hopeless puzzle as on an easy one. FactorExe hopes
that a calibrated verdict can set the budget by itself. So depth-first search is run under several
rules that say when to stop, each with several settings from thrifty to lavish:

    fixed            a puzzle gets B nodes
    calibrated       a state is opened only if it is solvable with a calibrated probability of at
                     least p, and there is no other limit
    raw verdict      the same with the verdict as it is

Controls:

    same nodes       a puzzle gets as many nodes as `calibrated` spent on it, and opens any state
    permuted         the same nodes, dealt out to the puzzles at random
    other states     as `calibrated`, with the probability of some other state of as many numbers
    shuffled truth   as `calibrated`, with a calibration that was fitted to shuffled truth
    oracle           as `fixed` without a limit, but of the puzzles that take the fewest nodes only

Rules are compared at equal cost, on the upper hull of their settings: see `share_at`.
"""

import copy
import math

import numpy as np
import torch

from calibration import states_below


FIXED = (2, 3, 4, 5, 6, 7, 8, 11, 15, 20, 30, 50, 100, math.inf)     # nodes
THRESHOLDS = (0.0003, 0.001, 0.003, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5)
N_PERMUTED = 10   # times that the nodes are dealt out
NODES = (3.5, 4, 4.5, 5, 6, 8, 10)  # mean nodes at which rules are compared


# -----------------------------------------------------------------------------
# verdicts that are computed once

class KnownVerdicts:
    """The model's log-odds of all states below some puzzles, on the CPU, to be looked up by many
    searches."""

    def __init__(self, puzzles, log_odds):
        """puzzles (P, n), on the CPU. log_odds: a function of states (N, m), (N,)."""
        self.keys = {}       # m -> (N,) sorted, a number for each state
        self.log_odds = {}   # m -> (N,) their verdicts
        for m, states in states_below(puzzles).items():
            keys, order = key_of(states).sort()
            self.keys[m] = keys
            self.log_odds[m] = log_odds(states[order]).cpu()

    def __call__(self, states):
        """The verdicts of states (N, m), (N,). They must be below the puzzles."""
        m = states.size(1)
        place = torch.searchsorted(self.keys[m], key_of(states.cpu()))
        return self.log_odds[m][place]

    def of_other_states(self, generator):
        """A copy in which every state has the verdict of a random state of as many numbers."""
        other = copy.copy(self)
        other.log_odds = {}
        for m, log_odds in self.log_odds.items():
            other.log_odds[m] = log_odds[torch.randperm(len(log_odds), generator=generator)]
        return other


def key_of(states):
    """A number for each state (N, m) of sorted numbers below 200, (N,): equal for equal ones."""
    power = 200 ** torch.arange(states.size(1), device=states.device)
    return (states * power).sum(dim=1)


# -----------------------------------------------------------------------------
# rules that need no search of their own

def dealt_out(nodes, generator):
    """The control `permuted`: nodes (P,) that puzzles took, dealt out at random, N_PERMUTED times.
    Returns (P, N_PERMUTED)."""
    dealt = []
    for _ in range(N_PERMUTED):
        dealt.append(nodes[torch.randperm(len(nodes), generator=generator)])
    return torch.stack(dealt, dim=1)


def cheapest_first(solved, cost, nodes):
    """The rule `oracle`: it knows how many nodes (P,) each puzzle takes until it is solved.

    solved (P,) bool. cost (P, K): what each puzzle has cost until then. Yields (n, share solved,
    mean cost (K,)) if all puzzles that take at most n nodes are searched, and no others.
    """
    for n in nodes[solved].unique().tolist():
        chosen = solved & (nodes <= n)
        yield n, chosen.double().mean().item(), cost.double().mul(chosen[:, None]).mean(dim=0)


# -----------------------------------------------------------------------------
# comparison

def upper_hull(points):
    """The corners of the upper hull of a rule's settings, from (0, 0) on: what it solves at best.

    points: a list of (mean cost, share solved). Each corner solves more than the one before it, and
    the line through them gets ever flatter.
    """
    hull = [(0.0, 0.0)]
    for cost, share in sorted(points):
        if share <= hull[-1][1]:
            continue
        # leave out corners below the line from the one before them to the new one
        while len(hull) > 1 and slope(hull[-2], hull[-1]) <= slope(hull[-2], (cost, share)):
            hull.pop()
        hull.append((cost, share))
    return hull


def slope(start, end):
    return (end[1] - start[1]) / max(1e-12, end[0] - start[0])


def share_at(points, amount):
    """What a rule solves at best if it may cost `amount` on average.

    points: its settings, see upper_hull. Two settings can be mixed, by a coin that is tossed for
    each puzzle, and a puzzle can be left alone. So every point on the hull can be had. A rule whose
    dearest setting costs less than `amount` has what that solves.
    """
    costs, shares = zip(*upper_hull(points), strict=True)
    return float(np.interp(amount, costs, shares))
