"""The patch on an instance: found by structure, exact, reversible, harmless to everything else."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import MstConfig, apply_mst
from fivefold_mst_train._words import HeadImpl, Kernel
from fivefold_mst_train.config import BlockConfig, HeadConfig, MlpConfig
from fivefold_mst_train.testing import (
    exact_norms,
    gradients,
    plain_loss,
    training_batch,
    worst_error,
)
from torch import nn
from transformers import AutoModelForCausalLM, GraniteConfig, MixtralConfig, Qwen2MoeConfig

VOCAB = 96
BATCH = training_batch(VOCAB)


def model(arch="llama", **fields):
    return tiny_model(arch, VOCAB, eos_token_id=None, **fields).module.train()


def exact(arch="llama", **fields):
    return exact_norms(model(arch, **fields).double())


def built(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).train()


def same(got, wanted, tolerance):
    loss = got(**BATCH, use_cache=False).loss
    is_exact = tolerance < 1e-9  # transformers' own loss is in float32
    expected = plain_loss(wanted, BATCH) if is_exact else wanted(**BATCH, use_cache=False).loss
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    loss.backward()
    expected.backward()
    assert worst_error(gradients(got), gradients(wanted)) < tolerance


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("biased", [True, False])
def test_tied_heads_grouped_queries_and_biases(tied, kv_heads, biased):
    fields = {
        "tie_word_embeddings": tied, "num_key_value_heads": kv_heads,
        "attention_bias": biased, "mlp_bias": biased,
    }  # fmt: skip
    got, wanted = exact(**fields), exact(**fields)
    with apply_mst(got, tile_tokens=7, chunk_tokens=5):
        same(got, wanted, 1e-12)


def test_soft_cap_of_gemma_is_kept():
    """Defect 6: the reference takes Llama's head for it."""
    got, wanted = model("gemma2", final_logit_softcapping=2.0), model(
        "gemma2", final_logit_softcapping=2.0
    )  # fmt: skip
    uncapped = model("gemma2", final_logit_softcapping=None)
    with apply_mst(got, tile_tokens=7, chunk_tokens=5):
        same(got, wanted, 3e-6)
    loss = wanted(**BATCH, use_cache=False).loss
    assert abs(float((loss - uncapped(**BATCH, use_cache=False).loss).detach())) > 1e-3


def test_scaled_scores_of_granite_are_kept():
    config = GraniteConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, logits_scaling=3.0, residual_multiplier=0.5,
    )  # fmt: skip
    got, wanted = built(config), built(config)
    with apply_mst(got, tile_tokens=7, chunk_tokens=5):
        same(got, wanted, 2e-6)


def test_a_layer_that_scales_its_residual_is_no_block():
    config = GraniteConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, residual_multiplier=0.5,
    )  # fmt: skip
    got, wanted = built(config), built(config)
    with apply_mst(got, tile_tokens=7, chunk_tokens=5, block=True) as handle:
        same(got, wanted, 2e-6)
    assert not any(row["state"] == "block" for row in handle.report())
    assert any("block tiling" in row["why"] for row in handle.report())


