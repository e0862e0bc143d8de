"""Heat maps: where in an image the classifier found what speaks for a class.

Nothing here loads torch before a torch network is explained.
"""

from cascade.explain.explanation import (
    ActivationMaps,
    Explanation,
    activation_maps,
    explain,
    overlay_heat,
)
from cascade.explain.heat import heat_inside

__all__ = [
    "ActivationMaps", "Explanation", "activation_maps", "explain", "heat_inside", "overlay_heat",
]  # fmt: skip
