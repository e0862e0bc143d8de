import csv
import dataclasses
import math

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import Dataset

from cascade.config import TrainConfig
from cascade.errors import ConfigError, DataError, ModelFileError, TrainingError
from cascade.models.network import Network, Normalization, inference_mode
from cascade.training.images_seen import image_marks, require_unseen
from cascade.training.loop import EpochSampler, Task, Trainer, deterministic, seeded
from cascade.training.optimization import make_optimizer
from cascade.training.run import open_run
from cascade.training.state import load_state, save_state

SIZE = 8
SCHEDULES = ["none", "onecycle", "cosine", "step", "plateau"]


class TinyNetwork(Network):
    """Convolution, batch statistics, dropout and a linear layer: all that a resume can forget."""

    stage = "classifier"

    def __init__(self):
        super().__init__()
        self.normalization = Normalization((0.5,) * 3, (0.5,) * 3, size=SIZE)
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(4 * 36, 2),
        )  # fmt: skip

    @classmethod
    def from_description(cls, description):
        return cls()

    def describe(self):
        return {"kind": "tiny"}

    def forward(self, images):
        return self.network(self.normalization(images))


class Noise(Dataset):
    """Images that differ from epoch to epoch, as augmented ones do."""

    def __init__(self, count=7):
        self.count = count
        self.epoch = 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = np.random.default_rng([index, self.epoch])
        image = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        image[..., index % 2] //= 2
        return image, index % 2


def new_network(seed=0):
    with seeded(seed):
        return TinyNetwork()


def cross_entropy(network, batch):
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def accuracy(network):
    data = Noise(24)
    with inference_mode(network):
        logits = network(torch.stack([torch.from_numpy(data[i][0]) for i in range(24)]))
    labels = torch.arange(24) % 2
    return {"score": float(nn.functional.softmax(logits, 1)[range(24), labels].double().mean())}


def scripted(values):
    """A validation that gives these scores, one for each epoch."""
    remaining = iter(values)
    return lambda network: {"score": next(remaining)}


def task(**changes):
    parts = {"data": Noise(), "loss": cross_entropy, "validate": accuracy, "monitor": "score"}
    return Task(**{**parts, **changes})


def config(**settings):
    settings = {
        "epochs": 4,
        "batch_size": 3,
        "learning_rate": 0.01,
        "precision": "fp32",
        **settings,
    }
    return TrainConfig(**settings)


def train(folder, settings, *, resume=False, seed=0, **changes):
    """Train a new network in a folder; the network that would be used."""
    folder.mkdir(exist_ok=True)
    trainer = Trainer(new_network(seed), task(**changes), settings, folder)
    trainer.run(resume=resume)
    return trainer


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Stopped(Exception):
    """Stands in for a power cut."""


def stop_after(epochs):
    """A validation that ends the training before the following epoch is recorded."""
    done = 0

    def validate(network):
        nonlocal done
        done += 1
        if done > epochs:
            raise Stopped
        return accuracy(network)

    return validate


@pytest.mark.parametrize(
    ("schedule", "average"), [("onecycle", 0.0), ("plateau", 0.7), ("cosine", 0.7)]
)
def test_resumed_after_any_epoch_it_ends_with_the_same_bits(tmp_path, schedule, average):
    optimizer = "adamw" if schedule in ("onecycle", "plateau") else "sgd"
    settings = config(schedule=schedule, average=average, optimizer=optimizer, patience=9, epochs=3)
    whole = train(tmp_path / "whole", settings)
    for epochs in range(settings.epochs):
        folder = tmp_path / f"stopped after {epochs}"
        with pytest.raises(Stopped):
            train(folder, settings, validate=stop_after(epochs))
        torch.manual_seed(epochs)  # another process has other random numbers
        resumed = train(folder, settings, resume=True, seed=min(1, epochs))
        assert_same(resumed.network.state_dict(), whole.network.state_dict())
        assert_same(resumed.current.state_dict(), whole.current.state_dict())
        assert_same(
            TinyNetwork.load(folder / "best.safetensors", device="cpu").state_dict(),
            TinyNetwork.load(tmp_path / "whole" / "best.safetensors", device="cpu").state_dict(),
        )
        rows, expected = history(folder), history(tmp_path / "whole")
        for row in (*rows, *expected):
            row.pop("seconds")
        assert rows == expected


def averaged_training(tmp_path, settings):
    """A trained network's first weights after each step, and their average."""
    seen = []

    def loss(network, batch):
        seen.append(network.network[0].weight.detach().clone().double())
        return cross_entropy(network, batch)

    trainer = train(tmp_path, settings, loss=loss)
    weights = [*seen[1:], trainer.network.network[0].weight.detach().double()]
    assert len(weights) > 3
    return weights, trainer.current.network[0].weight.detach().double()


