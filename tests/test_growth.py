"""growth.py: the fits of sizes that are known as powers of 2."""

import numpy as np
import pytest

import growth


def fit(function, hops=(1, 2, 4, 8), seeds=(1, 2, 3)):
    return growth.fit_growth({k: {seed: function(k, seed) for seed in seeds} for k in hops})


@pytest.mark.parametrize('function, slope, exponent, shape', [
    (lambda k, seed: 256, 0, 0, 'constant'),
    (lambda k, seed: 2 ** (2 * k + 3), 2, None, 'exponential'),
    (lambda k, seed: 8 * k**4, None, 4, 'power'),
    (lambda k, seed: 2 ** (12 - k), -1, None, 'falling'),
])
def test_how_pools_grow(function, slope, exponent, shape):
    result = fit(function)
    assert result['shape'] == shape
    assert result['reached'] == [1, 2, 4, 8] and result['never'] == []
    if slope is not None:
        assert result['slope'] == pytest.approx(slope)
    if exponent is not None:
        assert result['exponent'] == pytest.approx(exponent)


def test_a_size_that_grows_with_the_logarithm():
    result = fit(lambda k, seed: 1024 * (1 + np.log2(k)), hops=(1, 2, 4, 8, 16, 32),
                 seeds=range(30))
    assert result['shape'] == 'logarithmic'
    assert result['exponent_low'] < result['exponent'] < result['exponent_high'] < 1


def test_three_points_that_double_twice_tell_no_power_from_an_exponential():
    result = fit(lambda k, seed: 256 * k, hops=(1, 2, 4), seeds=(1,))
    assert result['shape'] == 'growing' and result['exponent'] == pytest.approx(1)
    assert 0 < result['low'] < result['slope'] < result['high']
    assert result['exponent_low'] < 1 < result['exponent_high']


def test_two_hop_counts_have_a_slope_but_no_shape():
    result = fit(lambda k, seed: 64 ** k, hops=(1, 2))
    assert result['slope'] == pytest.approx(6) and result['shape'] is None
    assert fit(lambda k, seed: 64, hops=(4,))['slope'] is None


def test_what_some_seed_never_learns_has_no_slope():
    """A control that equals the true chain up to 2 hops, and fails beyond, is not flat."""
    result = fit(lambda k, seed: 256 if k < 4 or seed == 2 and k == 4 else None)
    assert result['reached'] == [1, 2] and result['never'] == [4, 8]
    assert result['slope'] is None and result['shape'] is None and result['low'] is None


def test_the_interval_knows_the_seeds_and_that_pools_are_powers_of_two():
    """Seeds with slopes 0, 1 and 2: the mean is 1, and the interval reaches from 0 to 2, and a
    little further, as each pool is known to a factor of two."""
    result = fit(lambda k, seed: 2 ** ((seed - 1) * k), hops=(1, 2, 3))
    assert result['slope'] == pytest.approx(1)
    assert -0.7 < result['low'] < 0.1 and 1.9 < result['high'] < 2.7
    result = fit(lambda k, seed: 256, seeds=(1,))
    assert -0.25 < result['low'] < -0.02 < 0.02 < result['high'] < 0.25
