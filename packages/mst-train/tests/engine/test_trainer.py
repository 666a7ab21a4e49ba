"""HF `Trainer` with a method is HF `Trainer` without it, as the how-to says in two lines."""

import pytest
import torch
from fivefold import UserError
from fivefold_lm.testing import tiny_model
from fivefold_mst_train import MstConfig, apply_mst
from fivefold_mst_train.config import BudgetConfig, HeadConfig, MlpConfig
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore::Warning")


class Rows(Dataset):
    """Rows of random tokens, a third of their labels ignored in every second row."""

    def __init__(self, count=24, width=20, vocab=64):
        source = torch.Generator().manual_seed(2)
        self.ids = torch.randint(1, vocab, (count, width), generator=source)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        labels = self.ids[index].clone()
        if index % 2:
            labels[: len(labels) // 3] = -100
        return {"input_ids": self.ids[index], "labels": labels}


def trainer(model, folder, **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        max_steps=4,
        learning_rate=1e-3,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
    )
    return Trainer(
        model=model, args=arguments, train_dataset=Rows(), eval_dataset=Rows(8), **options
    )


def fresh():
    return tiny_model(vocab=64, eos_token_id=None).module.train().requires_grad_(True)


def tiled(model):
    config = MstConfig(
        mlp=MlpConfig(tile_tokens=7),
        head=HeadConfig(chunk_tokens=5),
        budget=BudgetConfig(min_tile=1),
    )
    return apply_mst(model, config)


def losses(made):
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def test_trainer_takes_the_same_steps_with_and_without_mini_sequences(tmp_path):
    plain = trainer(fresh(), tmp_path / "plain")
    plain.train()
    model = fresh()
    handle = tiled(model)
    patched = trainer(model, tmp_path / "mst")
    patched.train()
    assert losses(patched) == pytest.approx(losses(plain), rel=1e-4)
    assert patched.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-4)
    handle.revert()
    for own, other in zip(model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_metrics_that_want_all_logits_are_refused_with_another_way(tmp_path):
    model = fresh()
    tiled(model)
    made = trainer(model, tmp_path, compute_metrics=lambda found: {"shape": found.predictions.size})
    with pytest.raises(UserError, match=r"scores of the whole sequence.*compute_metrics"):
        made.evaluate()


def test_the_checkpoint_of_trainer_loads_without_the_method(tmp_path):
    model = fresh()
    handle = tiled(model)
    made = trainer(model, tmp_path)
    made.train()
    made.save_model(str(tmp_path / "saved"))
    handle.revert()
    loaded = type(model).from_pretrained(tmp_path / "saved")
    ids = Rows()[0]["input_ids"].unsqueeze(0)
    assert torch.equal(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
