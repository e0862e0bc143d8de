"""Heat maps: where in an image the classifier found what speaks for a class.

Nothing here loads torch before a torch network is explained.
"""

from cascade.explain.explanation import (
    ActivationMaps,
    Explanation,
    activation_maps,
    explain,
)
from cascade.explain.heat import heat_inside
from cascade.explain.overlay import overlay_heat

__all__ = [
    "ActivationMaps",
    "Explanation",
    "activation_maps",
    "explain",
    "heat_inside",
    "overlay_heat",
]
