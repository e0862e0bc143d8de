"""Model facts: one page whose numbers are those of the files."""

import re
import subprocess

import pytest
from chromium import find_chromium
from tiny_export import tiny_cascade

from cascade.commands.evaluation.card import main
from cascade.errors import ConfigError, DataError
from cascade.evaluation.model_facts import write_model_facts
from cascade.files import write_json
from cascade.models.runtimes import model_identity

KEYS = {"segmentation": ("mean_iou", "dice"),
        "classification": ("roc_auc", "recall", "specificity", "ece")}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "<b>moles.safetensors"
    tiny_cascade().save(path)
    return path


def evaluation(folder, data, **about):
    """Scores of six kinds, each another number."""
    scores = {}
    for part, keys in KEYS.items():
        values = {key: 0.5 + place / 16 for place, key in enumerate(keys)}
        limits = {key: [value - 0.1, value + 0.1] for key, value in values.items()}
        scores[part] = {**values, "n": 1234, "intervals": limits}
    write_json(folder / "metrics.json", {"about": {"data": data, **about}, **scores})
    return folder


def text_of(page):
    plain = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page.read_text(), flags=re.DOTALL)
    return " ".join(plain.split())


def test_the_page_has_the_numbers_with_their_intervals_and_the_decision(model, tmp_path):
    folder = evaluation(tmp_path / "e", "a/test.csv", model_sha256=model_identity(model))
    page = tmp_path / "facts.html"
    words = ["--format", "facts", "--model", str(model), "--evaluations", str(folder)]
    words += ["--classifier_data", "ham10000"]
    assert main([*words, "--output", str(page)]) == 0
    text = text_of(page)
    assert "a/test.csv ROC AUC 1234 0.5000 0.4000 – 0.6000" in text
    assert "a/test.csv Dice 1234 0.5625 0.4625 – 0.6625" in text
    assert "from a probability of 0.4000 on" in text
    assert "0.90 at 0.2000" in text
    assert model_identity(model) in text
    assert "not a medical device" in text
    assert "the weights are for non-commercial use only" in text
    assert "which classes stay possible" in text
    assert "unlike the training images" in text
    assert "the mask may be wrong" not in text, "this file has no such limits"
    assert "<b>" not in page.read_text()


def test_without_an_evaluation_the_page_says_that_nothing_is_known(model, tmp_path):
    write_model_facts(
        tmp_path / "facts.html",
        model=model,
        segmenter_data=["synthetic"],
        classifier_data=["synthetic"],
    )
    text = text_of(tmp_path / "facts.html")
    assert "No evaluation was given: nothing is known" in text
    assert "non-commercial" not in text


def test_what_does_not_fit_the_page_or_the_model_is_refused(model, tmp_path, capsys):
    folders = [evaluation(tmp_path / str(number), "x") for number in range(4)]
    page = tmp_path / "facts.html"
    with pytest.raises(ConfigError, match="has room for 3, got 4"):
        write_model_facts(page, model=model, evaluations=folders)
    other = evaluation(tmp_path / "other", "x", model_sha256="0" * 64)
    with pytest.raises(DataError, match="was evaluated with tensors of SHA-256 0000"):
        write_model_facts(page, model=model, evaluations=[other])
    words = ["--format", "facts", "--model", str(model), "--images", str(tmp_path / "plots")]
    assert main([*words, "--output", str(page)]) == 2
    assert "--images: model facts have no plots" in capsys.readouterr().err
    assert not page.exists()


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium")
def test_the_fullest_page_is_one_sheet_of_a4(model, tmp_path):
    name = "a_rather_long_folder/test_data.csv + another_folder/test_data.csv"
    folders = [evaluation(tmp_path / str(number), name) for number in range(3)]
    page, paper = tmp_path / "facts.html", tmp_path / "facts.pdf"
    write_model_facts(page, model=model, evaluations=folders)
    program = [find_chromium(), "--headless", "--no-sandbox", "--disable-gpu"]
    subprocess.run(
        [*program, f"--user-data-dir={tmp_path / 'profile'}", "--no-pdf-header-footer",
         f"--print-to-pdf={paper}", page.as_uri()],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert re.findall(rb"/Count (\d+)", paper.read_bytes()) == [b"1"]
    width, height = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", paper.read_bytes()).groups()
    assert (float(width), float(height)) == pytest.approx((595, 842), abs=1.5)