@pytest.mark.parametrize("block", [False, True])
def test_bytes_logits_and_text_are_the_same_after_revert(block):
    """Invariant 11."""
    module = model().eval()
    ids = BATCH["input_ids"]
    before = copy.deepcopy(module.state_dict())
    logits = module(input_ids=ids).logits
    text = module.generate(ids[:1], max_new_tokens=8, do_sample=False)
    attributes = {name: sorted(vars(each)) for name, each in module.named_modules()}
    handle = apply_mst(module, tile_tokens=7, chunk_tokens=5, block=block)
    assert list(module.state_dict()) == list(before)
    assert torch.equal(module(input_ids=ids).logits, logits) or not block
    torch.testing.assert_close(module(input_ids=ids).logits, logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(module.generate(ids[:1], max_new_tokens=8, do_sample=False), text)
    handle.revert()
    assert {name: sorted(vars(each)) for name, each in module.named_modules()} == attributes
    assert torch.equal(module(input_ids=ids).logits, logits)
    assert torch.equal(module.generate(ids[:1], max_new_tokens=8, do_sample=False), text)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_other_instances_and_classes_are_left_alone():
    """Defect 10: the reference patches classes, for good."""
    one, other = model(), model()
    forwards = {type(each): type(each).forward for each in one.modules()}
    with apply_mst(one, tile_tokens=7):
        assert all(type(each).forward is forwards[type(each)] for each in one.modules())
        assert "forward" not in vars(other)
        assert not any("forward" in vars(each) for each in other.modules())


def test_saved_under_the_patch_loads_without_it(tmp_path):
    """Defect 9: names of parameters stay."""
    module = model()
    with apply_mst(module, tile_tokens=7, chunk_tokens=5, block=True):
        module.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_second_call_with_the_same_settings_changes_nothing():
    module = model()
    handle = apply_mst(module, tile_tokens=7)
    assert apply_mst(module, tile_tokens=7) is handle
    with pytest.raises(UserError, match="other settings already"):
        apply_mst(module, tile_tokens=8)
    handle.revert()
    apply_mst(module, tile_tokens=8).revert()


def test_a_failed_apply_leaves_nothing_behind():
    module = tiny_model("gpt2", VOCAB).module
    before = {name: sorted(vars(each)) for name, each in module.named_modules()}
    config = MstConfig(mlp=MlpConfig(kernel=Kernel.TRITON), head=HeadConfig(impl=HeadImpl.EAGER))
    with pytest.raises(UserError, match="Triton"):
        apply_mst(module, config)
    assert {name: sorted(vars(each)) for name, each in module.named_modules()} == before


def test_deep_copy_computes_with_its_own_weights():
    """A reference model or an average is made this way."""
    module = exact()
    with apply_mst(module, tile_tokens=7, chunk_tokens=5):
        twin = copy.deepcopy(module)
        for weight in module.parameters():
            weight.data.zero_()
        same(twin, exact(), 1e-12)


def test_without_labels_everything_is_as_before():
    """Defect 7: the reference gives scores of the last position alone."""
    module = model().eval()
    ids = BATCH["input_ids"]
    whole, last = module(input_ids=ids).logits, module(input_ids=ids, logits_to_keep=2).logits
    with apply_mst(module, chunk_tokens=5, tile_tokens=1000):
        assert torch.equal(module(input_ids=ids).logits, whole)
        assert torch.equal(module(input_ids=ids, logits_to_keep=2).logits, last)


def test_labels_of_transformers_are_shifted_once():
    """`labels` alone, a mean over the labels that count, as `ForCausalLMLoss` has it."""
    got, wanted = exact(), exact()
    labels = BATCH["input_ids"].clone()
    labels[1, :9] = -100
    with apply_mst(got, tile_tokens=7, chunk_tokens=5):
        loss = got(input_ids=BATCH["input_ids"], labels=labels, use_cache=False).loss
    expected = wanted(input_ids=BATCH["input_ids"], labels=labels, use_cache=False).loss
    torch.testing.assert_close(loss.float(), expected, rtol=1e-6, atol=1e-6)


def test_number_of_items_divides_the_sum():
    """Defect 8, and Liger 322."""
    module = exact()
    with apply_mst(module, tile_tokens=7, chunk_tokens=5):
        one = module(**{**BATCH, "num_items_in_batch": torch.tensor(10)}, use_cache=False).loss
        two = module(**{**BATCH, "num_items_in_batch": 20}, use_cache=False).loss
    torch.testing.assert_close(one, 2 * two)


def test_output_is_of_the_models_own_kind():
    module = model()
    kind = type(module(**BATCH, use_cache=False))
    with apply_mst(module, tile_tokens=7, chunk_tokens=5):
        output = module(**BATCH, use_cache=False, output_hidden_states=True)
        assert type(output) is kind
        assert output.logits is None
        assert len(output.hidden_states) == module.config.num_hidden_layers + 1
        (loss, *_) = module(**BATCH, use_cache=False, return_dict=False)
        torch.testing.assert_close(loss, output.loss)


def test_training_keeps_no_cache_that_nobody_reads():
    module = model()
    with apply_mst(module, tile_tokens=7, chunk_tokens=5):
        assert module(**BATCH).past_key_values is None


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_gradients_reach_a_lora_alone():
    peft = pytest.importorskip("peft")

    def wrapped(targets):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        return peft.get_peft_model(exact(), config)

    for targets in (["q_proj"], ["gate_proj", "down_proj"], ["lm_head", "up_proj"]):
        for block in (False, True):
            got, wanted = wrapped(targets), wrapped(targets)
            names = list(got.state_dict())
            with apply_mst(got, tile_tokens=7, chunk_tokens=5, block=block) as handle:
                loss = got(**BATCH, use_cache=False).loss
                loss.backward()
                assert list(got.state_dict()) == names
                assert any(row["state"] == "chunked" for row in handle.report())
            expected = wanted(**BATCH, use_cache=False).loss
            expected.backward()
            torch.testing.assert_close(loss.float(), expected, rtol=1e-6, atol=1e-6)
            assert worst_error(gradients(got), gradients(wanted)) < 1e-6


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_lora_put_on_afterwards_trains_too():
    peft = pytest.importorskip("peft")
    module = exact()
    with apply_mst(module, tile_tokens=7, chunk_tokens=5):
        config = peft.LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
        got = peft.get_peft_model(module, config)
        got(**BATCH, use_cache=False).loss.backward()
    assert all(grad.any() for grad in gradients(got).values())


def test_experts_are_left_and_said_to_be():
    config = Qwen2MoeConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, moe_intermediate_size=16,
        shared_expert_intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=2,
        output_router_logits=True,
    )  # fmt: skip
    got, wanted = built(config), built(config)
    with apply_mst(got, tile_tokens=7, chunk_tokens=5) as handle:
        same(got, wanted, 5e-6)  # the router's own loss is added too
    states = {(row["state"], row["module"].rpartition(".")[2]) for row in handle.report()}
    assert ("tiled", "shared_expert") in states
    assert ("skipped", "mlp") in states


