"""The statistics, against libraries, textbooks, the replication's numbers, and simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from koala.study import simulation, statistics
from koala.study.simulation import RandomEffects
from koala.study.statistics import AnswerTable
from koala.study.trials import Quota, full_design

# "Real" answers of 60 to the replication's nine coloured pictures, from its answers file
REPLICATION = [count / 60 for count in (47, 41, 24, 34, 18, 16, 27, 24, 31)]
QUOTA = Quota(12, 0.5)


@pytest.fixture(scope="module")
def answers() -> AnswerTable:
    rng = np.random.default_rng(0)
    versions = full_design(40, 24, 2, QUOTA, rng)
    versions[:5, :10] = -1  # who left early
    return simulation.simulate_answers(versions, [0.65, 0.45, 0.5], RandomEffects(), rng)


def test_a_table_is_made_of_rows():
    table = AnswerTable.of(["b", "a", "b"], ["s", "t", "t"], [1, 0, 2], [True, True, False])
    assert table.versions.tolist() == [[-1, 0], [1, 2]]
    assert table.real.tolist() == [[False, True], [True, False]]


def test_wilson():
    """47 of 60: worked out with Wilson's formula, (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    assert statistics.wilson_interval(47 / 60, 60) == pytest.approx((0.66380, 0.86877), abs=1e-5)
    assert statistics.wilson_interval(np.nan, 0) == (0.0, 1.0)
    for real in (0, 1, 12, 24):
        expected = proportion_confint(real, 24, method="wilson")
        assert statistics.wilson_interval(real / 24, 24) == pytest.approx(expected, abs=1e-12)


def test_the_replications_t_test_is_reproduced():
    """Its notebook printed 0.49309841721744707."""
    assert statistics.published_test(REPLICATION, 60) == pytest.approx(0.49309841721744707, rel=1e-12)
    assert np.mean(REPLICATION) == pytest.approx(0.485185, abs=1e-6)
    assert np.std(REPLICATION, ddof=1) == pytest.approx(0.170873, abs=1e-6)


def test_the_right_test_has_the_pictures_as_n():
    """By hand: t = (0.48519 - 0.45867) / sqrt((0.17087² + 0.22365²) / 9) = 0.2826, with 16 degrees of freedom."""
    student, welch = statistics.pictures_test(REPLICATION)
    assert student == pytest.approx(2 * stats.t.sf(0.28262, 16), abs=1e-4)
    assert student == pytest.approx(0.78109, abs=1e-5)
    assert welch == pytest.approx(0.78134, abs=1e-5)


def test_equality_over_pictures_is_not_shown_by_nine():
    """By hand (Welch): the larger p is of the upper side, t = (0.02652 - 0.1) / 0.09382 = -0.783, df 14.96."""
    assert statistics.pictures_equality(REPLICATION, 0.1) == pytest.approx(stats.t.cdf(-0.7832, 14.965), abs=1e-3)


@pytest.mark.parametrize("weights", [(0, 1, 0), (0, 1, -1), (1, -0.5, -0.5)])
def test_crossed_errors_are_those_of_two_way_clustering(answers, weights):
    """statsmodels' one-way clustered and unclustered covariances of a regression on versions, put together."""
    from statsmodels.api import OLS

    wanted = np.flatnonzero(weights)
    rows, columns = np.nonzero(np.isin(answers.versions, wanted))
    versions, real = answers.versions[rows, columns], answers.real[rows, columns].astype(float)
    model = OLS(real, (versions[:, None] == wanted).astype(float))
    contrast = np.array(weights, float)[wanted]

    def variance(factor: float, **kind) -> float:
        return factor * contrast @ model.fit(**kind).cov_params() @ contrast

    def clustered(groups) -> float:
        count = len(np.unique(groups))
        options = {"groups": groups, "use_correction": False}
        return variance(count / (count - 1), cov_type="cluster", cov_kwds=options)

    once = variance(len(real) / (len(real) - 1), cov_type="HC0")
    expected = max(clustered(rows) + clustered(columns) - once, min(clustered(rows), clustered(columns)))
    found = statistics.crossed_estimate(answers, weights)
    assert found.value == pytest.approx(contrast @ model.fit().params)
    assert found.se**2 == pytest.approx(expected, rel=1e-9)


