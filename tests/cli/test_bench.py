import json

import pytest
import torch

import fastgan.layers
from fastgan import _native, tutorial
from fastgan.proof import Proof, interleaved, kept_for_backward

pytestmark = pytest.mark.skipif(not _native.loaded("cpu"), reason="it compares the native kernels")

TINY = ["--batch-size", "2", "--width", "4", "--rounds", "1", "--device", "cpu"]


@pytest.fixture
def wrong_operator(monkeypatch):
    """fastgan.layers, a little off."""
    right = fastgan.layers._chain.run
    monkeypatch.setattr("fastgan.layers._chain.run", lambda *given, **named: right(*given, **named) * (1 + 1e-6))


def in_bfloat16():
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def test_json_has_every_figure(run):
    code, out, err = run("bench", *TINY, "--no-compile", "--seed", "3", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert set(report) == {"machine", "exactness", "memory", "speed"}

    machine = report["machine"]
    assert machine["torch"] == torch.__version__ and machine["version"] == fastgan.__version__
    assert machine["device"] == "cpu" and machine["device_name"] and machine["threads"] == torch.get_num_threads()
    assert [machine[name] for name in ("batch_size", "width", "rounds", "seed")] == [2, 4, 1, 3]

    exactness = report["exactness"]
    assert exactness["equal"] and 0 <= exactness["largest"] <= exactness["bar"] == 1e-9
    assert set(exactness["differences"]) == {"fastgan.layers", "AdversarialStep"}

    for part in ("generator", "discriminator", "both"):
        found = report["memory"][part]
        assert 0 < found["fastgan.layers"] < found["torch.nn"]
        assert found["ratio"] == found["fastgan.layers"] / found["torch.nn"] < 1

    assert set(report["speed"]) == ({"float32", "bfloat16"} if in_bfloat16() else {"float32"})
    for found in report["speed"].values():
        assert set(found["ms"]) == {"torch.nn", "fastgan.layers", "AdversarialStep"}
        for ours, speedup in found["speedup"].items():
            assert speedup == {"torch.nn": found["ms"]["torch.nn"] / found["ms"][ours]}
        assert any(name.startswith("batch_norm_act/statistics") for name in found["kernels"])
        assert any(name.startswith("bce/backward") for name in found["kernels"])
        assert found["compile_seconds"] is found["compile_failure"] is None


def test_a_compiler_that_fails_is_named_and_left_out(run, monkeypatch):
    tries = []

    def fail(*_, **__):
        tries.append(1)
        raise RuntimeError("there is no compiler.\nmuch more")

    monkeypatch.setattr(torch, "compile", fail)
    code, out, err = run("bench", *TINY)
    assert (code, err) == (0, "") and len(tries) == 1
    lines = out.splitlines()
    assert "torch.compile does not work here, so it is left out: there is no compiler." in lines
    assert "much more" not in out and "the memory for backward." in lines[-1]
    assert (
        lines[-1].startswith("Results equal to ") and "x eager (float32)" in lines[-1] and "compiled" not in lines[-1]
    )


def test_a_compiled_contender_is_timed_apart(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    found = Proof(2, 4, 1).speed("float32")
    assert set(found["speedup"]["fastgan.layers"]) == {"torch.nn", "torch.compile"}
    assert found["compile_seconds"] > 0 and found["compile_failure"] is None


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_a_wrong_result_exits_with_1_and_is_not_timed(run, wrong_operator, json_too):
    code, out, err = run("bench", *TINY, *json_too)
    assert code == 1
    assert err.startswith("fastgan: after 5 steps in float64 fastgan differs from torch by ")
    assert len(err.splitlines()) == 1 and "ms a step" not in out
    if json_too:
        report = json.loads(out)
        assert set(report) == {"machine", "exactness"} and not report["exactness"]["equal"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--batch-size 0", "batch_size must be a whole number of at least 1, but it is 0"),
        ("--batch-size 100000 --width 1000", "batches of 100,000 at width 1,000 take at least "),
        ("--width -1", "width must be"),
        ("--rounds 0", "rounds must be"),
        ("--seed -1", "seed must be a whole number of at least 0"),
        ("--batch-size many", "'many' is not a whole number"),
        ("--device nonsense", "device must be"),
        ("--device meta", "not one that fastgan trains on"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, arguments, words):
    code, out, err = run("bench", *arguments.split())
    assert (code, out) == (2, "")
    assert words in err and len(err.splitlines()) == 1 and err.startswith("fastgan: ")


def test_without_the_native_libraries_it_refuses(run, monkeypatch):
    monkeypatch.setattr(_native, "loaded", lambda device: False)
    monkeypatch.setattr(_native, "reason", lambda device: f"there is no _{device}.so")
    assert run("bench", *TINY) == (2, "", "fastgan: bench needs the native libraries: there is no _cpu.so.\n")


def test_memory_counts_each_storage_once_and_nothing_that_is_there_anyway():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU(inplace=True), torch.nn.Flatten(), torch.nn.Linear(18, 1)
    )
    # The convolution keeps its input and weight, the ReLU and the linear layer the same 2x3x3 numbers.
    assert kept_for_backward(network, torch.randn(5, 1, 3, 3)) == 5 * 18 * 4


def test_one_seed_is_one_start_in_both_namespaces():
    before = torch.get_rng_state()
    theirs, ours = (tutorial.Loop(namespace, width=2, seed=5) for namespace in (torch.nn, fastgan.layers))
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(ours.generator, fastgan.layers.Sequential)
    for name in ("generator", "discriminator"):
        state = getattr(ours, name).state_dict()
        for key, value in getattr(theirs, name).state_dict().items():
            assert torch.equal(state.pop(key), value)
        assert not state


def test_functions_take_turns():
    turns = []
    medians = interleaved({name: lambda name=name: turns.append(name) for name in "ab"}, 2)
    assert "".join(turns) == "ababab" and set(medians) == {"a", "b"}


def test_float64_is_not_to_be_captured():
    """A graph reads learning rates as float32, which is more of an error than exactness allows."""
    proof = Proof(batch_size=1, width=1)
    assert proof._step(dtype=torch.float64).capture == "never"
    assert proof._step().capture == "auto"