def test_the_average_is_the_exponential_one(tmp_path):
    weights, averaged = averaged_training(tmp_path, config(average=0.3, epochs=2))
    expected = weights[0]  # the first step is copied
    for count, weight in enumerate(weights[1:], start=1):
        decay = min(0.3, (1 + count) / (10 + count))  # a short memory grows to the asked one
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(averaged, expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("power", [0, 2])
def test_the_average_counts_each_step_as_its_number_to_a_power(tmp_path, power):
    settings = config(average=0.99999, average_power=power, epochs=3)
    weights, averaged = averaged_training(tmp_path, settings)
    # n to the power as a rising factorial, which the recursion keeps exactly; the first step has
    # what is left
    counts = np.arange(1, len(weights))
    shares = np.array([math.prod(n + 2 + k for k in range(power)) for n in counts], float)
    first = math.factorial(power + 2) / (power + 1)
    total = first + shares.sum()
    expected = first / total * weights[0] + sum(
        share / total * weight for share, weight in zip(shares, weights[1:], strict=True)
    )
    torch.testing.assert_close(averaged, expected, atol=1e-7, rtol=1e-5)


def test_loader_processes_change_nothing(tmp_path):
    settings = config(epochs=2)
    alone = train(tmp_path / "alone", settings)
    helped = train(tmp_path / "helped", dataclasses.replace(settings, num_workers=1))
    assert_same(helped.network.state_dict(), alone.network.state_dict())


@pytest.mark.parametrize("broken", [math.nan, -math.inf, 1e9])
def test_a_loss_that_is_not_finite_or_absurd_stops_names_the_rate_and_keeps_the_best(
    tmp_path, broken
):
    steps = 0

    def loss(network, batch):
        nonlocal steps
        steps += 1
        value = cross_entropy(network, batch)
        return value * broken if steps == 3 else value

    with pytest.raises(
        TrainingError, match=r"diverged in epoch 2: the loss.*lower --learning_rate \(now 0\.01\)"
    ):
        train(tmp_path, config(), loss=loss)
    assert steps == 3  # it stopped at once
    kept = TinyNetwork.load(tmp_path / "best.safetensors", device="cpu")
    assert all(torch.isfinite(tensor.float()).all() for tensor in kept.state_dict().values())
    assert kept.provenance["epochs_trained"] == 1
    assert len(history(tmp_path)) == 1


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_weights_that_are_not_finite_stop_before_they_are_judged_or_kept(tmp_path, average):
    def loss(network, batch):
        if len(losses) == 3:  # in the last step of the second epoch
            with torch.no_grad():
                network.network[1].running_var[0] = math.inf  # no loss in training shows it
        losses.append(1)
        return cross_entropy(network, batch)

    losses = []
    with pytest.raises(TrainingError, match=r"epoch 2: .*running_var has values .* not finite"):
        train(tmp_path, config(average=average), loss=loss)
    assert TinyNetwork.load(tmp_path / "best.safetensors").provenance["epochs_trained"] == 1
    progress = load_state(tmp_path / "last.safetensors")["progress"]
    assert progress["epoch"] == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_validation_number_that_is_not_finite_stops_and_keeps_the_best(tmp_path, broken):
    with pytest.raises(TrainingError, match=r"epoch 3: score is (nan|inf); lower --learning_rate"):
        train(tmp_path, config(), validate=scripted([0.3, 0.2, broken]))
    best = TinyNetwork.load(tmp_path / "best.safetensors", device="cpu")
    assert best.metrics["validation"]["score"] == 0.3
    assert [row["score"] for row in history(tmp_path)] == ["0.3", "0.2"]
    with pytest.raises(TrainingError, match="diverged in epoch 1"):
        train(tmp_path / "never", config(), validate=scripted([broken]))
    assert not any((tmp_path / "never").iterdir())


def test_of_equal_scores_the_earlier_is_the_best(tmp_path):
    trainer = train(tmp_path, config(), validate=scripted([0.1, 0.5, 0.5, 0.5]))
    assert (trainer.progress.best, trainer.progress.best_epoch) == (0.5, 2)


@pytest.mark.parametrize(
    ("scores", "patience", "trained"),
    [
        ([0.5, 0.4, 0.6, 0.1, 0.1], 2, 5),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 3, 4),
        ([0.5, 0.4, 0.9, 0.1, 0.1], 1, 2),
        ([0.5, 0.1, 0.1, 0.1, 0.1], 0, 5),
    ],
)
def test_patience_counts_epochs_without_a_better_score(tmp_path, scores, patience, trained):
    settings = config(epochs=5, patience=patience)
    trainer = train(tmp_path, settings, validate=scripted(scores))
    assert trainer.progress.epoch == trained
    # stopped or not, a resume agrees that the training is over
    again = train(tmp_path, settings, resume=True, validate=scripted([]))
    assert again.progress.epoch == trained


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(7, 3, [3, 3]), (8, 3, [3, 3, 2]), (1, 3, [1]), (3, 1, [1, 1, 1])],
)
def test_a_last_batch_of_one_image_is_dropped(tmp_path, count, size, expected):
    sizes = []

    def loss(network, batch):
        sizes.append(len(batch[0]))
        return sum(item.sum() for item in network.parameters()) * 0.001

    train(tmp_path, config(batch_size=size, epochs=1), data=Noise(count), loss=loss)
    assert sizes == expected
    with pytest.raises(TrainingError, match="0 training images"):
        train(tmp_path, config(), data=Noise(0))


