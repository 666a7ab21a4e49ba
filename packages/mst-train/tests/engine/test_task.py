"""What `fivefold train` refuses, in one line, before anything heavy is loaded; what it leaves."""

import json
import subprocess
import sys

import pytest
from fivefold import UserError
from fivefold.testing import compose
from fivefold_mst_train.engine.task import check


def checked(*overrides):
    run = compose("train", list(overrides))
    check(run.config, run)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["steps=0"], r"too small a number \(steps=0\); give 1 or more"),
        (["seq_len=1"], r"seq_len=1"),
        (["batch_size=0"], r"batch_size=0"),
        (["accumulate=0"], r"accumulate=0"),
        (["save_every=-1"], r"save_every=-1"),
        (["optimizer.lr=-1"], r"optimizer\.lr=-1"),
        (["optimizer.beta1=1"], r"optimizer\.beta1=1"),
        (["optimizer.final=2"], r"optimizer\.final=2"),
        (["data.eval_share=1"], r"data\.eval_share=1"),
        (["lora.rank=-1"], r"lora\.rank=-1"),
        (["model.dtype=float8"], r"model\.dtype=float8"),
        (["model.device=gpu"], r"model\.device=gpu"),
        (["distill.layers=7"], r"distill\.layers=7"),
        (["objective=distil"], r"distill"),
        (["objective=distill"], r"somebody to learn from"),
        (["teacher=smollm2"], r"add objective=distill"),
        (["objective=distill", "teacher=smollm2", "lora.rank=4"], r"no weights to adapt"),
        (["seed=9223372036854775808"], r"no seed \(seed=9223372036854775808\).*below 2\^63"),
        (["minutes=inf"], r"no finite number \(minutes=inf\)"),
        (["lora.rank=2", "lora.alpha=inf"], r"no finite number \(lora\.alpha=inf\)"),
        (["optimizer.eps=inf"], r"no denominator"),
        (["objective=distill", "teacher=smollm2", "distill.words=1"], r"one word"),
        (["lora.targets=[q_proj]"], r"lora\.targets=\[q_proj\]\); give lora\.rank too"),
        (["lora.alpha=8"], r"nothing without lora\.rank"),
        (["distill.samples=4"], r"nothing without objective=distill \(distill\.samples=4\)"),
        (["training=mst", "training.head.ignore_index=5"], r"-100.*head\.ignore_index=5"),
        (["training=mst", "training.head.z_loss=nan"], r"head\.z_loss=nan\); give 0\.0 or more"),
        (
            ["training=mst", "training.head.num_chunks=2", "training.head.chunk_tokens=8"],
            r"2 chunks, and chunks of 8 tokens.*give one of",
        ),
        (["training=tiled"], r"no such training method.*mst"),
        (
            ["training=mst", "training.optimizer_in_backward=true"],
            r"norm of all gradients.*optimizer\.clip=0",
        ),
        (
            ["training=mst", "training.optimizer_in_backward=true", "accumulate=2"],
            r"one batch alone.*accumulate=1",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, line):
    with pytest.raises(UserError, match=line):
        checked(*overrides)


def test_the_words_of_the_readme_compose():
    run = compose(
        "train", ["model=smollm2", "data=austen", "training=mst", "seq_len=8192", "steps=20"]
    )
    check(run.config, run)
    assert run.config.seq_len == 8192
    assert run.method("training").name == "mst"


def test_settings_are_refused_with_torch_blocked():
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'numpy')));"
        "from fivefold.cli import main; sys.exit(main(['train', 'objective=distill']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("fivefold: a student needs somebody to learn from")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seq_len=300"], "the model has 256 positions (seq_len=300)"),
        (["seq_len=200", "data.max_documents=1", "data=short.txt"], "tokens of data fill no block"),
        (["data=nowhere.jsonl"], "there is no such file or folder"),
        (["model=./nowhere"], "there is no such file or folder"),
        (["resume=nowhere"], "there is no such folder (resume=nowhere)"),
        (
            ["training=mst", "training.mlp.modules=[nothing]"],
            "no module of the model has this name (training.mlp.modules=nothing)",
        ),
        (["objective=distill", "teacher=./nowhere"], "(teacher=./nowhere)"),
        (["resume=."], "there is no checkpoint in this folder"),
    ],
)
def test_what_only_model_and_data_show_is_one_line_too(train, tmp_path, monkeypatch, words, line):
    (tmp_path / "short.txt").write_text("abc")
    monkeypatch.chdir(tmp_path)
    done = train(*words)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("fivefold: ")
    assert line in last


def test_a_run_leaves_figures_metrics_and_events(train, tmp_path):
    pytest.importorskip("tensorboard")
    done = train("steps=3", "eval_every=2", "tensorboard=always", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "ok"
    figures = result["figures"]
    assert figures["tokens"] == 96
    assert figures["perplexity"] > 1
    assert [row["step"] for row in result["rows"]] == [2, 3]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3]
    assert lines[0]["loss"] == figures["first_loss"]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert "checkpoint: " in done.stdout
