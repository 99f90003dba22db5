"""Who sees what: no scene twice, and every picture about as often."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koala.study.trials import AttentionCheck, Quota, assign_trials, full_design, insert_checks, rank_scenes


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 30), st.integers(2, 20), st.integers(1, 4), st.integers(2, 20), st.floats(0, 0.9), st.integers(0, 99)
)
def test_every_person_sees_each_scene_once_and_versions_evenly(participants, scenes, models, shown, share, seed):
    shown = min(shown, scenes)
    table = full_design(participants, scenes, models, Quota(shown, share), np.random.default_rng(seed))
    assert ((table >= 0).sum(axis=1) == shown).all(), "a scene has one column, and so at most one answer a person"
    assert ((table == 0).sum(axis=1) == round(shown * share)).all()
    per_model = np.stack([(table == model).sum(axis=1) for model in range(1, models + 1)])
    assert (per_model.max(axis=0) - per_model.min(axis=0) <= 1).all(), "models share what is left, for each person"
    assert np.ptp(per_model.sum(axis=1)) <= 1, "and over all persons"


@pytest.mark.parametrize(
    ("scenes", "models", "shown", "share"), [(48, 1, 24, 0.5), (48, 2, 24, 0.5), (50, 3, 21, 0.25)]
)
def test_pictures_are_judged_about_equally_often(scenes, models, shown, share):
    table = full_design(60, scenes, models, Quota(shown, share), np.random.default_rng(0))
    for version in range(models + 1):
        assert np.ptp((table == version).sum(axis=0)) <= 2


def test_who_leaves_early_is_made_up_for():
    """Every third person leaves after three pictures; what they did not judge goes to those who come later."""
    rng, counts = np.random.default_rng(0), np.zeros((24, 3), np.int64)
    for person in range(120):
        trials = assign_trials(counts, Quota(12, 0.5), rng)
        for scene, version in trials[: 3 if person % 3 == 0 else 12]:
            counts[scene, version] += 1
    assert np.ptp(counts, axis=0).max() <= 3
    assert abs(counts[:, 1].sum() - counts[:, 2].sum()) <= 12


def test_the_design_depends_on_the_seed_alone():
    tables = [full_design(10, 12, 2, Quota(8, 0.5), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert (tables[0] == tables[1]).all()
    assert (tables[0] != tables[2]).any()


def test_versions_come_in_no_order():
    """Originals are as likely at the first place as at any other."""
    rng, counts = np.random.default_rng(0), np.zeros((12, 2), np.int64)
    firsts = [[version for _, version in assign_trials(counts, Quota(8, 0.5), rng)] for _ in range(400)]
    assert np.allclose(np.mean(firsts, axis=0), 0.5, atol=0.1)


def test_more_pictures_than_scenes_is_refused():
    with pytest.raises(ValueError, match="9 pictures cannot be shown of 8 scenes"):
        assign_trials(np.zeros((8, 2), np.int64), Quota(9, 0.5), np.random.default_rng(0))


def test_scenes_are_drawn_evenly_over_labels():
    labels = ["cat"] * 90 + ["dog"] * 5 + ["owl"] * 5
    taken = [labels[scene] for scene in rank_scenes(labels, np.random.default_rng(0))[:12]]
    assert [taken.count(label) for label in ("cat", "dog", "owl")] == [4, 4, 4]


def test_without_labels_every_scene_is_as_likely():
    drawn = [rank_scenes([""] * 10, np.random.default_rng(seed))[0] for seed in range(500)]
    assert np.bincount(drawn, minlength=10).min() > 25


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_checks_are_spread_and_never_first(count):
    for seed in range(20):
        trials = insert_checks([f"p{n}" for n in range(12)], count, np.random.default_rng(seed))
        places = [place for place, trial in enumerate(trials) if isinstance(trial, AttentionCheck)]
        assert [trial for trial in trials if isinstance(trial, str)] == [f"p{n}" for n in range(12)]
        assert len(places) == count
        assert 0 not in places
        assert all(trials[place].expected in ("real", "fake") for place in places)
        if count == 2:
            assert places[0] <= 6 < places[1], "one in each half"
