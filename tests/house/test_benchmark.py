"""The benchmark runs from end to end, on a tiny model and two prompts."""

import json

import documents
import pytest

PROGRAM = """
import sys

sys.path.insert(0, "benchmarks")
import house

house.QUICK = house.Case(2, 16, 1, 1, (2,), (0.4,))
sys.exit(house.main())
"""
KINDS = (
    "mean_acceptance_length",
    "ratio_to_plain",
    "ratio_to_transformers",
    "ratio_to_transformers_assisted",
    "ratio_to_transformers_lookup",
)


@pytest.mark.slow
def test_benchmark_prints_every_figure(tmp_path, python):
    from fivefold_lm.testing import tiny_model

    for name, seed in (("target", 1), ("draft", 2)):
        model = tiny_model(vocab=128, seed=seed, eos_token_id=None, max_position_embeddings=4096)
        model.module.save_pretrained(tmp_path / name)
        model.tokenizer.save_pretrained(tmp_path / name)
    program = f"import os; os.chdir({str(documents.HOUSE)!r}){PROGRAM}"
    words = ["--quick", "--model", str(tmp_path / "target"), "--draft", str(tmp_path / "draft")]
    python(program, *words, "--out", str(tmp_path / "out"))
    result = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    named = {f"{kind}_{name}" for kind in KINDS for name in ("humaneval", "chat")}
    assert set(result["figures"]) == named | {"plugins_listing_seconds"}
    assert (tmp_path / "out" / "tokens_per_second.svg").is_file()
