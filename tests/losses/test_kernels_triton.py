"""The Triton kernels, run by Triton's interpreter on the CPU, against the plain tiles."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIAL = """
import json, sys
import torch
import torch.nn.functional as F
from setclip_cli.losses.kernel_check import triton_kernel_sum
from setclip_cli.losses.kernels import computing_with, log_kernel_sum

def largest(found, expected):
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max().clamp_min(1e-30))

errors = {}
for name, n, m, d, bandwidths, exclude_self, dtype in json.load(sys.stdin):
    draw = torch.Generator().manual_seed(0)
    rows = [F.normalize(torch.randn(count, d, generator=draw) + 0.3, dim=1) for count in (n, m)]
    rows = [part.to(sys.argv[1], getattr(torch, dtype)) for part in rows]
    upstream = torch.randn(n, len(bandwidths), generator=draw).to(sys.argv[1])
    if exclude_self:
        rows[1] = torch.cat([rows[0], rows[1][n:]])
    results = []
    for kernel_sum in (triton_kernel_sum, None):
        x, y = (part.clone().requires_grad_() for part in rows)
        with computing_with(kernel_sum):
            value = log_kernel_sum(x, y, bandwidths, exclude_self=exclude_self)
        (value * upstream).sum().backward()
        results.append((type(value.grad_fn).__name__, value.detach(), x.grad, y.grad))
    (swift, *found), (plain, *expected) = results
    assert (swift, plain) != (plain, plain), (swift, plain)
    errors[name] = [largest(a, b) for a, b in zip(found, expected)]
print(json.dumps(errors))
"""

CASES = [
    # name, n, m, d, bandwidths, exclude_self, dtype
    ["odd sizes", 67, 131, 19, [0.2], False, "float32"],
    ["several bandwidths", 65, 33, 40, [0.05, 0.2, 2.0], False, "float32"],
    ["without itself", 70, 90, 16, [0.2], True, "float32"],
    ["several, without itself", 64, 65, 24, [0.1, 1.0], True, "float32"],
    ["one row each", 1, 1, 3, [0.2], False, "float32"],
    ["wide", 20, 30, 300, [0.2], False, "float32"],
    ["float16", 40, 50, 32, [0.2, 0.5], False, "float16"],
    ["bfloat16", 40, 50, 32, [0.2], True, "bfloat16"],
]
TOLERANCE = {"float32": 1e-4, "float16": 1e-3, "bfloat16": 1e-2}  # gradients are returned in the inputs' dtype


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_fused_kernels_give_the_value_and_both_gradients_of_the_plain_tiles(device: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", TRIAL, device],
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        env=os.environ | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {}),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    errors = json.loads(run.stdout)
    assert set(errors) == {case[0] for case in CASES}
    for name, *_, dtype in CASES:
        value, *gradients = errors[name]
        assert value < 1e-4, (name, value)
        assert max(gradients) < TOLERANCE[dtype], (name, gradients)


COMPILED = """
import json, subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from setclip_cli.losses import kernels_triton as kernels

found = {}
cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
for kernel, sizes in ((kernels._forward, kernels._FORWARD), (kernels._pull, kernels._PULL)):
    constants = {"exclude_self": True, **sizes}
    names = [parameter.name for parameter in kernel.params]
    kinds = {name: "i32" if name in ("n", "m", "d", "k") else "*fp32" for name in names}
    source = ASTSource(
        kernel,
        kinds | dict.fromkeys(constants, "constexpr"),
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    compiled = triton.compile(source, target=target, options={"num_warps": kernels._WARPS})
    binary = Path(sys.argv[2], kernel.__name__ + ".cubin")
    binary.write_bytes(compiled.asm["cubin"])
    used = subprocess.run([cuobjdump, "--dump-resource-usage", binary], capture_output=True, text=True, check=True)
    found[kernel.__name__] = {
        "shared": compiled.metadata.shared,
        "tf32": "tf32" in compiled.asm["ptx"],
        "in_registers": "STACK:0 " in used.stdout,
    }
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_the_kernels_compile_for_gpus_that_are_not_here(capability: str, tmp_path: Path) -> None:
    """The interpreter accepts what the compiler does not. It is in the package, and compiles for a GPU without one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILED, capability, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.keys() == {"_forward", "_pull"}
    for kernel in found.values():
        assert kernel["shared"] <= 99 * 1024  # what a block may use on every one of these GPUs
        assert not kernel["tf32"]
        assert kernel["in_registers"]
