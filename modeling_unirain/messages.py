"""What is said when something is wrong: one sentence on one line."""


def one_line(error: Exception | str) -> str:
    """What libraries lay out over several lines, as part of a sentence."""
    return " ".join(str(error).split())
