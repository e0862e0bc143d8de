"""The flags that mean the same in every command, each defined once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascade.models.runtimes import Runtime
from cascade.pipeline.augmented_views import TestTimeAugmentation


@dataclass(frozen=True)
class SharedFlag:
    """What a flag is in every command that has it.

    Attributes:
        type: of its value; ``bool`` makes a switch.
        default: its value where a command names no other; a list takes several values.
        help: what it means.
        aliases: further spellings.
    """

    type: Any
    default: Any
    help: str
    aliases: tuple[str, ...] = ()


SHARED = {
    "device": SharedFlag(
        str,
        "auto",
        "auto (CUDA or MPS where there is one, else the CPU), cpu, mps, cuda or cuda:N",
        ("-d",),
    ),
    "seed": SharedFlag(
        int, 0, "seed of everything that is drawn, such as initial weights, order and intervals"
    ),
    "batch_size": SharedFlag(
        int, 1, "images at a time, such as 32 on CUDA; in training, images per optimiser step"
    ),
    "num_workers": SharedFlag(int, 0, "workers that read images ahead; 0 reads each in its turn"),
    "tta": SharedFlag(
        TestTimeAugmentation, "none", "test-time augmentation: average 1, 4 or 8 views"
    ),
    "data_path": SharedFlag(str, "dataset", "folder with images_all, masks_all and the tables"),
    "more_data": SharedFlag(str, [], "more folders like it, joined with the first"),
    "table": SharedFlag(str, "train_data.csv", "table in the data folder, or a path"),
    "classes": SharedFlag(
        str,
        None,
        "column of the table that holds classes of any names, which become the diagnoses; "
        "--malignant names the malignant ones; by default column class says benign or malignant",
    ),
    "malignant": SharedFlag(
        str, [], "classes that are malignant, where they are not called so; all others are benign"
    ),
    "skip_missing": SharedFlag(
        bool, False, "leave out and count rows whose image or mask is missing"
    ),
    "limit": SharedFlag(
        int, None, "for a first try: use only the first so many rows of the table, or inputs"
    ),
    "splits": SharedFlag(
        str,
        None,
        "file of the train and validation division; by default splits.json in the data folder, "
        "which a training makes if it is absent; both stages must use the same one",
    ),
    "masks": SharedFlag(
        str,
        "truth",
        "masks that cut the crops: truth (masks_all), or a folder of predicted masks such as "
        "out-of-fold masks from cascade oof-masks",
    ),
    "encoder_weights": SharedFlag(
        str,
        "none",
        "weights to start from: none (random), imagenet (downloaded; trains much better), or a "
        "local .pth or .safetensors file",
        ("--weights",),
    ),
    "segmenter": SharedFlag(str, None, "file of a segmenter or of a cascade"),
    "classifier": SharedFlag(str, None, "file of a classifier or of a cascade"),
    "allow_seen": SharedFlag(bool, False, "take images that the model was trained on, too"),
    "runtime": SharedFlag(
        Runtime,
        "auto",
        "what computes: torch runs a .safetensors file, onnx and openvino a folder of cascade "
        "export; auto is torch on a GPU, else onnx where the model or its export beside it allows",
    ),
    "threads": SharedFlag(
        int,
        None,
        "threads that compute, of an exported cascade only, except in serve and bench; by "
        "default OMP_NUM_THREADS, else all cores",
    ),
    "cutoff": SharedFlag(
        float,
        None,
        "probability from which a case is malignant; by default that of the model's file, 0.5 "
        "without one",
    ),
    "operating_point": SharedFlag(
        float,
        None,
        "stored cutoff to label by, named by the sensitivity that it reached on the validation "
        "images, such as 0.90; by default the model's own",
    ),
    "coverage": SharedFlag(
        float,
        0.9,
        "share of the images of each class whose prediction set is to hold the true one, in (0, 1]",
    ),
    "threshold": SharedFlag(float, 0.5, "probability from which a pixel is lesion"),
    "max_megapixels": SharedFlag(
        float, 50.0, "larger images are refused, in millions of pixels; memory grows with it"
    ),
    "host": SharedFlag(str, "127.0.0.1", "address to listen on; 0.0.0.0 lets other computers in"),
    "port": SharedFlag(int, 8000, "port to listen on; 0 takes a free one"),
    "save_masks": SharedFlag(
        bool, False, "write each predicted mask to masks/STEM.png, 0 and 255, original size"
    ),
    "save_overlays": SharedFlag(
        bool, False, "write each image with the contours of its masks to overlays/STEM.jpg"
    ),
    "overwrite": SharedFlag(
        bool, False, "replace earlier results of this command; other files are left alone"
    ),
    "resume": SharedFlag(bool, False, "keep earlier results of this command and go on from them"),
}
"""By name. A command may have a reason for another default, but not for another meaning."""
