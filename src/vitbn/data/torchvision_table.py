"""What must be known of torchvision's classification sets before their files are there. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from vitbn.errors import InputError

# arguments of a set's class that choose its training, its test and, where it has them, its validation images
Splits = tuple[dict[str, Any], ...]
BY_FLAG: Splits = ({"train": True}, {"train": False})
BY_NAME: Splits = ({"split": "train"}, {"split": "test"})
WITH_VAL: Splits = (*BY_NAME, {"split": "val"})
WITH_VALID: Splits = (*BY_NAME, {"split": "valid"})
TRAINVAL: Splits = ({"split": "trainval"}, {"split": "test"})
UNDIVIDED: Splits = ({},)


@dataclass(frozen=True)
class Facts:
    """A data set, and the defaults of the keys of `data` that depend on it."""

    num_classes: int
    files: tuple[str, ...]  # below data.root: one for all splits, or one for each
    side: int | None = None  # of every image; None: they differ, or are too large to be kept as they are
    channels: int = 3
    splits: Splits = BY_NAME
    holdout: int = 5000  # 0 where the set has validation images
    augment: str = "pad_crop_flip"


def _digits(*files: str, side: int = 28, **other: Any) -> Facts:
    return Facts(10, files, side, **{"channels": 1, "augment": "pad_crop", "splits": BY_FLAG, **other})


DATASETS = {
    "CIFAR10": Facts(10, ("cifar-10-batches-py",), 32, splits=BY_FLAG),
    "CIFAR100": Facts(100, ("cifar-100-python",), 32, splits=BY_FLAG),
    "Caltech101": Facts(101, ("caltech101",), splits=UNDIVIDED, holdout=1000),
    "Caltech256": Facts(257, ("caltech256",), splits=UNDIVIDED),
    "Country211": Facts(211, ("country211",), splits=WITH_VALID, holdout=0),
    "DTD": Facts(47, ("dtd",), splits=WITH_VAL, holdout=0),
    "EuroSAT": Facts(10, ("eurosat",), 64, splits=UNDIVIDED),
    "FGVCAircraft": Facts(100, ("fgvc-aircraft-2013b",), splits=WITH_VAL, holdout=0),
    "FashionMNIST": Facts(10, ("FashionMNIST",), 28, channels=1, splits=BY_FLAG),
    "Flowers102": Facts(102, ("flowers-102",), splits=WITH_VAL, holdout=0),
    "Food101": Facts(101, ("food-101",)),
    "GTSRB": Facts(43, ("gtsrb",), augment="pad_crop"),
    "KMNIST": _digits("KMNIST"),
    "MNIST": _digits("MNIST"),
    "OxfordIIITPet": Facts(37, ("oxford-iiit-pet",), splits=TRAINVAL, holdout=500),
    "QMNIST": _digits("QMNIST"),
    "RenderedSST2": Facts(2, ("rendered-sst2",), splits=WITH_VAL, holdout=0, augment="pad_crop"),
    "SEMEION": _digits("semeion.data", side=16, splits=UNDIVIDED, holdout=300),
    "STL10": Facts(10, ("stl10_binary",), 96, holdout=500),
    "SUN397": Facts(397, ("SUN397",), splits=UNDIVIDED),
    "SVHN": _digits("train_32x32.mat", "test_32x32.mat", side=32, channels=3, splits=BY_NAME),
    "USPS": _digits("usps.bz2", "usps.t.bz2", side=16, holdout=500),
}


def dataset_facts(dataset: str) -> Facts:
    """What is known of the data set; InputError lists those that can be had."""
    if dataset not in DATASETS:
        raise InputError(f"data.dataset={dataset}: choose from {', '.join(DATASETS)}")
    return DATASETS[dataset]


def default(dataset: str, key: str, otherwise: Any = None) -> Any:
    """The default of a key of `data`; where images have no size of their own `otherwise`, or InputError without it."""
    value = getattr(dataset_facts(dataset), key)
    if value is None and otherwise is None:
        raise InputError(f"data.image_size: {dataset} has none of its own; type data.image_size=64, or any other side")
    return otherwise if value is None else value
