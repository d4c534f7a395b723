import inspect

import pytest

from vitbn.norms import NORMS
from vitbn.norms.kinds import KINDS, SCHEDULED, as_typed, label, normal_form
from vitbn.norms.table import make_norm, scheduled_norms


def test_every_kind_has_an_entry_and_every_entry_is_a_kind():
    assert list(NORMS) == list(KINDS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_options_and_their_defaults_are_those_of_the_class(kind):
    parameters = inspect.signature(NORMS[kind].make).parameters
    assert {option: parameters[option].default for option in KINDS[kind]} == {
        option: default for option, (default, *_) in KINDS[kind].items()
    }
    assert ("eps" in parameters or kind == "none") == NORMS[kind].eps
    assert all(default is None or fits(default) for default, fits, _ in KINDS[kind].values())


def test_what_is_scheduled():
    assert [kind for kind in KINDS if scheduled_norms(make_norm(kind, 4))] == list(SCHEDULED)


def test_one_way_to_write_a_kind():
    assert normal_form({"kind": "group"}) == normal_form({"kind": "group", "groups": None}) == "group"
    kind = normal_form({"virtual": 64, "kind": "ghost_batch", "momentum": 0.2})
    assert label(kind) == "ghost_batch(momentum=0.2, virtual=64)"
    assert as_typed(kind) == "{kind:ghost_batch,momentum:0.2,virtual:64}"
