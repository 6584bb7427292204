"""How single votes become a verdict."""

from collections.abc import Sequence

from modeling_unirain.distillation.protocols import Vote
from modeling_unirain.distillation.records import Verdict


VOTED_DOWN = "voted down"
UNDECIDED = "undecided"


def majority(decisions: Sequence[bool | None], min_votes: int) -> bool:
    """A pair is kept when at least `min_votes` judges say yes (paper: two of three).

    An abstention (`None`) is never a yes: with one abstention both other judges must agree to keep the pair. The
    paper does not treat answers that cannot be parsed; keeping only what was asked for by name is the careful choice.
    """
    return sum(decision is True for decision in decisions) >= min_votes


def verdict(votes: Sequence[Vote], min_votes: int) -> Verdict:
    """The majority's verdict with a reason.

    A pair that is not kept is `voted down` when enough judges said no that the abstaining ones could not have saved
    it, else `undecided`: too many judges abstained.
    """
    decisions = [vote.decision for vote in votes]
    if majority(decisions, min_votes):
        return Verdict(kept=True)
    against = [vote for vote in votes if vote.decision is False]
    abstained = [vote for vote in votes if vote.decision is None]
    reason = VOTED_DOWN if len(votes) - len(against) < min_votes else UNDECIDED
    said = [f"{vote.judge}: {vote.reason}" if vote.reason else vote.judge for vote in (*against, *abstained)]
    return Verdict(kept=False, reason=reason, detail="; ".join(said))
