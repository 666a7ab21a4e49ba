"""Of conversations what the assistant says is learnt, of texts everything."""

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_tokenizer
from fivefold_mst_train.engine.config import LossOn
from fivefold_mst_train.engine.data.documents import Document
from fivefold_mst_train.engine.data.tokens import Tokens, check_vocabulary, encode

TEMPLATE = (
    "{% for m in messages %}{{ 'u' if m.role == 'user' else 'a' }}{{ m.content }}z{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)
CHAT = [
    {"role": "user", "content": "bcd"},
    {"role": "assistant", "content": "efg"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "jk"},
]


def tokenizer(template=TEMPLATE):
    made = tiny_tokenizer(64)
    made.chat_template = template
    return made


def encoded(loss_on, messages=CHAT, template=TEMPLATE):
    made = tokenizer(template)
    tokens = encode([Document("here", messages=messages)], made, loss_on)
    text = [made.convert_ids_to_tokens(int(token)) for token in tokens.ids]
    return "".join(text), tokens


def test_answers_and_their_ends_are_learnt_and_nothing_else():
    text, tokens = encoded(LossOn.ANSWERS)
    assert text == "ubcdzaefgzuhizajkz"
    learnt = "".join(c for c, yes in zip(text, tokens.is_learnt.tolist(), strict=True) if yes)
    assert learnt == "efgzjkz"
    assert tokens.starts.tolist() == [True] + [False] * (len(text) - 1)


def test_everything_is_learnt_where_it_is_asked_for():
    _, tokens = encoded(LossOn.ALL)
    assert bool(tokens.is_learnt.all())


def test_a_text_ends_with_the_end_of_text():
    made = tokenizer()
    tokens = encode(
        [Document("a", "abc"), Document("b", ""), Document("c", "de")], made, LossOn.ALL
    )
    end = made.eos_token_id
    assert tokens.ids.tolist() == [*made("abc").input_ids, end, *made("de").input_ids, end]
    assert torch.nonzero(tokens.starts).flatten().tolist() == [0, 4]


def test_conversations_without_a_template_are_refused():
    with pytest.raises(UserError, match="no chat template"):
        encode([Document("here", messages=CHAT)], tokenizer(None), LossOn.ANSWERS)


def test_a_template_that_refuses_is_named_with_the_place():
    template = "{{ raise_exception('only one turn') }}"
    with pytest.raises(UserError, match="refuses here: only one turn"):
        encoded(LossOn.ANSWERS, template=template)


def test_a_template_that_rewrites_earlier_turns_is_refused():
    template = "{{ messages | length }}" + TEMPLATE
    with pytest.raises(UserError, match="writes earlier turns otherwise"):
        encoded(LossOn.ANSWERS, template=template)


def test_tokens_out_of_the_vocabulary_are_refused():
    tokens = Tokens.of([([1, 2, 63], [True] * 3)])
    check_vocabulary(tokens, 64)
    with pytest.raises(UserError, match="token 63 is out of the model's vocabulary of 60"):
        check_vocabulary(tokens, 60)
