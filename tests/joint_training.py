"""Trainings in two processes on the CPU, in one program that is imported once and forks.

    python tests/joint_training.py DATA OUTPUT

writes each training to a folder of its name, and exit codes and what was found to ``found.json``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import numpy as np  # noqa: E402
import sklearn.metrics  # noqa: E402, F401 - loaded once here
import torch  # noqa: E402
from test_training_loop import Noise, TinyNetwork, accuracy, config, cross_entropy, task  # noqa: E402
from tiny_training import SEGMENTER, segmentation_settings  # noqa: E402
from torch import nn  # noqa: E402

from cascade.config import ClassificationTrainConfig, ClassifierConfig  # noqa: E402
from cascade.data.datasets import SegmentationDataset  # noqa: E402
from cascade.data.splits import make_splits  # noqa: E402
from cascade.data.tables import read_table  # noqa: E402
from cascade.errors import CascadeError  # noqa: E402
from cascade.models.segmenter import Segmenter  # noqa: E402
from cascade.models.shared_statistics import share_batch_statistics  # noqa: E402
from cascade.training import classification, processes, segmentation  # noqa: E402
from cascade.training.learner import Learner  # noqa: E402
from cascade.training.loop import Trainer, seeded  # noqa: E402
from cascade.training.state import save_state  # noqa: E402
from cascade.training.task import images_of  # noqa: E402

SEGMENTATION = segmentation_settings(
    epochs=2,
    batch_size=5,
    optimizer="sgd",
    learning_rate=0.05,
    average=0.5,
    gradient_clip=1.0,
    checkpoint_minutes=0,
    deterministic=True,
)
CLASSIFIER = ClassifierConfig(architecture="timm/test_efficientnet", size=32, dropout=0.0)
CLASSIFICATION = ClassificationTrainConfig(
    epochs=1, batch_size=6, class_weight=3.0, precision="fp32", augmentation="light",
    diagnosis_weight=0.5,
)  # fmt: skip


def together(count, work):
    """Do the work in so many processes; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            )  # fmt: skip
            os._exit(_code(work))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _code(work):
    try:
        with processes.joined("cpu"):
            work()
    except SystemExit as left:
        return left.code
    except CascadeError as error:
        sys.stderr.write(f"{processes.rank()}: {error}\n")
        return 2
    except BaseException:  # noqa: BLE001 - a forked process must never return from here
        traceback.print_exc()
        return 1
    return 0


def squares(network, batch):
    """A loss that leaves a number as double as it is."""
    return (network(batch[0]) - batch[1]).square().mean()


class Scenarios:
    """The trainings."""

    def __init__(self, data, output):
        self.output = output
        self.table = read_table(data / "train_data.csv")
        self.splits = make_splits(self.table, fraction=0.3, seed=0)
        self.found = {}

    def segmenter(self, name, count, *, resume=False, **changes):
        """Train a segmenter."""
        self.found[name] = together(
            count,
            lambda: segmentation.train_segmenter(
                self.table,
                self.splits,
                config=SEGMENTER,
                training=replace(SEGMENTATION, **changes),
                output=self.output / name.partition(",")[0],
                device="cpu",
                resume=resume,
            ),
        )

    def stopped_segmenter(self, name, count):
        """Train a segmenter whose second process receives SIGTERM in its fourth step."""
        steps, loss = [], segmentation.segmentation_loss

        def signalled(logits, masks):
            steps.append(1)
            if len(steps) == 4 and processes.rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss(logits, masks)

        segmentation.segmentation_loss = signalled
        self.segmenter(name, count)
        segmentation.segmentation_loss = loss

    def classifier(self, name, count):
        """Train a classifier without dropout, with both classes and the diagnosis weighted."""
        self.found[name] = together(
            count,
            lambda: classification.train_classifier(
                self.table,
                self.splits,
                training=CLASSIFICATION,
                config=CLASSIFIER,
                output=self.output / name,
                device="cpu",
            ),
        )

    def plain(self, name, count, **settings):
        """Train a network without batch statistics and dropout, which differ in parts."""

        def work():
            with seeded(0):
                network = TinyNetwork()
            network.network[1] = nn.Identity()
            network.network[4] = nn.Identity()
            (self.output / name).mkdir(exist_ok=True)
            chosen = config(epochs=2, batch_size=8, average=0.9, **settings)
            data = Noise(21)  # the last batch has five images
            Trainer(network, task(data=data), chosen, self.output / name).run()

        self.found[name] = together(count, work)

    def gradient(self, count):
        """The gradient of one batch in double precision, in which rounding cannot be mistaken."""

        def work():
            data = SegmentationDataset(self.table.records[:7], size=32)
            images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*data, strict=True))
            with seeded(0):
                network = Segmenter.build(SEGMENTER).double().train()
            network.normalization.register_forward_hook(lambda *call: call[-1].double())
            if processes.count() > 1:
                share_batch_statistics(network)
            learner = Learner(network, squares, images_of, SEGMENTATION)
            own = processes.own_share(range(7))
            learner.gradient([images[own], masks[own]], size=7)
            state = {**network.state_dict(), **{f"gradient of {name}": weight.grad for name, weight
                                                in network.named_parameters()}}  # fmt: skip
            if processes.is_main():
                save_state(self.output / f"gradient {count}.safetensors", state)

        self.found[f"gradient {count}"] = together(count, work)

    def validation(self):
        """Validate sets of one to seven images in both processes."""
        with seeded(0):
            network = Segmenter.build(SEGMENTER)
        training = replace(SEGMENTATION, batch_size=2)

        def numbers():
            return [
                segmentation.validate_segmenter(
                    network, SegmentationDataset(self.table.records[:size], size=32), training
                )
                for size in range(1, 8)
            ]

        def work():
            (self.output / f"validation {processes.rank()}").write_text(json.dumps(numbers()))

        self.found["validation"] = together(2, work)
        (self.output / "validation alone").write_text(json.dumps(numbers()))

    def memory(self):
        """Two processes, of which the second has room for two images only."""

        def loss(network, batch):
            if processes.rank() == 1 and len(batch[0]) > 2:
                raise torch.OutOfMemoryError
            return cross_entropy(network, batch)

        def work():
            with seeded(0):
                network = TinyNetwork()
            parts = task(data=Noise(32), loss=loss, validate=accuracy)
            folder = self.output / "memory"
            folder.mkdir(exist_ok=True)
            trainer = Trainer(network, parts, config(epochs=1, batch_size=16), folder)
            trainer.run()
            (self.output / f"memory {processes.rank()}").write_text(str(trainer.learner.parts))

        self.found["memory"] = together(2, work)


def main():
    """Run all scenarios."""
    torch.set_num_threads(1)
    processes._ERROR_SECONDS = 0.0
    data, output = map(Path, sys.argv[1:])
    run = Scenarios(data, output)
    for name, count in (("one", 1), ("two", 2), ("two again", 2)):
        run.segmenter(name, count)
    run.stopped_segmenter("stopped", 2)
    run.segmenter("stopped, alone", 1, resume=True)
    run.segmenter("stopped, resumed", 2, resume=True)
    run.segmenter("diverged", 2, learning_rate=1e6)
    run.classifier("classifier one", 1)
    run.classifier("classifier two", 2)
    run.plain("plain one", 1)
    run.plain("plain two", 2)
    run.plain("plain two in parts", 2, accumulate=2, gradient_clip=100.0)
    run.plain("plain bf16", 2, precision="bf16")
    run.gradient(1)
    run.gradient(2)
    run.validation()
    run.memory()
    (output / "found.json").write_text(json.dumps(run.found))


if __name__ == "__main__":
    main()
