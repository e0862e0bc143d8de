"""Shards: rows equal those of one process, nothing is lost or doubled, whatever fails."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest
from cluster_runs import as_csv, run_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cascade.commands.prediction.predict import main as predict
from cascade.errors import ConfigError, DataError
from cascade.pipeline import Cascade
from cascade.reliability import MetadataFusion, Safeguards

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from cascade.cluster.plan import read_run, remove_run, require_same, row_files
from cascade.cluster.pool import Pool, choose_pool
from cascade.cluster.shards import finished, predict_shard
from cascade.cluster.storage import exists, read_bytes, write_bytes
from cascade.cluster.tables import mask_file, read_rows, to_parquet
from cascade.imaging import read_mask
from cascade.imaging.run_lengths import mask_from_run_lengths, run_lengths


@pytest.fixture
def many(tmp_path, lesion):
    """A folder of five images, of which the second is broken."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(5):
        shifted = np.roll(lesion.image, 9 * number, axis=1)
        Image.fromarray(shifted).save(folder / f"{number}.png")
    (folder / "1.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def single(many, tmp_path, commanded_cascade, fake_segmenter, fake_classifier):
    """What a single process writes of them."""
    commanded_cascade(fake_segmenter, fake_classifier)
    predict([str(many), str(tmp_path / "none.png"), "--output", str(tmp_path / "single")])
    return (tmp_path / "single" / "predictions.csv").read_bytes().decode()


def finish(cascade, run):
    return [predict_shard(cascade, run, shard) for shard in range(run.shards)]


# --- rows


def test_rows_are_those_of_a_single_process(single, many, tmp_path, fake_cascade):
    run = run_of(tmp_path / "run", [many, tmp_path / "none.png"])
    done = finish(fake_cascade, run)
    assert [(item.rows, item.failed) for item in done] == [(2, 1), (2, 0), (2, 1)]
    assert as_csv(tmp_path / "run") == single


def test_metadata_of_a_run_holds_for_all_its_rows(many, tmp_path, fake_segmenter, fake_classifier):
    safeguards = Safeguards(metadata=MetadataFusion({"male": 0.7}))
    cascade = Cascade(fake_segmenter, fake_classifier, safeguards=safeguards)
    run = run_of(tmp_path / "run", [many], age="50", sex="male", site=None)
    finish(cascade, run)
    rows = [row for row in read_rows(str(tmp_path / "run")) if not row["error"]]
    assert [row["metadata_used"] for row in rows] == ["sex male"] * 4
    for row in rows:
        odds = row["image_probability"] / (1 - row["image_probability"]) * np.exp(0.7)
        assert row["probability_malignant"] == pytest.approx(odds / (1 + odds), rel=1e-4)


def test_rows_of_another_file_system_differ_in_their_paths_only(single, many, fake_cascade):
    place = f"memory://{uuid.uuid4().hex}"
    for path in many.iterdir():
        write_bytes(f"{place}/many/{path.name}", path.read_bytes())
    run = run_of(f"{place}/run", [f"{place}/many", f"{place}/none.png"])
    finish(fake_cascade, run)
    assert as_csv(f"{place}/run").replace(place, str(many.parent)) == single


def test_rows_have_types_and_full_precision(many, tmp_path, fake_cascade):
    finish(fake_cascade, run_of(tmp_path / "run", [many]))
    row = next(read_rows(str(tmp_path / "run")))
    (expected,) = fake_cascade(many / "0.png")
    assert row["probability_malignant"] == expected.probabilities["malignant"]
    assert (row["height"], row["box_top"]) == (96, expected.box[0])
    assert row["whole_image_fallback"] is False


def test_the_same_shard_gives_the_same_bytes(many, tmp_path, fake_cascade):
    run = run_of(tmp_path / "run", [many])
    predict_shard(fake_cascade, run, 0)
    first = read_bytes(run.path(0))
    (tmp_path / "run" / "predictions" / "part-000000.parquet").unlink()
    predict_shard(fake_cascade, run, 0)
    assert read_bytes(run.path(0)) == first


@pytest.mark.parametrize("masks", ["png", "rle"])
def test_masks_are_stored_by_choice(many, tmp_path, fake_cascade, masks):
    finish(fake_cascade, run_of(tmp_path / "run", [many], masks=masks))
    rows = list(read_rows(str(tmp_path / "run")))
    assert type(rows[0]["mask"]) is {"png": bytes, "rle": list}[masks]
    assert rows[1]["mask"] is None
    (expected,) = fake_cascade(many / "0.png")
    assert np.array_equal(read_mask(mask_file(rows[0])), expected.mask)


def test_names_that_are_no_text_are_kept_as_in_a_csv(tmp_path, lesion, fake_cascade):
    folder = tmp_path / "odd"
    folder.mkdir()
    path = folder / "\udcff.png"
    try:
        Image.fromarray(lesion.image).save(path)
    except OSError:
        pytest.skip("the disk wants names to be text")
    run = run_of(tmp_path / "run", [folder])
    (done,) = finish(fake_cascade, run)
    assert done.failed == 0
    (row,) = read_rows(str(tmp_path / "run"))
    assert row["name"] == "\\udcff.png"


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_run_lengths_give_the_mask_back(cells):
    mask = np.array(cells)
    counts = run_lengths(mask)
    column_by_column = [bool(mask[y, x]) for x in range(mask.shape[1]) for y in range(len(mask))]
    plain = [place % 2 == 1 for place, count in enumerate(counts) for _ in range(count)]
    assert plain == column_by_column
    assert np.array_equal(mask_from_run_lengths(counts.tolist(), mask.shape), mask)


def test_run_lengths_of_another_size_are_an_error():
    with pytest.raises(DataError, match="5 pixels are no mask of 2x3"):
        mask_from_run_lengths([2, 3], (2, 3))


# --- resuming


def test_a_finished_shard_is_not_predicted_again(many, tmp_path, fake_cascade, fake_segmenter):
    run = run_of(tmp_path / "run", [many])
    before = predict_shard(fake_cascade, run, 1)
    assert len(fake_segmenter.batches) == 2
    write_bytes(run.attempts_path(1), b"of a process that was killed after it wrote the rows")
    assert predict_shard(fake_cascade, run, 1) == before == finished(run, 1)
    assert len(fake_segmenter.batches) == 2
    assert not exists(run.attempts_path(1))


def test_a_shard_that_was_cut_off_or_is_of_another_run_is_not_finished(
    many, tmp_path, fake_cascade
):
    run = run_of(tmp_path / "run", [many])
    predict_shard(fake_cascade, run, 0)
    whole = read_bytes(run.path(0))
    write_bytes(run.path(0), whole[:-9])
    assert finished(run, 0) is None
    write_bytes(run.path(0), whole)
    assert finished(run, 0) is not None
    other = run_of(tmp_path / "run", [many], tta="flips")
    assert finished(other, 0) is None


def test_a_plan_survives_its_writing(many, tmp_path):
    run = run_of(tmp_path / "run", [many])
    assert read_run(str(tmp_path / "run")) == run
    assert [len(run.inputs(shard)) for shard in range(run.shards)] == [2, 2, 1]
    assert [run.rows_of(shard) for shard in range(run.shards)] == [2, 2, 1]


def test_a_run_goes_on_in_the_same_way_only(many, tmp_path):
    run = run_of(tmp_path / "run", [many])
    require_same(run, dict(run.settings), 2)
    with pytest.raises(ConfigError, match=r"shard_rows was 2, now it is 3; tta was 'none'"):
        require_same(run, run.settings | {"tta": "flips"}, 3)


@pytest.mark.parametrize("text", ["{}", "no json", '{"format": 9}'])
def test_a_foreign_manifest_is_an_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_run(str(tmp_path))


def test_rows_of_an_unfinished_run_are_not_read(many, tmp_path, fake_cascade):
    run = run_of(tmp_path / "run", [many])
    predict_shard(fake_cascade, run, 1)
    with pytest.raises(DataError, match="2 of 3 shards are not predicted yet"):
        row_files(str(tmp_path / "run"))


def test_removing_a_run_leaves_the_files_of_others_alone(many, tmp_path, fake_cascade):
    finish(fake_cascade, run_of(tmp_path / "run", [many]))
    (tmp_path / "run" / "predictions" / "mine.parquet").write_bytes(b"mine")
    remove_run(str(tmp_path / "run"))
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["mine.parquet"]


# --- failures


class Deadly(Cascade):
    """Ends the process, as far as a test can, when it meets an image that is all black."""

    how: type[BaseException] = KeyboardInterrupt

    def predict_iter(self, sources, **options):
        for source in sources:
            if "black" in str(source):
                raise self.how
            yield from super().predict_iter([source], **options)


@pytest.fixture
def deadly(fake_segmenter, fake_classifier):
    return Deadly(fake_segmenter, fake_classifier)


@pytest.fixture
def with_black(many):
    (many / "0.png").rename(many / "2black.png")
    return many


def attempt(cascade, run, times):
    """Begin the shard as often as a cluster would."""
    for _ in range(times):
        with pytest.raises(KeyboardInterrupt):
            predict_shard(cascade, run, 0)
        assert finished(run, 0) is None


def test_an_input_that_kills_the_process_gets_a_row_in_the_end(
    with_black, tmp_path, deadly, fake_cascade
):
    run = run_of(tmp_path / "run", [with_black], shard_rows=9)
    attempt(deadly, run, 4)
    done = predict_shard(deadly, run, 0)
    assert (done.rows, done.failed) == (5, 2)
    rows = list(read_rows(str(tmp_path / "run")))
    assert [row["name"] for row in rows] == ["1.png", "2.png", "2black.png", "3.png", "4.png"]
    assert rows[2]["error"] == "2black.png: the process ended while it was predicted, twice"
    assert not list((tmp_path / "run" / "attempts").iterdir())
    finish(fake_cascade, other := run_of(tmp_path / "other", [with_black], shard_rows=9))
    assert rows[3] == list(read_rows(other.output))[3]


def test_a_process_that_ends_for_another_reason_blames_no_input(
    many, tmp_path, fake_cascade, single
):
    run = run_of(tmp_path / "run", [many, tmp_path / "none.png"], shard_rows=9)
    deaths = {"before": 5, "under_way": 3, "deaths": {"2": 1}}
    write_bytes(run.attempts_path(0), json.dumps(deaths).encode())
    predict_shard(fake_cascade, run, 0)
    assert as_csv(tmp_path / "run") == single


def test_an_unforeseen_error_costs_one_row(with_black, tmp_path, deadly):
    deadly.how = ZeroDivisionError
    run = run_of(tmp_path / "run", [with_black], shard_rows=9)
    done = predict_shard(deadly, run, 0)
    assert (done.rows, done.failed) == (5, 2)
    row = list(read_rows(str(tmp_path / "run")))[2]
    assert row["error"] == "2black.png: could not be predicted (ZeroDivisionError: )"


def test_rows_that_cannot_be_written_are_an_error(many, tmp_path, fake_cascade, monkeypatch):
    from cascade.cluster import shards

    run = run_of(tmp_path / "run", [many])
    real = shards.write_bytes

    def full(path, data):
        if "part" in path and "attempts" not in path:
            raise DataError(f"{path}: no space left")
        real(path, data)

    monkeypatch.setattr(shards, "write_bytes", full)
    with pytest.raises(DataError, match="no space left"):
        predict_shard(fake_cascade, run, 0)
    assert finished(run, 0) is None


def test_no_rows_are_a_table_with_columns(tmp_path):
    write_bytes(str(tmp_path / "a.parquet"), to_parquet([], masks=None, about={}))
    assert list(read_rows(str(tmp_path / "a.parquet"))) == []


# --- pools


@pytest.mark.parametrize(
    ("nodes", "shards", "gpu", "threads", "expected"),
    [
        ([{"CPU": 2}], 9, False, None, Pool(1, 2, 0)),
        ([{"CPU": 2}], 9, False, 1, Pool(2, 1, 0)),
        ([{"CPU": 16}], 99, False, None, Pool(4, 4, 0)),
        ([{"CPU": 16}], 3, False, None, Pool(3, 4, 0)),
        ([{"CPU": 0}, {"CPU": 8}, {"CPU": 3}, {}], 99, False, None, Pool(3, 3, 0)),
        ([{"CPU": 16, "GPU": 1}], 99, True, None, Pool(4, 4, 0.25)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], 99, True, None, Pool(4, 4, 1)),
        ([{"CPU": 64, "GPU": 2}], 99, True, None, Pool(8, 4, 0.25)),
        ([{"CPU": 2, "GPU": 1}], 99, True, None, Pool(1, 2, 1)),
        ([{"CPU": 64, "GPU": 2}], 0, False, None, Pool(1, 4, 0)),
    ],
)
def test_a_pool_fills_the_machines(nodes, shards, gpu, threads, expected):
    assert choose_pool(nodes, shards=shards, gpu=gpu, threads=threads) == expected


def test_a_cluster_without_room_is_an_error():
    with pytest.raises(ConfigError, match="no machine with a GPU"):
        choose_pool([{"CPU": 4}], shards=1, gpu=True)
    with pytest.raises(ConfigError, match=r"--threads 8: the smallest machine .* has 4 CPUs"):
        choose_pool([{"CPU": 4}, {"CPU": 16}], shards=1, gpu=False, threads=8)
