"""Age, sex and site beside the image: their words, the fusion, its fit, and predictions with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from cascade.config import CLASSES
from cascade.errors import ConfigError, DataError, ShapeError
from cascade.pipeline import Cascade
from cascade.reliability import (
    ConformalScores,
    Metadata,
    MetadataFusion,
    Safeguards,
    fit_metadata_fusion,
)
from cascade.reliability.metadata import SEXES, SITES, UNKNOWN
from cascade.reliability.metadata_fusion import FEWEST_OF_A_TERM, TERMS, log_odds

FUSION = MetadataFusion(
    {"age_known": 0.1, "age": 0.8, "age_squared": -0.2, "male": 0.3, "female": -0.3,
     "posterior torso": 0.5, "head/neck": -0.4},
    youngest=10.0,
    oldest=85.0,
)  # fmt: skip

some_metadata = st.builds(
    Metadata,
    st.none() | st.floats(0, 120),
    st.none() | st.sampled_from(SEXES),
    st.none() | st.sampled_from(SITES),
)


def simulated(count=400, *, seed=0, effect=1.5):
    """Images whose class depends on the image, on age and on sex."""
    generator = np.random.default_rng(seed)
    ages = generator.integers(10, 90, count).astype(float)
    sexes = generator.choice(["male", "female"], count)
    image = generator.normal(-1, 1.5, count)
    logits = image + effect * (ages - 50) / 20 + 0.5 * effect * (sexes == "male")
    labels = (generator.random(count) < 1 / (1 + np.exp(-logits))).astype(int)
    known = [
        Metadata(age if row % 5 else None, sex if row % 7 else None, None)
        for row, (age, sex) in enumerate(zip(ages, sexes, strict=True))
    ]
    return 1 / (1 + np.exp(-image)), labels, known, np.arange(count) % 5


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "site"),
    [
        ("back", "posterior torso"), ("Chest", "anterior torso"), ("abdomen", "anterior torso"),
        ("scalp", "head/neck"), ("head / neck", "head/neck"), ("HEAD_NECK_FACE", "head/neck"),
        ("acral", "palms/soles"), ("trunk", "torso"), ("foot", "lower extremity"),
        ("upper limbs", "upper extremity"), ("genital", "oral/genital"),
        (" Lateral  Torso ", "lateral torso"),
    ],
)  # fmt: skip
def test_words_of_the_data_sets_mean_the_sites_of_isic(word, site):
    assert Metadata(site=word).site == site


@pytest.mark.parametrize("blank", ["", " ", "NA", "nan", "Unknown", None, math.nan])
def test_a_blank_value_is_unknown(blank):
    assert Metadata(age=blank, sex=blank, site=blank) == UNKNOWN
    assert not list(UNKNOWN.known())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("age", -3, "age is -3; give years from 0 to 120"),
        ("age", 121, "age is 121"),
        ("age", "abc", "age is 'abc'"),
        ("age", math.inf, "age is inf"),
        ("age", True, "age is True"),
        ("sex", "x", "sex is 'x'; choose from female, male"),
        ("site", "bakc", "not known; did you mean back"),
        ("site", 7, "site is 7"),
    ],
)
def test_a_value_that_cannot_be_is_named(name, value, said):
    with pytest.raises(ConfigError, match="leave it blank") as error:
        Metadata(**{name: value})
    assert said in str(error.value)


def test_text_of_a_table_is_read():
    assert Metadata.of({"age": "55.0", "sex": "M", "site": "", "other": "1"}) == Metadata(
        55, "male"
    )


@pytest.mark.parametrize("name", ["Age", "SEX ", " site"])
def test_a_column_that_would_be_lost_is_an_error(name):
    with pytest.raises(ConfigError, match=r"only '(age|sex|site)' is read, rename it"):
        Metadata.of({"name": "a.png", name: ""})
    assert Metadata.of({name.strip().lower(): "", name: "?", "stage": "1"}) == UNKNOWN


@given(some_metadata, some_metadata)
def test_what_is_known_counts_before_what_is_known_of_all(own, of_all):
    joined = own.or_else(of_all)
    for name in ("age", "sex", "site"):
        mine = getattr(own, name)
        assert getattr(joined, name) == (mine if mine is not None else getattr(of_all, name))


# --- the fusion -----------------------------------------------------------------------------------


@given(st.floats(0, 1))
def test_with_nothing_known_the_answer_is_exactly_that_of_the_image(chance):
    assert FUSION.probability(chance, UNKNOWN) == chance
    assert FUSION.logit(0.25, UNKNOWN) == 0.25


@given(st.floats(0, 1), st.sampled_from(sorted(set(SITES) - set(FUSION.coefficients))))
def test_a_site_that_was_not_fitted_changes_nothing_and_is_not_called_used(chance, site):
    assert FUSION.used(Metadata(site=site)) == ()
    assert FUSION.probability(chance, Metadata(site=site)) == chance


@given(st.floats(0, 1), some_metadata)
def test_a_fused_probability_is_one_and_follows_the_image(chance, known):
    fused = FUSION.probability(chance, known)
    assert 0 <= fused <= 1
    assert FUSION.probability(min(1.0, chance + 0.1), known) >= fused


def test_the_formula():
    known = Metadata(age=70, sex="male", site="back")
    expected = log_odds(0.2) + (0.1 + 0.8 * 1 - 0.2 * 1) + 0.3 + 0.5
    assert FUSION.logit(log_odds(0.2), known) == pytest.approx(expected)
    assert FUSION.probability(0.2, known) == pytest.approx(1 / (1 + math.exp(-expected)))
    assert FUSION.used(known) == ("age", "sex", "site")
    part = Metadata(sex="male")
    assert FUSION.logit(0.0, part) == pytest.approx(0.3), "what is not known adds nothing"


def test_ages_beyond_those_of_the_fit_count_as_the_nearest():
    assert FUSION.logit(0, Metadata(age=100)) == FUSION.logit(0, Metadata(age=85))
    assert FUSION.logit(0, Metadata(age=2)) == FUSION.logit(0, Metadata(age=10))


def test_a_fusion_comes_back_from_a_model_file():
    scores = ConformalScores((0.5, 0.9), (0.2, 0.7))
    fusion = MetadataFusion({"age": 0.5, "male": 0.1}, 5.0, 90.0, scores)
    described = Safeguards(metadata=fusion).describe()
    assert Safeguards.from_description(described, {}).metadata == fusion
    assert "metadata" not in Safeguards().describe()


@pytest.mark.parametrize(
    "change",
    [
        {"coefficients": {"weight": 1.0}}, {"coefficients": {"age": math.nan}},
        {"coefficients": [1]}, {"coefficients": {"age": "1"}}, {"youngest": -1}, {"oldest": 4},
        {"more": 1},
    ],
)  # fmt: skip
def test_a_damaged_fusion_is_refused(change):
    values = {**FUSION.to_dict(), **change}
    with pytest.raises(ConfigError):
        MetadataFusion.from_dict(values)


# --- the fit --------------------------------------------------------------------------------------


def columns(metadata, names):
    """The terms written down once more, with plain loops."""
    rows = []
    for item in metadata:
        age = None if item.age is None else (item.age - 50) / 20
        values = {
            "age_known": float(age is not None), "age": age or 0.0, "age_squared": (age or 0.0) ** 2
        }  # fmt: skip
        rows.append([values.get(name, float(name in (item.sex, item.site))) for name in names])
    return np.array(rows)


def test_without_a_say_of_the_image_the_fit_is_scikit_learns():
    _, labels, known, folds = simulated()
    fit = fit_metadata_fusion(np.full(len(labels), 0.5), labels, known, folds)
    names = [name for name in TERMS if name in fit.fusion.coefficients]
    assert names == ["age_known", "age", "age_squared", "female", "male"]
    witness = LogisticRegression(C=1 / fit.penalty, fit_intercept=False, tol=1e-10, max_iter=5000)
    witness.fit(columns(known, names), labels)
    own = [fit.fusion.coefficients[name] for name in names]
    assert own == pytest.approx(witness.coef_[0], abs=1e-5)


def test_with_the_image_the_fit_is_scikit_learns():
    """Its coefficient of the image is hardly penalised where the column is scaled up; the other
    coefficients of a joint optimum are the optimum for that coefficient."""
    chances, labels, known, folds = simulated(1000, seed=3)
    names = ["age_known", "age", "age_squared", "female", "male"]
    logits = np.log(chances / (1 - chances))
    design = np.concatenate([1e3 * logits[:, None], columns(known, names)], axis=1)
    witness = LogisticRegression(C=1 / 10, fit_intercept=False, tol=1e-12, max_iter=20000)
    slope, *others = witness.fit(design, labels).coef_[0]
    of_image = 1 / (1 + np.exp(-1e3 * slope * logits))
    fit = fit_metadata_fusion(of_image, labels, known, folds, penalties=[10.0])
    assert list(fit.fusion.coefficients) == names
    assert list(fit.fusion.coefficients.values()) == pytest.approx(others, abs=1e-4)


def test_what_helps_is_learnt_and_stays_calibrated():
    chances, labels, known, folds = simulated(3000, seed=1)
    fit = fit_metadata_fusion(chances, labels, known, folds)
    assert fit.penalty == min(fit.log_losses, key=fit.log_losses.get)

    def loss(values):
        return -np.mean(np.log(np.where(labels == 1, values, 1 - values)))

    assert fit.log_losses[fit.penalty] == pytest.approx(loss(fit.held_out))
    assert loss(fit.held_out) < loss(chances) - 0.02
    assert fit.held_out.mean() == pytest.approx(labels.mean(), abs=0.02)
    assert fit.fusion.coefficients["male"] > fit.fusion.coefficients["female"]


def test_what_does_not_help_is_drawn_to_the_image():
    chances, labels, known, folds = simulated(600, seed=2, effect=0.0)
    fit = fit_metadata_fusion(chances, labels, known, folds)
    assert fit.penalty >= 30
    assert max(map(abs, fit.fusion.coefficients.values())) < 0.4


def test_the_order_of_rows_does_not_matter():
    chances, labels, known, folds = simulated()
    order = np.random.default_rng(0).permutation(len(labels))
    first = fit_metadata_fusion(chances, labels, known, folds)
    again = fit_metadata_fusion(
        chances[order], labels[order], [known[index] for index in order], folds[order]
    )
    assert again.penalty == first.penalty
    assert again.fusion.coefficients == pytest.approx(first.fusion.coefficients)
    assert again.held_out == pytest.approx(first.held_out[order])


def test_held_out_probabilities_do_not_know_their_label():
    """Turning the labels of one fold round leaves its own held-out probabilities alone."""
    chances, labels, known, folds = simulated()
    turned = np.where(folds == 2, 1 - labels, labels)
    one, other = (
        fit_metadata_fusion(chances, truth, known, folds, penalties=[3.0]).held_out
        for truth in (labels, turned)
    )
    assert other[folds == 2] == pytest.approx(one[folds == 2])
    assert not np.allclose(other[folds == 1], one[folds == 1])


def test_a_rare_site_has_no_coefficient():
    chances, labels, known, folds = simulated()
    rare = [
        Metadata(item.age, item.sex, "back" if row < FEWEST_OF_A_TERM - 1 else "face")
        for row, item in enumerate(known)
    ]
    names = fit_metadata_fusion(chances, labels, rare, folds).fusion.coefficients
    assert "head/neck" in names
    assert "posterior torso" not in names


def test_nothing_to_fit_with_is_an_error():
    chances, labels, known, folds = simulated(50)
    with pytest.raises(DataError, match="nothing to fit a metadata fusion with: 50 images"):
        fit_metadata_fusion(chances, labels, [UNKNOWN] * 50, folds)
    with pytest.raises(DataError, match="0 of them malignant"):
        fit_metadata_fusion(chances, labels * 0, known, folds)
    with pytest.raises(ShapeError, match="49 labels"):
        fit_metadata_fusion(chances, labels[1:], known, folds)


# --- predictions ----------------------------------------------------------------------------------


@pytest.fixture
def knowing(fake_segmenter, fake_classifier):
    """A cascade of numpy stages with a fusion."""
    sets = MetadataFusion(
        FUSION.coefficients, 10.0, 85.0, ConformalScores((0.2, 0.5, 0.9) * 9, (0.1, 0.4) * 9)
    )
    return Cascade(fake_segmenter, fake_classifier, safeguards=Safeguards(metadata=sets))


def test_a_prediction_says_what_was_used_and_what_the_image_alone_gives(knowing, lesion):
    (plain,) = knowing(lesion.image)
    (fused,) = knowing(lesion.image, metadata=Metadata(70, "male", "palms/soles"))
    assert plain.metadata_used == ()
    assert plain.image_probability == plain.probabilities["malignant"]
    assert fused.image_probability == plain.image_probability
    assert fused.metadata_used == ("age 70", "sex male")
    expected = FUSION.probability(plain.image_probability, Metadata(70, "male"))
    assert fused.probabilities["malignant"] == pytest.approx(expected)
    assert sum(fused.probabilities.values()) == pytest.approx(1)
    assert plain.prediction_set == (), "without metadata, the cascade's own scores count"
    assert fused.prediction_set == knowing.safeguards.metadata.conformal.prediction_set(
        fused.probabilities["malignant"], knowing.coverage
    )[0]  # fmt: skip


def test_the_label_follows_the_fused_probability(knowing, lesion):
    (plain,) = knowing(lesion.image)
    knowing.cutoff = plain.image_probability + 0.01
    (fused,) = knowing(lesion.image, metadata=Metadata(sex="male"))
    assert knowing(lesion.image)[0].label == CLASSES[0]
    assert fused.label == CLASSES[1]


def test_metadata_that_changes_nothing_leaves_everything_as_it_is(knowing, lesion):
    (plain,) = knowing(lesion.image)
    for known in (UNKNOWN, Metadata(site="palms/soles")):
        (other,) = knowing(lesion.image, metadata=known)
        assert other.probabilities == plain.probabilities
        assert (other.label, other.metadata_used) == (plain.label, ())


@pytest.mark.parametrize("batch_size", [None, 2])
def test_each_image_has_its_own_metadata(knowing, lesion, batch_size):
    images = [lesion.image, b"no image", lesion.image[::-1].copy(), lesion.image]
    known = [Metadata(70), Metadata(20), None, Metadata(sex="female")]
    results = list(knowing.predict_iter(images, metadata=iter(known), batch_size=batch_size))
    used = [getattr(result, "metadata_used", "failed") for result in results]
    assert used == [("age 70",), "failed", (), ("sex female",)]


def test_too_few_metadata_are_an_error(knowing, lesion):
    with pytest.raises(ShapeError, match="only 1 metadata"):
        knowing([lesion.image] * 2, metadata=[Metadata(70)])


def test_a_cascade_without_fusion_refuses_what_it_cannot_use(fake_cascade, lesion):
    with pytest.raises(ConfigError, match="cannot use age, sex; leave that out, or add one"):
        fake_cascade(lesion.image, metadata=Metadata(70, "male"))
    with pytest.raises(ConfigError, match="cannot use site"):
        fake_cascade([lesion.image], metadata=[Metadata(site="back")])
    assert fake_cascade(lesion.image, metadata=UNKNOWN)[0].metadata_used == ()
