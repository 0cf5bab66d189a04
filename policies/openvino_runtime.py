"""OpenVINO, the CPU runtime of engines: an optional package, imported only by those who ask for it.

It was chosen by measurement (`benchmarks/policy_latency.py`) over torch.compile, which needs a C++ compiler on the
robot and minutes for a loop of ten steps.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from armature.errors import ConfigError
from policies.sampling_graph import SamplingGraph

MODEL, WEIGHTS = "model.xml", "model.bin"
Run = Callable[[Sequence[Tensor]], list[Tensor]]

# Float32 also where the processor has bfloat16, which moved actions by 5 % of their range.
_PRECISION = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}


def is_installed() -> bool:
    """Tell whether the package is there, without importing it."""
    return importlib.util.find_spec("openvino") is not None


def require_installed() -> None:
    """Raise ConfigError saying how to install the package, unless it is there."""
    _openvino()


def convert(graph: SamplingGraph) -> dict[str, bytes]:
    """Return the files of a graph as OpenVINO reads them; raise ConfigError on an operation that it does not know."""
    openvino = _openvino()
    from openvino.frontend import OpConversionFailure
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    try:
        model = openvino.convert_model(TorchFXPythonDecoder(graph.module))
    except OpConversionFailure as error:
        raise ConfigError(f"OpenVINO cannot take this policy: {' '.join(str(error).split())[:300]}") from error
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / MODEL, compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in (MODEL, WEIGHTS)}


def load(folder: Path) -> Run:
    """Compile the model in `folder` for this CPU, for as many threads as torch has."""
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(), **_PRECISION}
    request = _openvino().Core().compile_model(folder / MODEL, "CPU", options).create_infer_request()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        given = [each.contiguous().numpy() for each in inputs]
        # The results are copies: the next call writes over the request's own.
        return [torch.from_numpy(each) for each in request.infer(given, share_inputs=True).values()]

    return run


def _openvino() -> Any:
    # On its import OpenVINO reports to its makers, without being asked to. It does not where this module is absent.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        needs = "needs the package openvino: pip install 'armature-robot-learning[engine]'"
        raise ConfigError(f"engine 'openvino' {needs}") from error