def test_the_interval_of_a_realness_counts_what_answers_are_worth(answers):
    """Wilson's, with p (1 - p) / se² answers and 23 degrees of freedom, for there are 24 scenes and 40 people."""
    estimate = statistics.crossed_estimate(answers, (0, 1))
    worth = estimate.value * (1 - estimate.value) / estimate.se**2
    low, high = statistics.crossed_interval(answers, 1)
    assert worth < (answers.versions == 1).sum(), "answers of one person, and to one scene, are alike"
    assert (low, high) == pytest.approx(statistics.wilson_interval(estimate.value, worth, 2.068658))
    assert (low, high) == pytest.approx(estimate.interval(), abs=0.02)


def test_independent_answers_are_worth_what_they_are():
    """A hundred people, each about one scene of their own: all of them count, and no more than that."""
    table = AnswerTable.of(range(100), range(100), [1] * 100, [True] * 30 + [False] * 70)
    assert statistics.crossed_interval(table, 1) == pytest.approx(
        statistics.wilson_interval(0.3, 99, 1.984217), abs=1e-3
    )


@pytest.mark.parametrize("real", [True, False])
def test_answers_that_are_all_alike_have_an_interval_too(real):
    """12 answers of 4 people to 3 scenes are worth three: Wilson's with t = 4.302653 is 3 / (3 + t²) to 1."""
    table = AnswerTable.of(np.repeat(range(4), 3), [*"abc"] * 4, [1] * 12, [real] * 12)
    low, high = statistics.crossed_interval(table, 1)
    assert (low, high) == pytest.approx((0.139452, 1) if real else (0, 1 - 0.139452), abs=1e-6)


def test_one_person_or_one_scene_say_nothing_of_others():
    for people, scenes in (([1, 1], "ab"), ([1, 2], "aa"), ([], "")):
        table = AnswerTable.of(people, list(scenes), [1] * len(people), [True] * len(people))
        assert np.isnan(statistics.crossed_interval(table, 1)).all()


def test_no_interval_is_beyond_what_can_be():
    """Of few people and scenes, with shares near the ends."""
    rng = np.random.default_rng(0)
    for people, scenes, realness in [(3, 4, 0.5), (5, 12, 0.9), (12, 6, 0.05)] * 20:
        versions = full_design(people, scenes, 2, Quota(4, 0.5), rng)
        table = simulation.simulate_answers(versions, [0.8, realness, realness], RandomEffects(), rng)
        finding = statistics.crossed_test(table, (-1, 1, 0), rng, draws=199)
        for bound, (low, high) in ((0, statistics.crossed_interval(table, 1)), (-1, (finding.low, finding.high))):
            assert np.isnan(low) or bound <= low <= high <= 1


def test_an_estimate_speaks_students_t():
    estimate = statistics.Estimate(0.2, 0.1, 10)
    assert estimate.p_value() == pytest.approx(2 * stats.t.sf(2, 10))
    assert estimate.interval(0.9) == pytest.approx((0.2 - 0.1 * 1.812461, 0.2 + 0.1 * 1.812461), abs=1e-6)


def test_a_bootstrap_agrees_with_students_t_where_there_is_much(answers):
    estimate = statistics.crossed_estimate(answers, (1, -1, 0))
    finding = statistics.crossed_test(answers, (1, -1, 0), np.random.default_rng(0), draws=4999)
    assert (finding.low, finding.high) == pytest.approx(estimate.interval(), abs=0.02)
    assert finding.p == pytest.approx(estimate.p_value(), abs=0.01)


def test_equality_is_shown_by_an_interval_within_the_margin(answers):
    """TOST at 5 % says the same as the 90 % interval."""
    rng = np.random.default_rng(0)
    for margin in (0.02, 0.1, 0.2, 0.3):
        finding = statistics.crossed_test(answers, (0, 1, -1), np.random.default_rng(0), margin=margin, level=0.9)
        assert (finding.p_equal < 0.05) == (-margin < finding.low and finding.high < margin)
    assert statistics.crossed_test(answers, (1, -1, 0), rng, margin=0.01).p_equal > 0.5


def test_too_few_answers_give_no_finding():
    table = AnswerTable.of([1, 1], ["s", "t"], [0, 1], [True, False])
    finding = statistics.crossed_test(table, (1, -1), np.random.default_rng(0))
    assert finding.value == 1.0
    assert np.isnan([finding.low, finding.high, finding.p, finding.p_equal]).all()
    assert np.isnan(statistics.crossed_estimate(table, (0, 0, 1)).value)


def test_d_prime():
    """Hits 0.8 and false alarms 0.2 give d' 1.683 and no bias (Macmillan & Creelman, table of z)."""
    d_prime, criterion = statistics.signal_detection(8_000_000, 10_000_000, 2_000_000, 10_000_000)
    assert (float(d_prime), float(criterion)) == pytest.approx((1.6832, 0), abs=1e-4)


