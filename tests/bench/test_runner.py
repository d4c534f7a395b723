import pytest
import torch
import torch._dynamo
from vitbench.runner import Arm, Stopwatch, Turn, alternate, require_compiled, spread

from vitbn.errors import InputError


def runner(clock, speeds, units=1):
    """Arms that take so many seconds, by round, and the order in which they ran."""
    ran = []

    def arm(name):
        def turn(number, watch):
            ran.append((number, name))
            clock.now += 100  # preparation is not counted
            with watch:
                clock.now += speeds[name][number]
            clock.now += 100
            return Turn(units, {"loss": float(number)})

        return Arm(name, f"about {name}", turn, parameters=7, work={"flop": 2.0})

    return [arm(name) for name in speeds], ran


SPEEDS = {"a": [1, 2, 4], "b": [3, 4, 4], "c": [10, 1, 2]}


def test_every_round_begins_with_another_arm(clock):
    arms, ran = runner(clock, SPEEDS)
    alternate(arms, 3, lambda: Stopwatch(lambda: None, clock), report=lambda text: None)
    assert ["".join(name for number, name in ran if number == round_number) for round_number in range(3)] == [
        "abc",
        "bca",
        "cab",
    ]


def test_ratios_are_taken_round_by_round(clock):
    arms, _ = runner(clock, SPEEDS, units=2)
    lines = []
    a, b, c = alternate(arms, 3, lambda: Stopwatch(lambda: None, clock), report=lines.append)
    assert a["seconds"] == {"median": 1, "min": 0.5, "max": 2, "all": [0.5, 1, 2]}
    assert a["ratio"] == {"median": 1, "min": 1, "max": 1}
    assert b["seconds"]["all"] == [1.5, 2, 2] and b["ratio"] == {"median": 2, "min": 1, "max": 3}
    assert c["ratio"] == {"median": 0.5, "min": 0.5, "max": 10}
    assert c["figures"] == {"loss": {"median": 1, "min": 0, "max": 2}}
    assert (c["name"], c["what"], c["n"], c["parameters"], c["work"]) == ("c", "about c", 3, 7, {"flop": 2.0})
    assert len(lines) == 9 and lines[0] == "round 1/3  a: 1.00 s"


def test_an_arm_that_fails_fails_the_benchmark(clock):
    def turn(number, watch):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        alternate([Arm("a", "", turn)], 1, lambda: Stopwatch(lambda: None, clock))


def test_the_clock_is_read_only_after_the_device_has_finished(clock):
    pending = [5.0, 2.0]  # seconds of work queued before the watch starts, and inside

    def finish():
        clock.now += pending.pop(0)

    with Stopwatch(finish, clock) as watch:
        clock.now += 1
    assert watch.seconds == 3 and not pending


def test_spread_of_an_even_number():
    assert spread([4, 1, 2, 3]) == {"median": 2.5, "min": 1, "max": 4}


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.usefixtures("fresh_dynamo")
def test_compilation_that_was_asked_for_and_not_done_is_an_error():
    asked = pytest.raises(InputError, match="ours: asked for torch.compile, but no graph was compiled")
    with asked, require_compiled("ours"):
        torch.ones(1) + 1


@pytest.mark.usefixtures("fresh_dynamo")
def test_compilation_that_is_disabled_is_an_error():
    function = torch.compile(lambda x: x + 1, backend="eager")
    refused = pytest.raises(InputError, match="no graph was compiled")
    with torch.compiler.set_stance("force_eager"), refused, require_compiled("ours"):
        function(torch.ones(1))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_code_passes_in_later_runs_too():
    function = torch.compile(lambda x: x + 1, backend="eager")
    for _ in range(2):
        with require_compiled("ours"):
            function(torch.ones(1))


@pytest.mark.usefixtures("fresh_dynamo")
def test_falling_back_after_many_compilations_is_an_error():
    function = torch.compile(lambda x, mode: x + 1 if mode else x, backend="eager", dynamic=False)
    limit = torch._dynamo.config.patch(recompile_limit=8)  # torch's own, whatever the tests before have set
    with limit, pytest.raises(Exception, match="recompile_limit"), require_compiled("ours"):
        for mode in map(str, range(99)):
            function(torch.ones(1), mode)


@pytest.mark.usefixtures("fresh_dynamo")
def test_an_error_inside_is_not_hidden():
    with pytest.raises(ZeroDivisionError), require_compiled("ours"):
        _ = 1 / 0
