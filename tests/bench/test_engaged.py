import pytest
import torch
import torch._dynamo
from vitbench.engaged import demanded

from vitbn.errors import InputError


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


class Graph:
    def replay(self):
        self.replayed = True


def test_compilation_that_was_asked_for_and_not_done_is_an_error():
    asked = pytest.raises(InputError, match="ours: asked for torch.compile, but no graph was compiled")
    with asked, demanded("ours", compiled=True):
        torch.ones(1) + 1


def test_compilation_that_is_disabled_is_an_error():
    function = torch.compile(lambda x: x + 1, backend="eager")
    refused = pytest.raises(InputError, match="no graph was compiled")
    with torch.compiler.set_stance("force_eager"), refused, demanded("ours", compiled=True):
        function(torch.ones(1))


def test_compiled_code_passes_in_later_runs_too():
    function = torch.compile(lambda x: x + 1, backend="eager")
    for _ in range(2):
        with demanded("ours", compiled=True):
            function(torch.ones(1))


def test_falling_back_after_many_compilations_is_an_error():
    function = torch.compile(lambda x, mode: x + 1 if mode else x, backend="eager", dynamic=False)
    with pytest.raises(Exception, match="recompile_limit"), demanded("ours", compiled=True):
        for mode in map(str, range(99)):
            function(torch.ones(1), mode)


def test_a_capture_that_is_never_replayed_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    with pytest.raises(InputError, match="ours: no CUDA graph was replayed"), demanded("ours", captured=True):
        Graph()


def test_a_replay_is_seen_and_done(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    graph = Graph()
    with demanded("ours", captured=True):
        graph.replay()
    assert graph.replayed and Graph.replay.__name__ == "replay"


def test_an_error_inside_is_not_hidden():
    with pytest.raises(ZeroDivisionError), demanded("ours", compiled=True, captured=True):
        _ = 1 / 0