def test_who_calls_everything_fake_is_no_good_detector():
    d_prime, criterion = statistics.signal_detection([12, 0, 12], [12, 12, 12], [12, 0, 0], [12, 12, 12])
    assert d_prime[:2] == pytest.approx([0, 0])
    assert criterion[0] < -1.5 < 1.5 < criterion[1]
    assert 3 < d_prime[2] < 4, "perfect, but not infinitely good"


def test_d_prime_of_all(answers):
    d_prime, criterion = statistics.crossed_signal_detection(answers, 0, 1)
    score = [stats.norm.ppf(answers.real[answers.versions == version].mean()) for version in (0, 1)]
    assert d_prime.value == pytest.approx(score[0] - score[1], abs=0.02)
    assert criterion.value == pytest.approx(sum(score) / 2, abs=0.02)
    low, high = d_prime.interval()
    assert low < d_prime.value < high


def test_simulated_people_answer_as_planted():
    rng = np.random.default_rng(0)
    versions = rng.integers(0, 3, (400, 400))
    table = simulation.simulate_answers(versions, [0.7, 0.4, 0.5], RandomEffects(0.8, 0.3, 0.3, 0.2), rng)
    assert [table.real[versions == version].mean() for version in range(3)] == pytest.approx([0.7, 0.4, 0.5], abs=0.03)


def test_spread_is_found_again():
    rng = np.random.default_rng(0)
    versions = full_design(120, 96, 2, Quota(24, 0.5), rng)
    planted = RandomEffects(0.8, 0.4, 0.7, 0.3)
    found = [
        simulation.estimate_random_effects(simulation.simulate_answers(versions, [0.6, 0.4, 0.4], planted, rng), 3)
        for _ in range(12)
    ]
    for name in ("participants", "scenes", "pictures"):
        assert np.mean([getattr(spread, name) for spread in found]) == pytest.approx(getattr(planted, name), abs=0.12)


@pytest.mark.slow
def test_the_main_test_keeps_its_level_and_its_intervals_cover():
    """1,000 studies of two equal models: 5 % (± 1.5) are found different, and 95 % of intervals hold the truth."""
    rng = np.random.default_rng(0)
    versions = full_design(60, 48, 2, Quota(24, 0.5), rng)
    rejected, covered = [], []
    for _ in range(1000):
        table = simulation.simulate_answers(versions, [0.65, 0.45, 0.45], RandomEffects(), rng)
        rejected.append(statistics.crossed_test(table, (0, 1, -1), rng, draws=499).p < 0.05)
        low, high = statistics.crossed_interval(table, 1)
        covered.append(low < 0.45 < high)
    assert 0.035 <= np.mean(rejected) <= 0.065
    assert 0.935 <= np.mean(covered) <= 0.965


@pytest.mark.slow
@pytest.mark.parametrize(
    ("people", "scenes", "shown", "realness"), [(12, 12, 8, 0.93), (5, 12, 8, 0.6), (30, 24, 12, 0.1)]
)
def test_intervals_of_small_studies_and_near_the_ends_cover_too(people, scenes, shown, realness):
    rng, covered = np.random.default_rng(0), []
    versions = full_design(people, scenes, 2, Quota(shown, 0.5), rng)
    for _ in range(1000):
        table = simulation.simulate_answers(versions, [0.8, realness, realness], RandomEffects(), rng)
        low, high = statistics.crossed_interval(table, 1)
        covered.append(low <= realness <= high)
    assert np.mean(covered) >= 0.94


@pytest.mark.slow
def test_the_replications_way_of_testing_does_not_keep_its_level():
    """1,000 pairs of equal models, nine pictures each, judged by 60 and by 40 people: n must be the pictures."""
    rng, spread = np.random.default_rng(0), RandomEffects()
    wrong, right = [], []
    for _ in range(1000):
        scores = [
            simulation.simulate_answers(np.zeros((people, 9), int), [0.46], spread, rng).real.mean(axis=0)
            for people in (60, 40)
        ]
        mean, sd = np.mean(scores, axis=1), np.std(scores, axis=1, ddof=1)
        wrong.append(stats.ttest_ind_from_stats(mean[0], sd[0], 60, mean[1], sd[1], 40).pvalue < 0.05)
        right.append(statistics.pictures_test(*scores)[0] < 0.05)
    assert np.mean(wrong) > 0.3
    assert np.mean(right) < 0.08
