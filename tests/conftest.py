"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Two test processes share two cores: a second thread in each only waits. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
import tiny
from browser_world import chromium
from loopback import Server

# Other work on the machine makes an example slow; that says nothing about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# A shell without job control lets its background programs ignore interrupts, and nohup hangups: tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real measurement data beside the checkout; its tests skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the measurement data (shared/data beside the checkout) is not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Values that the authors' released code printed."""
    if not (SHARED / "oracle").is_dir():
        pytest.skip("the oracle values (shared/oracle beside the checkout) are not here")
    return SHARED / "oracle"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; its tests skip where there is none."""
    with chromium("--disable-gpu") as started:
        yield started


@pytest.fixture(scope="session")
def tiny_esm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-layer ESM-2 checkpoint in the real layout."""
    return tiny.esm2_checkpoint(tmp_path_factory.mktemp("esm2"))


@pytest.fixture(scope="session")
def tiny_timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of `tiny.TINY_TIMM` as safetensors."""
    return tiny.timm_weights(tmp_path_factory.mktemp("timm"))


@pytest.fixture(scope="session")
def tiny_sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder of 2 layers."""
    return tiny.sentence_folder(tmp_path_factory.mktemp("sentence"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A file server of this process; fetches from it do not wait between attempts."""
    monkeypatch.setattr("setclip_cli.files.download.time.sleep", lambda _: None)
    for name in ("http_proxy", "HTTP_PROXY", "SETCLIP_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Ray with two nodes of one CPU each on this machine."""
    ray = pytest.importorskip("ray")
    utilities = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    running = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    running.add_node(num_cpus=1)
    ray.init(address=running.address, log_to_driver=False)
    yield running
    ray.shutdown()
    running.shutdown()
