"""The listing of a folder of class folders, from names and sizes alone. Imports no torch."""

import hashlib
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from vitbn.data.files import as_text, ending, files_below, files_in, is_image, listed, local_folder, subfolders
from vitbn.errors import InputError

# part -> the names its folder may have, in capitals or not
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
# words in the name of a folder that may be meant for a part: training_set, seg_train, testset
WORDS = {
    **PART_OF,
    **dict.fromkeys(("trn", "tr", "tra", "trainset", "fit"), "train"),
    **dict.fromkeys(("vld", "valset", "dev", "devel", "eval", "evaluation", "holdout", "heldout", "hold"), "val"),
    **dict.fromkeys(("tst", "te", "testset"), "test"),
}


@dataclass(frozen=True)
class File:
    """One image file: its path below the folder's root, its label, and size and time to notice changes."""

    path: str
    label: int
    size: int
    mtime: int


@dataclass(frozen=True)
class Folder:
    """The classes, in alphabetical order, and the files of each part that is there, sorted by name."""

    root: Path
    classes: tuple[str, ...]
    parts: dict[str, tuple[File, ...]]
    passed_over: str  # what lies beside them, in words

    @property
    def files(self) -> list[File]:
        """Those of all parts, one part after the other."""
        return [file for part in self.parts.values() for file in part]

    @cached_property
    def content(self) -> str:
        """Twelve hex digits of names and sizes: the same wherever the folder lies."""
        return digest((file.path, file.size) for file in self.files)

    @property
    def default_holdout(self) -> float:
        """What `data.holdout` is unless typed: a fifth of the training images where there are no others."""
        return 0 if len(self.parts) > 1 else 0.2

    def require_validation(self, holdout: float) -> None:
        """InputError unless there is exactly one thing to measure val/* on."""
        if len(self.parts) == 1 and not holdout:
            remedy = "hold out some images, such as data.holdout=0.2, or add a folder val/ beside train/"
            raise InputError(f"data.holdout=0: {self.root} has neither val/ nor test/ to measure on; {remedy}")
        if "val" in self.parts and holdout:
            raise InputError(f"data.holdout={holdout}: {self.root} has images of its own to validate on; use 0")
        if holdout:
            holdout_count(holdout, Counter(file.label for file in self.parts["train"]).values())


def holdout_count(holdout: float, sizes: Collection[int]) -> int:
    """How many images of classes of these sizes; InputError if one of them would keep none to train on."""
    total = sum(sizes)
    count = max(1, round(holdout * total)) if 0 < holdout < 1 else int(holdout)
    if not 0 < count <= (most := total - len(sizes)):
        share = "" if count == holdout else f"{count:,} images; "
        kept = f"so that each of the {len(sizes)} classes keeps one to train on"
        raise InputError(f"data.holdout={holdout}: {share}must lie between 1 and {most:,} of {total:,} images, {kept}")
    return count


def digest(rows: Iterator[tuple[str | int, ...]]) -> str:
    """Twelve hex digits of rows of names and numbers."""
    total = hashlib.sha256()
    for row in rows:
        total.update(os.fsencode("\0".join(map(str, row)) + "\n"))
    return total.hexdigest()[:12]


@lru_cache(maxsize=8)
def scan(root: str) -> Folder:
    """<root>/train/<class>/<image> beside val/ and test/, or <root>/<class>/<image>; read once per process.

    Hidden files are passed over, and others that no image format claims. InputError if classes are missing, empty,
    fewer than two or not the same in every part.
    """
    top = local_folder(root)
    if not top.is_dir():
        raise InputError(f"data.root={root}: {'a file, not a folder' if top.exists() else 'no such folder'}")
    try:
        return _scan(root, top)
    except OSError as error:
        raise InputError(f"data.root={root}: {error.filename}: {error.strerror}") from None


def _scan(root: str, top: Path) -> Folder:
    folders = _parts(root, top)
    beside = [name for name in subfolders(top) if top / name not in folders.values()] if folders else []
    folders = folders or {"train": top}
    classes = _classes(root, folders)
    others: Counter[str] = Counter()  # what is not understood
    parts = {part: _files(root, top, class_folders, others) for part, class_folders in classes.items()}
    loose = sum(map(is_image, itertools.chain.from_iterable(map(files_in, folders.values()))))
    others.update({"images outside of class folders": loose} if loose else {})
    passed_over = ", ".join([*([listed(others)] if others else []), *(f"{as_text(name)}/" for name in beside)])
    return Folder(top, tuple(as_text(path.name) for path in classes["train"]), parts, passed_over)