def test_a_model_of_experts_alone_is_refused():
    config = MixtralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"no MLP that can be tiled.*experts"):
        apply_mst(built(config))
    got, wanted = built(config), built(config)
    with apply_mst(got, MstConfig(mlp=MlpConfig(enabled=False), head=HeadConfig(chunk_tokens=5))):
        same(got, wanted, 2e-6)


class Own(nn.Module):
    """An MLP that no known structure finds."""

    def __init__(self, dim):
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, 3 * dim), nn.Linear(3 * dim, dim)

    def forward(self, x):
        return self.outer(torch.relu(self.inner(x)))


def test_a_module_that_is_named_is_tiled():
    def make():
        module = exact()
        for layer in module.model.layers:
            torch.manual_seed(1)
            layer.mlp = Own(32).double()
        return module

    with pytest.raises(UserError, match="no MLP"):
        apply_mst(make())
    got, wanted = make(), make()
    config = MstConfig(mlp=MlpConfig(tile_tokens=7, modules=["mlp"]))
    with apply_mst(got, config) as handle:
        same(got, wanted, 1e-12)
    assert sum(row["state"] == "tiled" for row in handle.report()) == 3


def test_a_model_without_a_head_is_refused():
    with pytest.raises(UserError, match="head that is known"):
        apply_mst(model().model)


def test_a_model_that_cuts_its_scores_is_refused_with_the_way_out():
    module = model()

    class Cutting(type(module)):
        def forward(self, input_ids=None, labels=None, **kwargs):
            hidden = self.model(input_ids=input_ids).last_hidden_state
            return self.loss_function(self.lm_head(hidden)[:, 1:], labels, vocab_size=VOCAB)

    module.__class__ = Cutting
    with apply_mst(module, tile_tokens=7), pytest.raises(UserError, match=r"head\.enabled"):
        module(input_ids=BATCH["input_ids"], labels=BATCH["input_ids"])


