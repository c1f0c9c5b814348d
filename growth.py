"""How does a size grow with the length of a chain? The fits of scaling.py.

The size is that of the smallest pool of questions with which k hops are learned, or the width of
the smallest model. It is known for some k and some seeds, and only as a power of 2: N / 2 fails
and N suffices. Sizes come as {hops: {seed: size, or None if no size suffices}}.
"""

import numpy as np


SURE = 0.9      # share of redrawn fits that must agree on a shape
N_DRAWS = 2000  # redrawn fits


def fit_growth(sizes):
    """Fits of the size N against the hops k. sizes: {hops: {seed: N or None}}.

    Returns a dict:
        reached, never   hop counts that all seeds learn, and the others
        slope            of log2 N against k: doublings a hop. None if some hop count is never
                         learned, or if there is only one
        low, high        its 95% interval, see redraw
        exponent         of N ~ k^exponent: the slope of log2 N against log2 k. Up to 1 is
                         sublinear, 1 linear, more is superlinear
        exponent_low, exponent_high   its 95% interval
        shape            'constant' if the interval of the slope holds 0, 'falling' if it is below.
                         Else the law that is nearest in a share of SURE of the redrawn points:
                         'logarithmic', 'power' or 'exponential', see LAWS. 'growing' if none is.
                         None with fewer than three hop counts
    """
    hops = list(sizes)
    reached = [k for k in hops if None not in sizes[k].values()]
    fit = dict(reached=reached, never=[k for k in hops if k not in reached], slope=None, low=None,
               high=None, exponent=None, exponent_low=None, exponent_high=None, shape=None)
    if fit['never'] or len(hops) < 2:
        return fit

    # rows are seeds, columns are hop counts
    seeds = sorted(sizes[hops[0]])
    log_n = np.log2([[sizes[k][seed] for k in hops] for seed in seeds])   # (S, K)
    k = np.array(hops, dtype=float)                                       # (K,)
    fit['slope'] = round(float(slope_of(k, log_n.mean(axis=0))), 9) + 0.0  # no -0.0
    fit['exponent'] = round(float(slope_of(np.log2(k), log_n.mean(axis=0))), 9) + 0.0

    # how far they depend on the seeds, and on sizes being powers of 2
    points = redraw(log_n)                                                # (K, N_DRAWS)
    fit['low'], fit['high'] = interval(slope_of(k, points))
    fit['exponent_low'], fit['exponent_high'] = interval(slope_of(np.log2(k), points))
    if len(hops) >= 3:
        fit['shape'] = shape_of(fit['low'], fit['high'], k, points)
    return fit


def redraw(log_n):
    """Other points that the experiment could have given, (K, N_DRAWS). log_n (S, K).

    The seeds are drawn again, with replacement. And as N / 2 fails and N suffices, the true
    smallest size lies somewhere between: each log2 N is drawn between log2 N - 1 and log2 N.
    """
    rng = np.random.default_rng(0)
    n_seeds = len(log_n)
    points = []
    for _ in range(N_DRAWS):
        rows = rng.integers(n_seeds, size=n_seeds)
        drawn = log_n[rows] - rng.random(log_n.shape)                     # (S, K)
        points.append(drawn.mean(axis=0))
    return np.array(points).T


def interval(values):
    """[low, high] with 95% of the values between."""
    return np.quantile(values, [0.025, 0.975]).tolist()


def slope_of(x, y):
    """Slopes of the least-squares lines through x (K,) and each column of y (K,) or (K, N)."""
    return np.polyfit(x, y, 1)[0]


# -----------------------------------------------------------------------------
# which law is nearest?

def logarithmic_law(k, log_size):
    """N = a + b log2 k"""
    b, a = np.polyfit(np.log2(k), 2.0 ** log_size, 1)
    size = a + np.outer(np.log2(k), b)
    return np.log2(np.maximum(1.0, size))


def power_law(k, log_size):
    """N = a k^b"""
    b, log_a = np.polyfit(np.log2(k), log_size, 1)
    return log_a + np.outer(np.log2(k), b)


def exponential_law(k, log_size):
    """N = a 2^(b k)"""
    b, log_a = np.polyfit(k, log_size, 1)
    return log_a + np.outer(k, b)


# Each law has two free numbers. It returns log2 N of the nearest curves, (K, N_DRAWS).
LAWS = {'logarithmic': logarithmic_law, 'power': power_law, 'exponential': exponential_law}


def shape_of(low, high, k, points):
    """The word for how a size grows, see fit_growth. points (K, N_DRAWS): log2 of sizes."""
    if low <= 0 <= high:
        return 'constant'
    if high < 0:
        return 'falling'
    errors = []
    for law in LAWS.values():
        errors.append(((law(k, points) - points) ** 2).sum(axis=0))
    nearest = np.argmin(errors, axis=0)                                   # (N_DRAWS,)
    shares = np.bincount(nearest, minlength=len(LAWS)) / len(nearest)
    winner = int(shares.argmax())
    return list(LAWS)[winner] if shares[winner] >= SURE else 'growing'
