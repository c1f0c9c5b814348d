"""How does a size grow with the length of a chain? The fits of scaling.py.

The size is that of the smallest pool of questions with which k hops are learned, or the width of
the smallest model. It is known for some k and some seeds, and only as a power of 2: N / 2 fails
and N suffices. Sizes come as {hops: {seed: size, or None if no size suffices}}.
"""

import numpy as np


FLAT = 0.3      # doublings a hop: how wide the range of a constant may be, both ways
SURE = 0.9      # share of redrawn fits that must agree on a law
FEWEST = 4      # hop counts that it takes to name a law
N_DRAWS = 2000  # redrawn fits


def fit_growth(sizes, smallest=0):
    """Fits of the size N against the hops k. sizes: {hops: {seed: N or None}}.

    smallest: the smallest size that was tried. Where it suffices, the true minimum is not known, so
    these hop counts are left out. So are seeds that do not have all hop counts.

    Returns a dict:
        reached, never   hop counts that all seeds learn, and the others
        bounds           those of `reached` that are left out, as the smallest size suffices
        slope            of log2 N against k: doublings a hop. None if some hop count is never
                         learned, or if there are fewer than two
        low, high        its range, see redraw
        exponent         of N ~ k^exponent: the slope of log2 N against log2 k. Up to 1 is
                         sublinear, 1 linear, more is superlinear
        exponent_low, exponent_high   its range
        shape            'constant' if the range of the slope holds 0 and lies within +- FLAT,
                         'unclear' if it holds 0 and is wider, 'falling' if it is below 0. Else the
                         law that is nearest in a share of SURE of the redrawn points: see LAWS.
                         'growing' if none is, or with fewer than FEWEST hop counts
    """
    reached = [k for k in sizes if None not in sizes[k].values()]
    never = [k for k in sizes if k not in reached]
    bounds = [k for k in reached if min(sizes[k].values()) <= smallest]
    fit = dict(reached=reached, never=never, bounds=bounds, slope=None, low=None, high=None,
               exponent=None, exponent_low=None, exponent_high=None, shape=None)
    hops = [k for k in reached if k not in bounds]
    if never or len(hops) < 2:
        return fit
    seeds = set.intersection(*(set(sizes[k]) for k in hops))
    if not seeds:
        return fit

    # rows are seeds, columns are hop counts
    log_n = np.log2([[sizes[k][seed] for k in hops] for seed in sorted(seeds)])   # (S, K)
    k = np.array(hops, dtype=float)                                       # (K,)
    fit['slope'] = round(float(slope_of(k, log_n.mean(axis=0))), 9) + 0.0  # no -0.0
    fit['exponent'] = round(float(slope_of(np.log2(k), log_n.mean(axis=0))), 9) + 0.0

    # how far they depend on the seeds, and on sizes being powers of 2
    points = redraw(log_n)                                                # (K, N_DRAWS)
    fit['low'], fit['high'] = interval(slope_of(k, points))
    fit['exponent_low'], fit['exponent_high'] = interval(slope_of(np.log2(k), points))
    fit['shape'] = shape_of(fit['low'], fit['high'], k, points)
    return fit


def redraw(log_n):
    """Other points that the experiment could have given, (K, N_DRAWS). log_n (S, K).

    The seeds are drawn again, with replacement. And as N / 2 fails and N suffices, the true
    smallest size lies somewhere between: log2 N - u, with u between 0 and 1. One u is drawn for
    each hop count, as all seeds may be rounded up from the same size. With a few seeds this says
    how far the fit could move, and no more: it is no exact confidence interval.
    """
    rng = np.random.default_rng(0)
    n_seeds, n_hops = log_n.shape
    points = []
    for _ in range(N_DRAWS):
        rows = rng.integers(n_seeds, size=n_seeds)
        points.append(log_n[rows].mean(axis=0) - rng.random(n_hops))
    return np.array(points).T


def interval(values):
    """[low, high] with 95% of the values between."""
    return np.quantile(values, [0.025, 0.975]).tolist()


def slope_of(x, y):
    """Slopes of the least-squares lines through x (K,) and each column of y (K,) or (K, N)."""
    return np.polyfit(x, y, 1)[0]


# -----------------------------------------------------------------------------
# which law is nearest?
#
# Each law has two free numbers, a and b. Its function returns the sum of squared gaps to log2 N, as
# near as a and b can bring it, for each column of points (K, N): (N,).

def line_error(x, points):
    """The least sum of squares that a line through x (K,) leaves."""
    b, a = np.polyfit(x, points, 1)
    return ((a + np.outer(x, b) - points) ** 2).sum(axis=0)


def power_error(k, points):
    """N = a k^b"""
    return line_error(np.log2(k), points)


def exponential_error(k, points):
    """N = a 2^(b k)"""
    return line_error(k, points)


def logarithmic_error(k, points):
    """N = a (1 + b log2 k). The best b is searched on a grid."""
    least = np.full(points.shape[1], np.inf)
    for b in np.geomspace(0.01, 100, 81):
        gap = points - np.log2(1 + b * np.log2(k))[:, None]
        gap = gap - gap.mean(axis=0)  # the best a
        least = np.minimum(least, (gap ** 2).sum(axis=0))
    return least


LAWS = {'logarithmic': logarithmic_error, 'power': power_error, 'exponential': exponential_error}


def shape_of(low, high, k, points):
    """The word for how a size grows, see fit_growth. points (K, N_DRAWS): log2 of sizes."""
    if low <= 0 <= high:
        return 'constant' if low >= -FLAT and high <= FLAT else 'unclear'
    if high < 0:
        return 'falling'
    if len(k) < FEWEST:
        return 'growing'
    errors = [law(k, points) for law in LAWS.values()]
    nearest = np.argmin(errors, axis=0)                                   # (N_DRAWS,)
    shares = np.bincount(nearest, minlength=len(LAWS)) / len(nearest)
    winner = int(shares.argmax())
    return list(LAWS)[winner] if shares[winner] >= SURE else 'growing'
