"""Factors of shifted copies for channels that nothing can be folded into."""

from __future__ import annotations

import numpy as np
import pytest

from tests.convert.networks import images, residual_network
from tvm_shiftadd.convert import ConvertOptions, Graph, convert, run_float, run_integer
from tvm_shiftadd.convert.compensate import compensated_search
from tvm_shiftadd.convert.exact import KeptWeight
from tvm_shiftadd.convert.finer import LONGEST, WORTH, FinerScales, choose_finer_scales
from tvm_shiftadd.convert.moments import Moments
from tvm_shiftadd.convert.report import snr_db
from tvm_shiftadd.convert.terms import Float64, Int32, Limits, TermLimits, choose_scales
from tvm_shiftadd.formats import codes

ONE = TermLimits(1)


def moments(groups: int, reduction: int, made: int, seed: int = 5) -> Moments:
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((groups, reduction, reduction)) * 20
    hessian = mixing @ mixing.transpose(0, 2, 1) + 40 * np.eye(reduction)
    return Moments(hessian, random.standard_normal((groups, reduction, made)) / reduction)


def errors(given: Moments, values: Int32, exponent: Int32, factor: Float64) -> float:
    kept = np.ldexp(values.astype(float), -exponent) * factor
    groups, reduction, made = given.ideal.shape
    difference = kept.reshape(reduction, groups, made).transpose(1, 0, 2) - given.ideal
    return float(np.einsum("gno,gnk,gko->", difference, given.hessian, difference))


def multiplier(found: FinerScales) -> Float64:
    return KeptWeight(found.values, found.exponent, 1, found.factor).multiplier


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("reduction", [9, 40])
def test_factors_lose_less_than_powers_of_two(groups: int, reduction: int):
    given = moments(groups, reduction, 4)
    limits = Limits(5, np.zeros(groups * 4), 5)
    search = compensated_search(given, ONE)
    found = choose_finer_scales(given.ideal, ONE, search, limits)
    assert found is not None
    codes.encode(found.values, 1)
    assert found.factor.copies == 2
    factor = multiplier(found)
    assert (factor >= 1).all() and (factor < 2).all() and np.unique(factor).size > 1
    np.testing.assert_allclose(found.real, found.exponent - np.log2(factor))
    whole = choose_scales("l", given.ideal, ONE, search, limits)
    finer = errors(given, found.values, found.exponent, factor)
    assert finer < WORTH * errors(given, *whole, np.ones(groups * 4))


def test_weights_that_suit_powers_of_two_get_no_factor():
    given = moments(1, 12, 3)
    exact = np.sign(given.ideal) * 2.0 ** np.random.default_rng(0).integers(-5, 1, (1, 12, 3))
    search = compensated_search(Moments(given.hessian, exact), ONE)
    assert choose_finer_scales(exact, ONE, search, Limits(5, np.zeros(3), 5)) is None


def test_long_reductions_get_no_factor():
    long = np.random.default_rng(0).standard_normal((1, LONGEST + 1, 1))

    def search(exponent: Float64) -> tuple[Float64, Float64]:
        raise AssertionError("nothing has to be searched")

    assert choose_finer_scales(long, ONE, search, Limits(5, np.zeros(1), 5)) is None


def test_the_accumulator_behind_a_factor_fits():
    given = moments(1, 9, 64)
    search = compensated_search(given, ONE)
    bias = np.full(64, 2.0**15.5)
    free = choose_finer_scales(given.ideal, ONE, search, Limits(5, np.zeros(64), 5))
    tied = choose_finer_scales(given.ideal, ONE, search, Limits(5, bias, 5))
    assert free is not None and tied is not None
    bits = tied.factor.exponent
    assert (bits < free.factor.exponent).any()
    behind = np.ldexp(bias, tied.exponent + bits + 5) * multiplier(tied)
    assert (np.abs(behind) < 2**31).all()
    huge = Limits(5, np.full(64, 2.0**40), 5)
    assert choose_finer_scales(given.ideal, ONE, search, huge) is None


def output_snr(graph: Graph, finer: bool) -> float:
    feeds = images(graph, 64)
    result = convert(graph, lambda: [feeds], ConvertOptions(terms=1, finer=finer))
    assert any(layer.copies > 1 for layer in result.report.layers) == finer
    test = images(graph, 100, seed=9)
    name = graph.outputs[0]
    wanted = run_float(graph, test)[name]
    ratio = snr_db(wanted - wanted.mean(0), run_integer(graph, result.plan, test)[0][name] - wanted)
    assert ratio is not None
    return ratio


def test_factors_help_networks_of_residuals():
    graphs = [residual_network(seed) for seed in range(3)]
    on = [output_snr(graph, True) for graph in graphs]
    off = [output_snr(graph, False) for graph in graphs]
    assert np.mean(on) > np.mean(off) + 0.5
