"""Timing on a fake GPU: rotated inputs, capture, the sleep before a call, the case without a graph."""

import contextlib
import types

import pytest
import torch

from jepa_kernels.bench import rows, timing
from jepa_kernels.bench.rows import Row, Settings, Work, time_row

CUDA = torch.device("cuda")


class Device:
    """A call lasts a millisecond of device time, ten where its input is not that of the call before."""

    def __init__(self, monkeypatch, refuses=False):
        self.log, self.now, self.stream, self.refuses = [], 0.0, "default", refuses
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                device.log.append("event")
                self.at = device.now

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return end.at - self.at

        class Graph:
            def replay(self):
                for call in self.calls:
                    call()

        @contextlib.contextmanager
        def graph(capture, stream):
            assert stream == "aside", "the default stream cannot be captured"
            if device.refuses:
                raise RuntimeError("operation not permitted when stream is capturing")
            capture.calls, before, device.recording = [], device.log, capture
            device.log = []
            yield
            device.log, device.recording = before, None

        @contextlib.contextmanager
        def stream(active):
            before, device.stream = device.stream, active
            yield
            device.stream = before

        self.recording = None
        fakes = {
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": graph,
            "stream": stream,
            "Stream": lambda device: Stream(),
            "current_stream": lambda device=None: Stream() if self.stream != "default" else DEFAULT,
            "default_stream": lambda device: DEFAULT,
            "_sleep": lambda cycles: self.log.append("sleep"),
            "synchronize": lambda: None,
            "reset_peak_memory_stats": lambda: None,
            "memory_allocated": lambda: 100,
            "max_memory_allocated": lambda: 350,
            "get_device_properties": lambda device: types.SimpleNamespace(L2_cache_size=60),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        zeros = types.SimpleNamespace(zero_=lambda: self.log.append("flush"))
        monkeypatch.setattr(torch, "empty", lambda *size, **more: zeros)

    def call(self, name):
        def run():
            if self.recording is not None:
                self.recording.calls.append(run)
                return
            self.log.append(name)
            self.now += 10.0 if len(self.log) > 1 and self.log[-2] != name else 1.0

        return run


class Stream(str):
    def __new__(cls):
        return super().__new__(cls, "aside")

    def wait_stream(self, stream):
        pass


class Default(str):
    def wait_stream(self, stream):
        pass


DEFAULT = Default("default")


def test_inputs_are_rotated_inside_the_graph(monkeypatch):
    device = Device(monkeypatch)
    time = timing.measure([device.call(name) for name in "abc"], CUDA, 0.0)
    assert time.median == pytest.approx(10e-3), "no call finds the input of the one before"
    assert time.graph == pytest.approx(1.9e-3), "ten times the same input: one cold, nine warm"
    assert time.peak == 250
    assert time.launched is not None
    replay = "".join(device.log).split("sleepevent")
    assert len(replay) > 10, "the device sleeps until the host has launched"
    assert replay[-1] == "a" * 10 + "event"
    assert "abc" * 4 + "event" in replay


def test_what_cannot_be_captured_is_timed_one_by_one_after_a_flush(monkeypatch):
    device = Device(monkeypatch, refuses=True)
    row = time_row(
        Row("op", "case", "forward", "impl", Work(1)), device.call("a"), Settings(CUDA, quick=True)
    )
    assert row.time.graph is None
    assert row.time.median == pytest.approx(10e-3)
    assert device.log[-5:] == ["flush", "sleep", "event", "a", "event"]


def test_as_many_inputs_as_exceed_the_caches(monkeypatch):
    Device(monkeypatch)
    assert [timing.copies_for(moved, CUDA) for moved in (1000, 180, 90, 1)] == [2, 2, 3, timing.MOST]
    assert timing.copies_for(1, torch.device("cpu")) == 1


def test_errors_of_triton_become_reasons():
    errors = pytest.importorskip("triton.runtime.errors")

    def raise_out_of_resources():
        raise errors.OutOfResources(300000, 232448, "shared memory")

    row = time_row(
        Row("op", "case", "forward", "impl", Work(1)),
        raise_out_of_resources,
        Settings(torch.device("cpu"), quick=True),
    )
    assert row.reason.startswith("OutOfResources: out of resource: shared memory")
    assert errors.OutOfResources not in rows.PROBLEMS, "by their common base"
