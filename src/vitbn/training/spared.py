"""Imports that other people's imports can be spared. Imports no torch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# torchmetrics imports scipy.signal to give an old name back to it, transformers for its metrics of texts
BY_TORCHMETRICS = ("scipy.signal", "transformers")


@contextmanager
def spared(*names: str) -> Iterator[None]:
    """Inside, importing these modules costs nothing and gives stand-ins, any name of which is `object`.

    For an import that needs the names but not what they stand for: here it saves a run about 1.5 s. Modules that
    are already imported stay as they are, and afterwards the names import as ever.
    """
    stand_ins = {name: _stand_in(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if getattr(sys.modules.get(parent), "__dict__", {}).get(child) is module:
                delattr(sys.modules[parent], child)


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)

    def stand_in(attribute: str) -> type:
        if attribute.startswith("__"):  # what Python itself asks modules for
            raise AttributeError(attribute)
        return object

    module.__dict__["__getattr__"] = stand_in
    return module