def test_a_sequence_longer_than_the_models_positions_is_refused():
    module = model(max_position_embeddings=16)
    with apply_mst(module), pytest.raises(UserError, match=r"17 tokens.*16 positions.*seq_len"):
        module(**BATCH)


def test_labels_out_of_the_vocabulary_are_refused():
    module = model()
    labels = BATCH["shift_labels"].clone()
    labels[1, 1] = VOCAB
    with apply_mst(module), pytest.raises(UserError, match=f"label {VOCAB} is no token"):
        module(input_ids=BATCH["input_ids"], labels=labels, shift_labels=labels)


@pytest.mark.parametrize(
    ("budget", "wrong"), [("1KiB", r"budget\.bytes"), ("100B", "smallest tile")]
)
def test_a_budget_too_small_for_one_tile_is_refused(budget, wrong):
    config = MstConfig()
    config.budget.bytes = budget
    with pytest.raises(UserError, match=wrong):
        apply_mst(model(), config)


def test_block_tiling_needs_its_parts():
    with pytest.raises(UserError, match="block"):
        MstConfig(mlp=MlpConfig(enabled=False), block=BlockConfig(True))


def test_tiles_that_save_nothing_are_the_models_own_operations():
    """Below the length at which tiling helps: one tile, nothing of ours runs (ms-swift 7090)."""
    module = model()
    wanted = model()
    with apply_mst(module, tile_tokens=51, chunk_tokens=1000) as handle:
        module(**BATCH, use_cache=False).loss.backward()
        assert handle.report()
    wanted(**BATCH, use_cache=False).loss.backward()
    got, expected = gradients(module), gradients(wanted)
    name = "model.layers.2.mlp.down_proj.weight"
    torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-7)


def test_warning_without_checkpointed_layers(caplog):
    with apply_mst(model(), checkpoint=False):
        assert "checkpoint" in caplog.text


def test_the_triton_kernel_in_a_model(tmp_path):
    """Interpreted, in a process of its own: Triton has to know before it is imported."""
    pytest.importorskip("triton")
    code = """
import torch
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import MstConfig, apply_mst
from fivefold_mst_train.config import MlpConfig
from fivefold_mst_train.testing import gradients, training_batch, worst_error
found = []
for kernel in ("triton", "torch"):
    model = tiny_model("llama", 96, eos_token_id=None).module.train()
    config = MstConfig(mlp=MlpConfig(tile_tokens=20, kernel=kernel))
    with apply_mst(model, config) as handle:
        assert any(kernel in row["why"] for row in handle.report())
        model(**training_batch(96), use_cache=False).loss.backward()
    found.append(gradients(model))
print(worst_error(*found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**__import__("os").environ, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_trainer_that_wants_all_scores_is_told_what_to_do(tmp_path):
    """`compute_metrics` gets what does not exist; the loss alone is evaluated as ever."""
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": row, "labels": row} for row in BATCH["input_ids"]]
    arguments = TrainingArguments(tmp_path, report_to=[], per_device_eval_batch_size=2)
    with apply_mst(model(), tile_tokens=7, chunk_tokens=5) as handle:
        metrics = Trainer(
            handle.model, arguments, eval_dataset=rows, compute_metrics=lambda _: {"one": 1.0}
        )
        with pytest.raises(UserError, match="compute_metrics"):
            metrics.evaluate()
        found = Trainer(handle.model, arguments, eval_dataset=rows).evaluate()
    plain = Trainer(model(), arguments, eval_dataset=rows).evaluate()
    assert found["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)


def test_handles_can_be_pickled_around():
    """A patched model's weights are saved as any other's."""
    module = model()
    with apply_mst(module, tile_tokens=7):
        held = io.BytesIO()
        torch.save(module.state_dict(), held)
        held.seek(0)
        assert list(torch.load(held, weights_only=True)) == list(module.state_dict())
