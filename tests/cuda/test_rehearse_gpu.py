"""The simulated CUDA runtime, by itself: what it does, and what it refuses while a stream is captured."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastgan_build import toolchain

ROOT = Path(__file__).resolve().parents[2]
SIMULATED = Path("tests/cuda/simulated")
GLOBAL, THREAD_LOCAL, RELAXED = range(3)  # cudaStreamCaptureMode
UNSUPPORTED, INVALIDATED, UNJOINED, ISOLATION = 900, 901, 904, 905  # cudaErrorStreamCapture...


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    nvcc = toolchain.find_nvcc()
    if nvcc is None:
        pytest.skip("needs CUDA's headers")
    output = tmp_path_factory.mktemp("simulated") / "runtime.so"
    sources = [str(SIMULATED / name) for name in ("devices.cpp", "streams.cpp")]
    command = [str(nvcc), "-std=c++17", "-Xcompiler", "-fPIC,-Wall,-Werror", "-shared", *sources, "-o", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return ctypes.CDLL(str(output))


class Runtime:
    """Calls by name without their "cuda"; what a call gives is its error, or what it made."""

    def __init__(self, library):
        self.library = library

    def __call__(self, name, *arguments):
        return getattr(self.library, f"cuda{name}")(*arguments)

    def make(self, name, *arguments):
        made = ctypes.c_void_p()
        assert self(name, ctypes.byref(made), *arguments) == 0
        return made

    def end(self, stream):
        """The error at a capture's end, and the graph."""
        graph = ctypes.c_void_p()
        return self("StreamEndCapture", stream, ctypes.byref(graph)), graph


@pytest.fixture
def cuda(library):
    return Runtime(library)


@pytest.fixture
def memory(cuda):
    """Four bytes of the device, which are zero."""
    pointer = cuda.make("Malloc", ctypes.c_size_t(4))
    assert cuda("Memset", pointer, 0, ctypes.c_size_t(4)) == 0
    yield pointer
    assert cuda("Free", pointer) == 0


def value_of(memory):
    return ctypes.c_uint32.from_address(memory.value).value


def test_captured_work_is_done_at_each_launch(cuda, memory):
    stream = cuda.make("StreamCreate")
    assert cuda("StreamBeginCapture", stream, GLOBAL) == 0
    assert cuda("MemsetAsync", memory, 1, ctypes.c_size_t(4), stream) == 0
    error, graph = cuda.end(stream)
    assert error == 0 and value_of(memory) == 0
    ready = cuda.make("GraphInstantiate", graph, ctypes.c_ulonglong(0))
    assert cuda("GraphDestroy", graph) == 0
    for _ in range(2):
        assert cuda("GraphLaunch", ready, stream) == 0 and value_of(memory) == 0x01010101
        assert cuda("MemsetAsync", memory, 0, ctypes.c_size_t(4), stream) == 0 and value_of(memory) == 0
    assert cuda("GraphExecDestroy", ready) == cuda("StreamDestroy", stream) == 0


@pytest.mark.parametrize(
    "wait",
    [
        lambda cuda, stream, memory: cuda("StreamSynchronize", stream),
        lambda cuda, stream, memory: cuda("DeviceSynchronize"),
        lambda cuda, stream, memory: cuda("Malloc", ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(4)),
        lambda cuda, stream, memory: cuda(
            "MemcpyAsync", memory, ctypes.byref(ctypes.c_uint32(7)), ctypes.c_size_t(4), 1, stream
        ),
    ],
    ids=["stream", "device", "allocation", "pageable copy"],
)
def test_a_capture_refuses_to_wait(cuda, memory, wait):
    stream = cuda.make("StreamCreate")
    assert cuda("StreamBeginCapture", stream, THREAD_LOCAL) == 0
    assert wait(cuda, stream, memory) == UNSUPPORTED
    assert cuda("GetLastError") == UNSUPPORTED and cuda("GetLastError") == 0
    assert cuda.end(stream)[0] == INVALIDATED
    assert value_of(memory) == 0
    assert cuda("StreamDestroy", stream) == 0


def test_a_relaxed_thread_may_allocate_meanwhile(cuda):
    stream, mode = cuda.make("StreamCreate"), ctypes.c_int(RELAXED)
    assert cuda("StreamBeginCapture", stream, THREAD_LOCAL) == 0
    assert cuda("ThreadExchangeStreamCaptureMode", ctypes.byref(mode)) == 0 and mode.value == GLOBAL
    assert cuda("Free", cuda.make("Malloc", ctypes.c_size_t(4))) == 0
    assert cuda("ThreadExchangeStreamCaptureMode", ctypes.byref(mode)) == 0 and mode.value == RELAXED
    assert cuda.end(stream)[0] == 0
    assert cuda("StreamDestroy", stream) == 0


@pytest.mark.parametrize("joins", [False, True])
def test_work_of_another_stream_has_to_be_joined(cuda, memory, joins):
    stream, other = (cuda.make("StreamCreate") for _ in range(2))
    fork, join = (cuda.make("EventCreate") for _ in range(2))
    assert cuda("StreamBeginCapture", stream, THREAD_LOCAL) == 0
    assert cuda("EventRecord", fork, stream) == cuda("StreamWaitEvent", other, fork, 0) == 0
    assert cuda("MemsetAsync", memory, 1, ctypes.c_size_t(4), other) == 0
    assert cuda("EventRecord", join, other) == 0
    if joins:
        assert cuda("StreamWaitEvent", stream, join, 0) == 0
    assert cuda.end(stream)[0] == (0 if joins else UNJOINED)
    assert value_of(memory) == 0


def test_a_capture_does_not_wait_for_uncaptured_work(cuda):
    stream, other, event = cuda.make("StreamCreate"), cuda.make("StreamCreate"), cuda.make("EventCreate")
    assert cuda("EventRecord", event, other) == 0
    assert cuda("StreamBeginCapture", stream, THREAD_LOCAL) == 0
    assert cuda("StreamWaitEvent", stream, event, 0) == ISOLATION
    assert cuda.end(stream)[0] == INVALIDATED


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA")
def test_without_a_torch_for_cuda_it_says_so_in_one_sentence():
    command = [sys.executable, "tools/rehearse_gpu.py", "-c", "pass"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert "is built without CUDA; run this by an interpreter whose torch has it" in done.stderr
    assert done.stderr.count("\n") == 1
