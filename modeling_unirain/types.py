"""The degradation types of the paper (section 3.1, K = 4)."""

from enum import StrEnum


class RainType(StrEnum):
    """What kind of rain a training pair shows. It selects the loss term; the network never sees it."""

    DRS = "DRS"
    """Daytime rain streaks."""
    DRD = "DRD"
    """Daytime raindrops on a lens or window."""
    NRS = "NRS"
    """Nighttime rain streaks."""
    NRD = "NRD"
    """Nighttime raindrops."""
