"""Images without a lesion: every kind draws, the same seed draws the same."""

import numpy as np
import pytest

from cascade.data.synthetic import NON_LESIONS, draw_non_lesion
from cascade.errors import ConfigError


@pytest.mark.parametrize("kind", NON_LESIONS)
def test_each_kind_draws_an_rgb_image_that_the_seed_decides(kind):
    first = draw_non_lesion(kind, seed=3, shape=(16, 56))
    assert (first.shape, first.dtype) == ((16, 56, 3), np.uint8)
    np.testing.assert_array_equal(first, draw_non_lesion(kind, seed=3, shape=(16, 56)))
    assert (first != draw_non_lesion(kind, seed=4, shape=(16, 56))).any()


def test_only_the_plain_kind_is_plain():
    for kind in NON_LESIONS:
        spread = np.ptp(draw_non_lesion(kind, seed=1), axis=(0, 1)).max()
        assert (spread == 0) == (kind == "plain")


def test_unknown_kinds_and_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="did you mean"):
        draw_non_lesion("strips", seed=0)
    with pytest.raises(ConfigError, match="at least 16"):
        draw_non_lesion("plain", seed=0, shape=(4, 100))
    with pytest.raises(ConfigError, match="seed"):
        draw_non_lesion("plain", seed=-1)
