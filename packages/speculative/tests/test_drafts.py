"""Drafts: files, the shared embedding, and the export as an ordinary model."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fivefold_speculative.drafts import SHIPPED, shipped_for
from fivefold_speculative.drafts.export import export_assistant
from fivefold_speculative.drafts.feature_head import (
    FeatureHead,
    load_feature_head,
    save_feature_head,
)
from fivefold_speculative.drafts.independent import (
    IndependentDraft,
    load_independent,
    save_independent,
)
from fivefold_speculative.drafts.weights import DraftCard, read_card
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

VOCAB, HIDDEN = 40, 24
FIELDS = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
}
WORDS = torch.tensor([7, 3, 30, 2, 11, 25, 39, 0, 18, 5])


@pytest.fixture
def target() -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        **FIELDS, num_hidden_layers=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=None
    )
    model = LlamaForCausalLM(config).eval()
    model.model.embed_tokens.weight.data.normal_(generator=torch.Generator().manual_seed(4))
    return model


def card(kind: str, num_layers: int) -> DraftCard:
    config = {**FIELDS, "num_hidden_layers": num_layers}
    return DraftCard(kind, "toy/target", config, vocab_size=len(WORDS), tokens_seen=12)


def trained(draft: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give a draft weights that fp16 holds exactly, away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in draft.named_parameters():
        if "embed_tokens" not in name:
            drawn = torch.randn(weight.shape, generator=generator) * 0.3 + (weight.ndim == 1)
            weight.data.copy_(drawn.half().float())
    return draft.eval()


def new_independent(target: LlamaForCausalLM) -> IndependentDraft:
    return trained(IndependentDraft(card("independent", 2).config, WORDS, target), seed=5)


def new_head(target: LlamaForCausalLM) -> FeatureHead:
    return trained(FeatureHead(card("feature_head", 1).config, WORDS, target), seed=6)


Case = tuple[str, int, Callable, Callable, Callable]
CASES: list[Case] = [
    ("independent", 2, new_independent, save_independent, load_independent),
    ("feature_head", 1, new_head, save_feature_head, load_feature_head),
]


@pytest.mark.parametrize(("kind", "layers", "new", "save", "load"), CASES)
def test_a_written_draft_is_read_back_bit_for_bit(kind, layers, new, save, load, target, tmp_path):
    draft, path = new(target), tmp_path / "draft.safetensors"
    save(draft, path, card(kind, layers))
    again = load(path, target)
    assert read_card(path) == card(kind, layers)
    assert torch.equal(again.vocab_ids, WORDS)
    assert set(again.state_dict()) == set(draft.state_dict())
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in draft.state_dict().items())


@pytest.mark.parametrize(("kind", "layers", "new", "save", "load"), CASES)
def test_the_embedding_is_the_target_s_own_and_is_not_stored(
    kind, layers, new, save, load, target, tmp_path
):
    path = tmp_path / "draft.safetensors"
    save(new(target), path, card(kind, layers))
    again = load(path, target)
    assert again.model.embed_tokens is target.get_input_embeddings()
    assert path.stat().st_size < 4 * sum(p.numel() for p in again.model.layers.parameters()) + 8192


@pytest.mark.parametrize(("kind", "layers", "new", "save", "load"), CASES)
def test_head_logits_are_the_target_s_rows_of_the_kept_words(kind, layers, new, save, load, target):
    hidden = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(1))
    expected = target.lm_head(hidden)[..., WORDS]
    torch.testing.assert_close(new(target).head(hidden), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draft_takes_the_target_s_dtype(dtype, target, tmp_path):
    path = tmp_path / "draft.safetensors"
    save_feature_head(new_head(target), path, card("feature_head", 1))
    head = load_feature_head(path, target.to(dtype))
    inputs = head.embed(torch.tensor([[1, 2]]), torch.zeros(1, 2, HIDDEN, dtype=dtype))
    hidden = head.model(inputs_embeds=inputs).last_hidden_state
    assert head.head(hidden).dtype == dtype


def test_a_draft_of_another_kind_is_refused(target, tmp_path):
    path = tmp_path / "draft.safetensors"
    save_feature_head(new_head(target), path, card("feature_head", 1))
    with pytest.raises(ValueError, match=r"'feature_head'; 'independent' is needed"):
        load_independent(path, target)


def test_a_target_of_another_size_is_refused(target, tmp_path):
    path = tmp_path / "draft.safetensors"
    save_independent(new_independent(target), path, card("independent", 2))
    other = LlamaForCausalLM(LlamaConfig(**{**FIELDS, "vocab_size": 41}, num_hidden_layers=1))
    with pytest.raises(ValueError, match="40 words"):
        load_independent(path, other)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCAB)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")))


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_exported_logits_equal_the_draft_s_and_refuse_missing_words(
    scale, target, tokenizer, tmp_path
):
    target.model.embed_tokens.weight.data.mul_(scale)
    draft = new_independent(target)
    draft.words.rows.div_(scale)
    export_assistant(draft, target, tokenizer, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(VOCAB).view(2, 20)
    with torch.no_grad():
        logits = model(tokens).logits
        expected = draft.head(draft.model(tokens).last_hidden_state)
    torch.testing.assert_close(logits[..., WORDS], expected, rtol=1e-4, atol=1e-4)
    missing = torch.ones(VOCAB, dtype=torch.bool).index_fill(0, WORDS, False)
    assert logits[..., missing].max() < -1e3


def test_transformers_writes_the_same_greedy_text_with_the_exported_assistant(
    target, tokenizer, tmp_path
):
    export_assistant(new_independent(target), target, tokenizer, tmp_path)
    assistant = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt = torch.tensor([[4, 9, 2, 33]])
    settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    plain = target.generate(prompt, **settings)
    assert torch.equal(plain, target.generate(prompt, assistant_model=assistant, **settings))


def test_shipped_drafts_are_found_by_the_target_s_configuration():
    for draft in SHIPPED.values():
        assert shipped_for(draft.kind, dict(draft.fingerprint)) is draft
        assert shipped_for(draft.kind, {**draft.fingerprint, "hidden_size": 8}) is None


@pytest.mark.parametrize("draft", SHIPPED.values(), ids=SHIPPED)
def test_shipped_files_are_small_and_say_what_they_are(draft):
    read = read_card(draft.path)
    assert draft.path.stat().st_size <= 24_000_000
    assert (read.kind, read.target, read.licence) == (draft.kind, draft.target, "Apache-2.0")
    assert read.tokens_seen > 0


def test_naming_the_drafts_imports_nothing_heavy():
    code = "import sys, fivefold_speculative.drafts; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def exclusion() -> ModuleType:
    path = Path(__file__).parents[3] / "recipes" / "smollm2_drafts" / "exclusion.py"
    if not path.exists():
        pytest.skip("the recipe is not beside this package")
    spec = importlib.util.spec_from_file_location("exclusion", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LONG = "Write a function that returns the third largest number in a list without sorting it twice."


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (LONG, True),
        (LONG.upper().replace(" ", "\n  "), True),
        (f"Please help. {LONG} Thank you.", True),
        ("It returns the third largest number in a list without sorting it twice, fast.", False),
        (" ".join(LONG.split()[1:15]), True),
        ("Why is the sky blue?", True),
        ("Tell me: why is the sky blue? Briefly.", True),
        ("Hello!", True),
        ("Hello, who are you?", False),
        ("Write a function.", False),
    ],
)
def test_texts_that_hold_a_benchmark_prompt_are_refused(text, refused, exclusion):
    listed = exclusion.Exclusion([LONG, "Why is the sky blue?", "hello"])
    assert listed.refuses(text) is refused


def test_every_human_eval_prompt_is_refused_also_inside_a_chat(exclusion, tmp_path):
    prompts = exclusion.human_eval_prompts()
    listed = exclusion.benchmark_exclusion(tmp_path / "none.jsonl")
    assert len(prompts) == 164
    assert all(listed.refuses(f"user\nComplete this:\n{prompt}\nassistant") for prompt in prompts)


def test_chat_benchmark_prompts_are_read_in_each_form(exclusion, tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(
        '{"prompt": "one two three four five"}\n\n"six seven eight nine"\n'
        '{"messages": [{"role": "user", "content": "ten eleven twelve thirteen"}]}\n'
    )
    listed = exclusion.benchmark_exclusion(path)
    for text in ("one two three four five", "six seven eight nine", "ten eleven twelve thirteen"):
        assert listed.refuses(f"and {text} again")


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage" * 50])
def test_a_damaged_file_is_no_draft(tmp_path, target, content):
    file = tmp_path / "draft.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged, or no draft file"):
        load_independent(file, target)
