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


@pytest.mark.parametrize('name, size', [
    ('logarithmic', lambda k: 300 * (1 + 9 * np.log2(k))),
    ('power', lambda k: 300 * k**1.5),
    ('exponential', lambda k: 300 * 2 ** (0.4 * k)),
])
def test_a_law_is_nearest_to_its_own_points(name, size):
    k = np.array([1.0, 2, 3, 4, 6, 8])
    points = np.log2(size(k))[:, None]
    errors = {law: error(k, points)[0] for law, error in growth.LAWS.items()}
    assert errors[name] < 1e-3 and min(errors, key=errors.get) == name
    assert sorted(errors.values())[1] > 0.1
    low, high = 0.1, 0.5  # a range without 0
    assert growth.shape_of(low, high, k, np.repeat(points, 9, axis=1)) == name


def test_a_law_takes_four_hop_counts():
    """150 sqrt(k), rounded up, looks exponential at three of them."""
    def size(k, seed):
        return 2 ** int(np.ceil(np.log2(150 * np.sqrt(k))))
    assert fit(size, hops=(1, 2, 3))['shape'] in ('growing', 'unclear')
    assert fit(size, hops=(1, 2, 3, 4, 6, 8))['shape'] != 'exponential'


def test_a_slope_that_may_be_zero_is_not_called_constant():
    """Seeds with slopes 0, 0 and 2."""
    result = fit(lambda k, seed: 2 ** (2 * k) if seed == 3 else 64, hops=(1, 2, 4))
    assert result['low'] < 0 < result['high'] and result['shape'] == 'unclear'


@pytest.mark.parametrize('slope', [0, 0.2, 0.5])
def test_the_range_covers_the_true_slope_although_seeds_are_rounded_alike(slope):
    rng = np.random.default_rng(1)
    n_covered = 0
    for first in rng.uniform(5, 9, size=60):
        result = fit(lambda k, seed, first=first: 2.0 ** np.ceil(first + slope * k), hops=(1, 2, 4))
        n_covered += result['low'] <= slope <= result['high']
    assert n_covered >= 54


def test_where_the_smallest_size_suffices_the_minimum_is_not_known():
    sizes = {k: {1: 32 if k < 4 else 2 ** k} for k in (1, 2, 4, 8, 9)}
    result = growth.fit_growth(sizes, smallest=32)
    assert result['bounds'] == [1, 2, 4] and result['slope'] == pytest.approx(1)
    everywhere = growth.fit_growth({1: {1: 32}, 2: {1: 32}, 4: {1: 32}}, smallest=32)
    assert everywhere['slope'] is None and everywhere['bounds'] == [1, 2, 4]


def test_seeds_without_all_hop_counts_are_left_out():
    sizes = {1: {1: 64, 2: 8}, 2: {1: 128}}
    assert growth.fit_growth(sizes)['slope'] == pytest.approx(1)
    assert growth.fit_growth({1: {2: 8}, 2: {1: 128}})['slope'] is None


def test_three_points_that_double_twice_tell_no_power_from_an_exponential():
    result = fit(lambda k, seed: 256 * k, hops=(1, 2, 4), seeds=(1,))
    assert result['shape'] == 'growing' and result['exponent'] == pytest.approx(1)
    assert 0 < result['low'] < result['slope'] < result['high']
    assert result['exponent_low'] < 1 < result['exponent_high']


def test_two_hop_counts_have_a_slope_but_no_law():
    result = fit(lambda k, seed: 64 ** k, hops=(1, 2))
    assert result['slope'] == pytest.approx(6) and result['shape'] == 'growing'
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
