import itertools

import pytest

from modeling_unirain.distillation.protocols import Vote
from modeling_unirain.distillation.voting import UNDECIDED, VOTED_DOWN, majority, verdict


@pytest.mark.parametrize("decisions", list(itertools.product([True, False, None], repeat=3)))
def test_two_of_three_decide_in_every_combination(decisions):
    yes, no = decisions.count(True), decisions.count(False)
    assert majority(decisions, 2) == (yes >= 2)
    result = verdict([Vote(f"judge-{i}", decision, reason="because") for i, decision in enumerate(decisions)], 2)
    assert result.kept == (yes >= 2)
    if yes >= 2:
        assert result.reason == result.detail == ""
    else:
        assert result.reason == (VOTED_DOWN if no >= 2 else UNDECIDED)
        for i, decision in enumerate(decisions):
            assert (f"judge-{i}: because" in result.detail) == (decision is not True)


def test_one_judge_alone_decides_alone():
    assert majority([True], 1) and not majority([False], 1) and not majority([None], 1)


def test_without_judges_nothing_is_rejected():
    assert verdict([], 0).kept
