"""A student learns a teacher's law, exactly as the formulas say, over as few words as it has."""

import json
import shutil
from itertools import pairwise

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import divergence, soft_cross_entropy
from fivefold_mst_train.engine.config import DistillConfig
from fivefold_mst_train.engine.data.tokens import Tokens
from fivefold_mst_train.engine.distill.samples import prompts, write_samples
from fivefold_mst_train.engine.distill.soft_loss import SLICE
from fivefold_mst_train.engine.distill.student import (
    DRAFT,
    frequent_words,
    new_student,
    plain_rows,
)
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoModelForCausalLM


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("count", [1, SLICE, SLICE + 3])
def test_divergence_and_its_gradients_are_torchs(temperature, count):
    hidden, rows = drawn(count, 6, seed=1).requires_grad_(), drawn(11, 6, seed=2).requires_grad_()
    taught, taught_rows = drawn(count, 9, seed=3), drawn(11, 9, seed=4)
    weights = drawn(count, seed=5).abs()
    loss = divergence(hidden, rows, taught, taught_rows, weights, temperature)
    (3 * loss).backward()
    found = hidden.grad.clone(), rows.grad.clone()
    hidden.grad = rows.grad = None
    log_q = (hidden @ rows.T / temperature).log_softmax(-1)
    log_p = (taught @ taught_rows.T / temperature).log_softmax(-1)
    each = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    wanted = temperature**2 * (weights * each).sum()
    (3 * wanted).backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, (hidden.grad, rows.grad), rtol=1e-10, atol=1e-12)


def test_divergence_from_oneself_is_nothing():
    hidden, rows = drawn(20, 6, seed=1).requires_grad_(), drawn(11, 6, seed=2)
    loss = divergence(hidden, rows, hidden.detach(), rows, torch.ones(20).double())
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    assert float(hidden.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("count", [1, SLICE + 5])
def test_soft_cross_entropy_and_its_gradient_are_torchs(count):
    hidden, rows = drawn(count, 6, seed=1).requires_grad_(), drawn(40, 6, seed=2)
    words = torch.stack([torch.randperm(40)[:4] for _ in range(count)])
    probs = drawn(count, 4, seed=3).softmax(-1) * 0.9
    probs[:, 3] = 0.0
    weights = drawn(count, seed=5).abs()
    loss = soft_cross_entropy(hidden, rows, words, probs, weights)
    (2 * loss).backward()
    found, hidden.grad = hidden.grad.clone(), None
    log_q = (hidden @ rows.T).log_softmax(-1).gather(1, words)
    wanted = -(weights * (probs * log_q).sum(-1)).sum()
    (2 * wanted).backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, hidden.grad, rtol=1e-10, atol=1e-12)


def test_a_new_student_shares_the_teachers_words_and_has_fewer_layers():
    teacher = tiny_model(vocab=40).module
    student = new_student(teacher, 2, seed=1)
    assert len(student.model.layers) == 2
    assert torch.equal(student.model.embed_tokens.weight, teacher.model.embed_tokens.weight)
    assert torch.equal(plain_rows(student, ""), plain_rows(teacher, ""))
    trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
    assert not any("embed" in name or "lm_head" in name for name in trained)
    assert all("layers" in name or "norm" in name for name in trained)
    again = new_student(teacher, 2, seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True)
    )


def test_the_first_logits_of_a_student_are_of_a_trained_models_size():
    """A law that is sure of itself at random would cost hundreds of steps to unlearn."""
    student = new_student(tiny_model(vocab=400).module, 1, seed=1)
    with torch.no_grad():
        logits = student(input_ids=torch.arange(1, 60)[None]).logits
    assert 1.0 < float(logits.std()) < 4.0


def test_a_student_as_deep_as_its_teacher_is_refused():
    with pytest.raises(UserError, match="has 3 layers itself"):
        new_student(tiny_model().module, 3, seed=0)


def test_a_teacher_whose_logits_are_capped_is_refused():
    teacher = tiny_model("gemma2", final_logit_softcapping=30.0).module
    with pytest.raises(UserError, match="final_logit_softcapping"):
        plain_rows(teacher, "teacher")


def test_words_are_the_most_frequent_then_the_first():
    ids = torch.tensor([5, 5, 5, 2, 2, 7])
    assert frequent_words(ids, 10, 5).tolist() == [5, 2, 7, 0, 1]
    assert frequent_words(ids, 10, 0).tolist() == list(range(10))


