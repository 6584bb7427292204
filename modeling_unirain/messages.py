"""What is said when something is wrong: one sentence on one line."""


def one_line(error: Exception) -> str:
    """What libraries lay out over several lines, as part of a sentence; an error that says nothing is told by its name."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: Exception) -> str:
    """Of what torch raises, which goes on with advice for its developers; an error that says nothing is told by its name."""
    return str(error).partition("\n")[0] or type(error).__name__
