"""The local student's float32 twin: the same network and weights, computed by torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.candidates.base import Answer, Candidate
from reelroute.student.card import DECODER_FILE, MODEL_FILE, TOKENIZER_FILE, ModelCard
from reelroute.student.grid import STEPS
from reelroute.student.model import load_decoder, load_tokenizer
from reelroute.student.rows import LabelledRow
from reelroute.weights import RoutingWeights

_WEIGHTS: Final = "twin.safetensors"
_SHAPE: Final = "twin.json"


class Float32Twin(Candidate):
    """What the student costs without ONNX Runtime and int8.

    Its weights are the exported int8 ones, so that a model folder is enough; activations are not
    quantised.
    """

    name = "float32"
    label = "the local student in float32, torch"
    needs = ("torch", "onnx", "safetensors")

    def train(self, rows: Sequence[LabelledRow], folder: Path, student: Path) -> None:
        """Take the weights of the trained student."""
        from safetensors.numpy import save_file

        weights, heads = network_of(student / MODEL_FILE)
        save_file(weights, folder / _WEIGHTS)
        layers = sum(name.endswith(".qkv.weight") for name in weights)
        card = ModelCard.read(student)
        shape = {"layers": layers, "heads": heads, "max_tokens": card.max_tokens}
        (folder / _SHAPE).write_text(json.dumps(shape), encoding="utf-8")
        for name in (TOKENIZER_FILE, DECODER_FILE):
            shutil.copyfile(student / name, folder / name)

    def load(self, folder: Path) -> Answer:
        """The network in torch, decoded as the student decodes."""
        outputs = network_outputs(folder)
        decoder = load_decoder(folder / DECODER_FILE)

        def answer(query: str) -> RoutingWeights:
            visual, audio, transcription, metadata = decoder.decode(outputs(query)).steps[0] / STEPS
            return RoutingWeights(
                visual=float(visual),
                audio=float(audio),
                transcription=float(transcription),
                metadata=float(metadata),
                router=self.name,
            )

        return answer


def network_outputs(folder: Path) -> Callable[[str], NDArray[np.float32]]:
    """What gives the twin's outputs for a query, (1, outputs)."""
    import torch
    from safetensors.torch import load_file

    from reelroute.student import network

    shape: dict[str, int] = json.loads((folder / _SHAPE).read_bytes())
    parameters = load_file(folder / _WEIGHTS)
    tokenizer = load_tokenizer(folder / TOKENIZER_FILE, shape["max_tokens"])
    layers = range(shape["layers"])

    def outputs(query: str) -> NDArray[np.float32]:
        tokens = torch.tensor([tokenizer.encode(query).ids])
        with torch.inference_mode():
            hidden = network.embed(parameters, tokens)
            hidden = network.encode(parameters, hidden, None, layers=layers, heads=shape["heads"])
            deep = network.head(parameters, network.pool(hidden, None))
            found: NDArray[np.float32] = (deep + network.wide(parameters, tokens)).numpy()
        return found

    return outputs


def network_of(path: Path) -> tuple[dict[str, NDArray[np.float32]], int]:
    """The float32 weights of an exported student, named as its network names them, and its heads.

    int8 matrices are multiplied by their scales: `reelroute.student.export` undone.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    constants: dict[str, NDArray[Any]] = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    weights = {}
    for name, value in constants.items():
        part, _, kind = name.rpartition(".")
        if part and kind == "weight" and value.ndim == 2:
            # Matrices are stored for `inputs @ matrix`, with a scale for each output.
            floats = (value * constants.get(f"{part}.scale", 1.0)).T
        elif name in ("word", "wide.table"):
            floats = value * constants.get(f"{name}.scale", 1.0)
        elif name == "position" or kind in ("weight", "bias"):
            floats = value
        else:
            continue
        weights[name] = np.ascontiguousarray(floats, dtype=np.float32)
    (heads,) = {
        attribute.i
        for node in graph.node
        for attribute in node.attribute
        if attribute.name == "num_heads"
    }
    return weights, int(heads)