def test_prompts_are_what_stands_before_an_answer_or_some_tokens_of_a_text():
    ids = torch.arange(24).int()
    learnt = torch.ones(24, dtype=torch.bool)
    learnt[:3] = False
    starts = torch.zeros(24, dtype=torch.bool)
    starts[[0, 8]] = True
    found = prompts(Tokens(ids, learnt, starts), DistillConfig(samples=40, prompt_len=5), seed=1)
    assert {tuple(prompt) for prompt in found} == {
        (0, 1, 2),
        tuple(range(8, 13)),
        tuple(range(13, 18)),
        tuple(range(18, 23)),
    }
    assert len(found) == 40


def test_a_greedy_sample_is_what_the_teacher_would_write():
    made = tiny_model(vocab=40, eos_token_id=None)
    teacher = made.module
    begins = [[3, 4, 5], [7, 8, 9, 10, 11]]
    config = DistillConfig(sample_temperature=0.0)
    tokens = write_samples(teacher, made.tokenizer, begins, 15, config, 0, lambda _: None)
    firsts = [*torch.nonzero(tokens.starts).flatten().tolist(), len(tokens)]
    rows = [tokens.ids[a:b].tolist() for a, b in pairwise(firsts)]
    for row in rows:
        prompt = next(each for each in begins if each == row[: len(each)])
        for place in range(len(prompt), len(row)):
            logits = teacher(input_ids=torch.tensor([row[:place]])).logits[0, -1]
            assert int(logits.argmax()) == row[place]
    first = len(rows[0])
    learnt = tokens.is_learnt[:first].tolist()
    assert learnt.count(False) == len(next(p for p in begins if p == rows[0][: len(p)]))


@pytest.fixture(scope="module")
def distilled(train, folder, tmp_path_factory):
    """Distil a draft of one layer with half of the words."""
    out = tmp_path_factory.mktemp("distilled")
    done = train(
        "objective=distill",
        f"teacher={folder}",
        "distill.layers=1",
        "distill.words=30",
        "steps=60",
        "batch_size=4",
        "eval_every=1",
        "eval_blocks=4",
        "optimizer.lr=1e-2",
        f"output={out}",
        f"hydra.run.dir={out / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    return out


def test_a_student_comes_nearer_to_its_teacher(distilled):
    lines = [json.loads(line) for line in (distilled / "metrics.jsonl").read_text().splitlines()]
    found = [line["eval_loss"] for line in lines if line["kind"] == "eval"]
    assert found[-1] < 0.7 * found[0]
    agreement = [line["agreement"] for line in lines if line["kind"] == "eval"]
    assert agreement[-1] > agreement[0]


def test_a_student_is_a_model_folder_and_a_draft_file(distilled, folder):
    (step,) = (distilled / "checkpoints").iterdir()
    student = AutoModelForCausalLM.from_pretrained(step)
    assert student.config.num_hidden_layers == 1
    with safe_open(step / DRAFT, "pt") as file:
        card = json.loads(file.metadata()["draft"])
        assert card["kind"] == "independent"
        assert card["vocab_size"] == 30 == len(file.get_tensor("vocab_ids"))
        assert card["config"]["num_hidden_layers"] == 1
        own = {f"model.{n}" for n in student.model.state_dict() if "embed_tokens" not in n}
        assert set(file.keys()) == own | {"vocab_ids"}
        weight = file.get_tensor("model.layers.0.mlp.up_proj.weight").float()
    torch.testing.assert_close(
        weight, student.model.layers[0].mlp.up_proj.weight.detach(), rtol=1e-3, atol=1e-3
    )


def test_samples_are_written_once_and_the_resumed_run_reads_them(
    train, folder, tmp_path, monkeypatch
):
    words = [
        "objective=distill",
        f"teacher={folder}",
        "distill.layers=1",
        "distill.samples=12",
        "distill.prompt_len=8",
        f"output={tmp_path}",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    done = train(*words, "steps=3")
    assert done.returncode == 0, done.stderr
    assert "the teacher has written 12 of 12 samples" in done.stderr
    again = train(*words, "steps=5", f"resume={tmp_path}")
    assert again.returncode == 0, again.stderr
    assert "has written" not in again.stderr
    shutil.copytree(tmp_path / "checkpoints/step-00000005", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    copied = train(*words, "steps=6", "resume=copy")  # a folder without one above it by name
    assert copied.returncode == 0, copied.stderr