def test_each_image_is_seen_once_an_epoch_in_an_order_that_changes():
    sampler = EpochSampler(50, seed=3)
    orders = []
    for epoch in range(3):
        sampler.epoch = epoch
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(50))
        assert list(sampler) == orders[-1]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_sampling_weights_balance_the_classes():
    labels = np.array([0] * 95 + [1] * 5)
    weights = 1 / np.bincount(labels)[labels]
    sampler = EpochSampler(100, seed=0, weights=weights)
    drawn = []
    for epoch in range(40):
        sampler.epoch = epoch
        drawn += list(sampler)
    assert len(drawn) == 4000
    assert labels[drawn].mean() == pytest.approx(0.5, abs=0.04)  # five standard deviations


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_follows_its_schedule(tmp_path, schedule):
    rates = []
    settings = config(schedule=schedule, epochs=20, batch_size=4, warmup=0.25, optimizer="sgd")

    def validate(network):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return {"score": 0.5}

    trainer = Trainer(new_network(), task(data=Noise(4), validate=validate), settings, tmp_path)
    trainer.run()
    top, steps = 0.01, np.arange(1, 21)  # one step an epoch
    expected = {
        "none": np.full(20, top),
        "cosine": top * (1 + np.cos(np.pi * steps / 20)) / 2,
        "step": top * np.where(steps < 12, 1, np.where(steps < 17, 0.1, 0.01)),
        # ten epochs fit thrice: the first score is better than nothing, then four must pass
        "plateau": top * 0.1 ** np.maximum(0, (steps - 2) // 4),
    }
    if schedule == "onecycle":
        assert rates[0] < max(rates)
        assert max(rates) <= top
        assert int(np.argmax(rates)) in (3, 4, 5)
        assert rates[-1] < 0.01 * top
        return
    np.testing.assert_allclose(rates, expected[schedule], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_the_optimiser_is_the_one_asked_for_with_its_momentum(name, kind):
    settings = config(optimizer=name, momentum=0.8, weight_decay=0.3, learning_rate=0.02)
    optimizer = make_optimizer(new_network(), settings)
    assert type(optimizer).__name__ == kind
    for group in optimizer.param_groups:
        assert group["lr"] == 0.02
        assert (group["momentum"] if name == "sgd" else group["betas"][0]) == 0.8


def test_biases_and_normalisation_layers_are_not_decayed():
    network = new_network()
    optimizer = make_optimizer(network, config(weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: decay[id(item)] for name, item in network.named_parameters()}
    assert found == {
        "network.0.weight": 0.3, "network.0.bias": 0, "network.1.weight": 0,
        "network.1.bias": 0, "network.5.weight": 0.3, "network.5.bias": 0,
    }  # fmt: skip


def test_the_gradient_is_clipped_to_the_norm_asked_for(tmp_path):
    network = new_network()
    before = torch.cat([item.detach().flatten().clone() for item in network.parameters()])
    settings = config(
        epochs=1, batch_size=4, gradient_clip=0.001, optimizer="sgd", learning_rate=1.0,
        momentum=0.0, weight_decay=0.0, schedule="none",
    )  # fmt: skip
    Trainer(network, task(data=Noise(4)), settings, tmp_path).run()
    after = torch.cat([item.detach().flatten() for item in network.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.001, rel=1e-3)


def test_history_has_one_row_an_epoch_and_says_when_how_fast_and_how_well(tmp_path):
    losses, states = [], []

    def loss(network, batch):
        value = cross_entropy(network, batch)
        losses.append(value.item())
        states.append(network.training)
        return value

    train(
        tmp_path, config(epochs=3), loss=loss, validate=lambda network: {"loss": 1.5, "score": 0.25}
    )
    files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    names = ("best.safetensors", "last.safetensors", "previous.safetensors", "history.csv")
    assert files == dict.fromkeys(names, 0o644)
    rows = history(tmp_path)
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "loss", "score", "seconds"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[0]["train_loss"]) == pytest.approx(np.mean(losses[:2]), rel=1e-6)
    assert all(float(row["seconds"]) >= 0 for row in rows)
    assert states == [True] * 6, "training goes on after a validation"
    assert {row["score"] for row in rows} == {"0.25"}


def test_any_nested_state_comes_back(tmp_path):
    state = {
        "weights": {"a": torch.arange(6).reshape(2, 3).float(), "empty": torch.zeros(0)},
        "numbers": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "values": [1, 2.5, None, True, "text", [], {"inner": [torch.ones(2)]}],
        "worst": -math.inf,
    }
    state["shared"] = state["weights"]["a"][1:]  # memory of another tensor
    save_state(tmp_path / "s.safetensors", state)
    back = load_state(tmp_path / "s.safetensors")
    assert torch.equal(back["shared"], state["shared"])
    assert back["numbers"].keys() == {0, 1}  # integers, as optimisers have them
    assert torch.equal(back["numbers"][0]["step"], torch.tensor(3.0))
    assert torch.equal(back["weights"]["a"], state["weights"]["a"])
    assert back["weights"]["empty"].shape == (0,)
    assert back["values"][:6] == state["values"][:6]
    assert torch.equal(back["values"][6]["inner"][0], torch.ones(2))
    assert back["worst"] == -math.inf
    with pytest.raises(ModelFileError, match="no such file"):
        load_state(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("damage", ["cut", "flipped", "header", "another program"])
def test_a_damaged_state_is_refused_before_anything_is_restored(tmp_path, damage):
    from safetensors.torch import save_file

    train(tmp_path, config(epochs=1))
    path = tmp_path / "last.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "another program":
        save_file({"weight": torch.zeros(2)}, path)
    else:
        if damage == "flipped":
            content[-5] ^= 1
        elif damage == "header":
            place = content.index(b"best_epoch")
            content[place] ^= 1
        path.write_bytes(content[:-7] if damage == "cut" else content)
    trainer = Trainer(new_network(), task(), config(epochs=2), tmp_path)
    before = {name: item.clone() for name, item in trainer.network.state_dict().items()}
    with pytest.raises(ModelFileError, match=r"last\.safetensors: is damaged.*--overwrite"):
        trainer.run(resume=True)
    assert_same(trainer.network.state_dict(), before)


def test_a_folder_that_holds_a_run_is_refused_and_kept(tmp_path):
    open_run(tmp_path, {"epochs": 1}, resume=False)
    (tmp_path / "best.safetensors").write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"holds a run.*--resume.*--overwrite.*--output"):
        open_run(tmp_path, {"epochs": 2}, resume=False)
    assert (tmp_path / "best.safetensors").read_bytes() == b"precious"
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"epochs": 1}


def test_overwrite_replaces_the_run_and_nothing_else(tmp_path):
    open_run(tmp_path, {"epochs": 1}, resume=False)
    for name in ("best.safetensors", "last.safetensors", "history.csv", "notes.txt"):
        (tmp_path / name).write_text("old")
    open_run(tmp_path, {"epochs": 2}, resume=False, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "notes.txt"}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"epochs": 2}


def test_resuming_with_other_settings_lists_each(tmp_path):
    with pytest.raises(ConfigError, match="no run to resume"):
        open_run(tmp_path / "absent", {}, resume=True)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write here"):
        open_run(tmp_path / "file" / "run", {}, resume=False)
    before = {"epochs": 1, "size": 64, "seed": 0, "policy": {"margin": 0.1}}
    open_run(tmp_path, before, resume=False)
    open_run(tmp_path, before, resume=True)
    (tmp_path / "last.safetensors").touch()  # without anything saved it would start again
    with pytest.raises(ConfigError) as caught:
        open_run(tmp_path, {**before, "size": 96, "policy": {"margin": 0.2}, "new": 1}, resume=True)
    message = str(caught.value)
    assert "size was 64, is 96" in message
    assert "policy was {'margin': 0.1}, is {'margin': 0.2}" in message
    assert "new was None, is 1" in message
    assert "epochs" not in message
    assert "seed" not in message


def test_a_model_knows_the_images_it_has_seen_whatever_their_suffix():
    provenance = {"trained_on": image_marks(["a/ISIC_1.jpg", "ISIC_2.png"])}
    require_unseen(provenance, ["ISIC_3.jpg"], model="m")
    with pytest.raises(DataError, match=r"m: 1 of 2 images.*ISIC_1\.png.*--allow_seen"):
        require_unseen(provenance, ["ISIC_1.png", "ISIC_3.jpg"], model="m")
    assert not any("ISIC" in mark for mark in provenance["trained_on"])  # names stay private


def test_the_setting_for_determinism_is_put_back():
    assert not torch.are_deterministic_algorithms_enabled()

    def fail():
        with deterministic(True):
            assert torch.are_deterministic_algorithms_enabled()
            raise Stopped

    with pytest.raises(Stopped):
        fail()
    assert not torch.are_deterministic_algorithms_enabled()
