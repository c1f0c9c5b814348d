"""How many nodes does a puzzle deserve? For search.py --method budgets.

A search with a fixed budget spends as much on a hopeless puzzle as on an easy one. FactorExe hopes
that a calibrated verdict can set the budget by itself. So depth-first search is run under several
rules that say when to stop, each with several settings from thrifty to lavish:

    fixed            a puzzle gets B nodes
    calibrated       a state is opened if it is solvable with a calibrated probability of at least p
    raw verdict      the same with the verdict as it is
    shuffled truth   control: the same with a calibration that was fitted to shuffled truth
    permuted         control: the nodes that `calibrated` spent, dealt out to the puzzles at random
    oracle           the puzzles that take the fewest nodes first, and none on the others

Rules are compared at equal cost. `share_at` reads the share solved off the line through a rule's
worthwhile settings.
"""

import numpy as np
import torch

from calibration import states_below


FIXED = (3, 4, 5, 6, 7, 8, 11, 15, 20, 30, 50, 100)          # nodes
THRESHOLDS = (0.0003, 0.001, 0.003, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5)
N_PERMUTED = 10   # times that the nodes are dealt out
NODES = (3.5, 4, 4.5, 5, 6, 8)  # mean nodes at which rules are compared


# -----------------------------------------------------------------------------
# verdicts that are computed once

class KnownVerdicts:
    """The model's log-odds of all states below some puzzles, to be looked up by many searches.

    log_odds: a function of states (N, m), (N,).
    """

    def __init__(self, puzzles, log_odds):
        """puzzles (P, n)."""
        self.keys = {}       # m -> (N,) sorted, a number for each state
        self.log_odds = {}   # m -> (N,) their verdicts
        for m, states in states_below(puzzles).items():
            keys, order = key_of(states).sort()
            self.keys[m] = keys
            self.log_odds[m] = log_odds(states[order])

    def __call__(self, states):
        """The verdicts of states (N, m), (N,). They must be below the puzzles."""
        m = states.size(1)
        place = torch.searchsorted(self.keys[m], key_of(states))
        return self.log_odds[m][place]


def key_of(states):
    """A number for each state (N, m) of sorted numbers below 200, (N,): equal for equal ones."""
    power = 200 ** torch.arange(states.size(1), device=states.device)
    return (states * power).sum(dim=1)


# -----------------------------------------------------------------------------
# rules that need no search of their own

def dealt_out(nodes, generator):
    """The control `permuted`: nodes (P,) that puzzles took, dealt out at random, N_PERMUTED times.
    Returns (P * N_PERMUTED,): those of a puzzle stand together."""
    dealt = []
    for _ in range(N_PERMUTED):
        dealt.append(nodes[torch.randperm(len(nodes), generator=generator).to(nodes.device)])
    return torch.stack(dealt, dim=1).flatten()


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

def worthwhile(points):
    """The settings of a rule that solve more than every cheaper one, the cheapest first.

    points: a list of (mean cost, share solved).
    """
    best = []
    for cost, share in sorted(points):
        if not best or share > best[-1][1]:
            best.append((cost, share))
    return best


def share_at(points, amount):
    """What a rule solves if it costs `amount` on average.

    points: its settings, see `worthwhile`. Between two settings the share is read off the line that
    joins them: a rule could toss a coin for each puzzle. None if even the cheapest costs more.
    """
    costs, shares = zip(*worthwhile(points), strict=True)
    if amount < costs[0]:
        return None
    return float(np.interp(amount, costs, shares))