def _parts(root: str, top: Path) -> dict[str, Path]:
    """The folders of the parts, in the order of PARTS; none where the top holds the classes themselves.

    InputError for folders that are nearly called like parts, which nobody means for classes.
    """
    names = subfolders(top)
    found: dict[str, Path] = {}
    with_classes = [name for name in names if subfolders(top / name)]
    for part in PARTS:
        named = [name for name in with_classes if PART_OF.get(name.lower()) == part]
        if len(named) > 1:
            raise InputError(f"data.root={root}: {' and '.join(f'{name}/' for name in named)}; keep one of them")
        if named:
            found[part] = top / named[0]
    nearly = {name: meant for name in names if (meant := _nearly(name))}
    if "train" not in found:
        only_parts = len(nearly) == len(names) and (set(nearly) & set(with_classes) or len(set(nearly.values())) > 1)
        if found or only_parts:
            train = next((name for name in nearly if nearly[name] == "train" and name in with_classes), None)
            layout = "expected train/<class>/<image> beside val/ or test/, or <class>/<image>"
            hint = f"did you mean {train}/? Rename it to train/" if train else layout
            here = ", ".join(f"{name}/" for name in nearly)
            raise InputError(f"data.root={root}: {here} but no train/ with class folders; {hint}")
        _require_classes(root, top, names)
    for name, part in nearly.items():
        if found and part not in found and name in with_classes:
            raise InputError(
                f"data.root={root}: no {part}/; did you mean {name}/? Rename it to {part}/, or move it away"
            )
    return found


def _require_classes(root: str, top: Path, names: list[str]) -> None:
    """InputError if every folder holds the same folders and no images: they are rather parts, folds or domains."""
    inside = {name: subfolders(top / name) for name in names}
    same = next(iter(inside.values()), [])
    if len(names) < 2 or len(same) < 2 or any(inner != same for inner in inside.values()):
        return
    if any(is_image(path) for name in names for path in files_in(top / name)):
        return
    outer, inner = (", ".join(f"{as_text(name)}/" for name in folders[:4]) for folders in (names, same))
    if all(map(_nearly, same)):
        raise InputError(
            f"data.root={root}: {inner} inside of {outer}; expected train/<class>/<image>, not the reverse"
        )
    remedy = "call the parts train/ and val/ or test/; if not, put the outer ones into a folder train/"
    raise InputError(f"data.root={root}: {outer} hold the same folders {inner}; if these are the classes, {remedy}")


def _nearly(name: str) -> str | None:
    """The part that a folder of this name may be meant for."""
    return next((WORDS[word] for word in re.split("[^a-z]+", name.lower()) if word in WORDS), None)


def _classes(root: str, folders: dict[str, Path]) -> dict[str, list[Path]]:
    """The class folders of each part, in the alphabetical order of those of train."""
    found = {part: _by_name(root, folder) for part, folder in folders.items()}
    names = found["train"]
    if len(names) < 2:
        problem = f"only one class ({as_text(next(iter(names.values())).name)})" if names else "no class folders"
        layout = "expected train/<class>/<image> beside val/, or <class>/<image>"
        inner = [path for path in names.values() if len(subfolders(path)) > 1]
        hint = f"did you mean data.root={inner[0]}?" if inner and len(folders) == 1 else layout
        raise InputError(f"data.root={root}: {problem} in {folders['train']}; {hint}")
    for part, others in found.items():
        if others.keys() != names.keys():
            missing = ", ".join(map(as_text, sorted(names.keys() - others.keys()))) or "nothing"
            added = ", ".join(map(as_text, sorted(others.keys() - names.keys()))) or "nothing"
            raise InputError(f"data.root={root}: {part}/ lacks {missing} and adds {added} to the classes of train/")
    return {part: [others[name] for name in names] for part, others in found.items()}


def _by_name(root: str, folder: Path) -> dict[str, Path]:
    """The class folders by their names, whichever way accented letters are composed: a Mac's differ from others'."""
    found: dict[str, Path] = {}
    for name in subfolders(folder):
        if (composed := unicodedata.normalize("NFC", name)) in found:
            raise InputError(f"data.root={root}: {folder} has two folders {name}, which compose a letter differently")
        found[composed] = folder / name
    return found


def _files(root: str, top: Path, class_folders: list[Path], others: Counter[str]) -> tuple[File, ...]:
    """The images of the class folders; the rest is counted in `others` by its ending."""
    files = []
    for label, folder in enumerate(class_folders):
        paths = list(files_below(folder))
        images = [path for path in paths if is_image(path)]
        endings = Counter(ending(path) for path in paths if not is_image(path))
        others.update(endings)
        if not images:
            only = f", only {listed(endings)}" if endings else ""
            raise InputError(f"data.root={root}: {as_text(str(folder))} holds no images{only}")
        for path in images:
            size, mtime = _stat(path)
            files.append(File(os.path.relpath(path, top), label, size, mtime))
    # by name before class: numbered files keep their order, whichever class they are of
    return tuple(sorted(files, key=lambda file: (os.path.basename(file.path), file.path)))


def _stat(path: str) -> tuple[int, int]:
    """Size and time; zeros for a link to nothing, which is a bad image and not a bad folder."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
