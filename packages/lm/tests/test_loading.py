"""Models are found, converted once and loaded; what cannot be is refused in one line."""

import json
import logging
import multiprocessing
import re
import shutil
import time

import pytest
import torch
from fivefold import UserError
from fivefold_lm import store
from fivefold_lm.config import ModelConfig
from fivefold_lm.gguf_file import converted
from fivefold_lm.loading import explain, load
from fivefold_lm.models import load_model
from fivefold_lm.quiet import without_hub_warnings
from fivefold_lm.store import made_once
from fivefold_lm.testing import plain_logits
from huggingface_hub import constants
from huggingface_hub import errors as hub
from huggingface_hub.utils import get_session
from huggingface_hub.utils import logging as hub_logging
from transformers import BertConfig, T5Config

TOKENS = [1, 5, 3, 9, 2]


def refusal(**config):
    with pytest.raises(UserError) as caught:
        load(ModelConfig(**config), lambda _: None)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_folder_is_loaded_as_it_was_saved(model_folder, tied_model):
    model = load_model(ModelConfig(name=str(model_folder)))
    assert torch.equal(plain_logits(model.module, TOKENS), plain_logits(tied_model.module, TOKENS))
    assert model.fingerprint == tied_model.fingerprint
    assert (model.context_len, model.vocab_size, model.eos_ids) == (256, 40, (0,))
    assert not any(weight.requires_grad for weight in model.module.parameters())


def test_dtype_is_the_one_asked_for(model_folder):
    model = load_model(ModelConfig(name=str(model_folder), dtype="bfloat16"))
    assert model.dtype == torch.bfloat16


def test_a_gguf_file_is_converted_once_and_holds_the_same_model(gguf_path, tied_model, capfd):
    said = []
    for _ in range(2):
        model = load_model(ModelConfig(name=str(gguf_path)), said.append)
        assert torch.equal(
            plain_logits(model.module, TOKENS), plain_logits(tied_model.module, TOKENS)
        )
    assert [line for line in said if "kernels" not in line] == ["converting tiny.gguf (once)"]
    assert model.encode("cab", chat="never") == [3, 39]
    assert model.decode([3, 39, 0]) == "cab"
    assert capfd.readouterr() == ("", "")


def test_a_gguf_file_keeps_its_conversion_when_it_moves(gguf_path, tmp_path):
    first = converted(gguf_path, lambda _: None)
    moved = shutil.copy(gguf_path, tmp_path / "tiny.gguf")
    assert converted(tmp_path / "tiny.gguf", pytest.fail) == first
    assert moved


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GIF89a")
    line = refusal(name=str(path))
    assert line.startswith(f"this file is no GGUF file (model.name={path})"[:60])


@pytest.mark.parametrize("size", [4, 40, 2000, 20_000])
def test_a_damaged_gguf_file_is_refused_and_leaves_nothing(gguf_path, tmp_path, size, cache):
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_path.read_bytes()[:size])
    assert "this GGUF file cannot be read" in refusal(name=str(path))
    assert [entry for entry in (cache / "models").iterdir() if entry.is_dir()] == []


def test_an_empty_folder_is_refused(tmp_path):
    assert refusal(name=str(tmp_path)).startswith("this model folder is empty (model.name=")


def test_a_folder_without_config_or_weights_is_refused(tmp_path, model_folder, gguf_path):
    shutil.copy(model_folder / "tokenizer.json", tmp_path)
    assert "holds no config.json" in refusal(name=str(tmp_path))
    shutil.copy(model_folder / "config.json", tmp_path)
    assert "holds no weights" in refusal(name=str(tmp_path))
    assert "give the file itself" in refusal(name=str(gguf_path.parent))


def test_damaged_weights_are_refused(tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    assert "weights are damaged" in refusal(name=str(tmp_path))


def test_a_damaged_config_is_refused(tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text("{")
    assert "cannot be loaded" in refusal(name=str(tmp_path))


def test_weights_of_another_config_are_refused_not_made_up(tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 4
    config["layer_types"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    line = refusal(name=str(tmp_path))
    assert re.match(r"\d+ of its weights are missing, model\.layers\.3", line)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (T5Config(architectures=["T5ForConditionalGeneration"]), "t5 is an encoder-decoder"),
        (BertConfig(architectures=["BertForMaskedLM"]), "BertForMaskedLM is no causal language"),
    ],
)
def test_models_that_do_not_write_are_refused(tmp_path, config, problem):
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert refusal(name=str(tmp_path)).startswith(problem)


def test_code_of_a_models_own_needs_consent(tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    line = refusal(name=str(tmp_path))
    assert "runs Python code of its own (model.trust_remote_code=false)" in line


def test_an_unknown_architecture_is_named_as_such(tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "nobody"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "architecture is unknown" in refusal(name=str(tmp_path))


def test_a_path_that_is_not_there_is_refused():
    assert refusal(name="./nowhere").startswith("there is no such file or folder (model.name=")
    assert refusal(name="a/b/c.gguf").startswith("there is no such file or folder")


def test_a_name_no_hub_could_have_is_unknown():
    assert "no such model on the hub" in refusal(name="what is this?")


def test_a_near_name_is_suggested():
    assert "did you mean smollm2?" in refusal(name="smolm2..")


def test_offline_is_said_with_a_remedy(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = refusal(name="nobody/nothing-here")
    assert line.startswith("the hub cannot be reached and this model is not in its local cache")
    assert "model=smollm2" in line


@pytest.fixture
def no_network(monkeypatch):
    """A machine whose requests all end without an answer; returns those that were made."""
    asked = []

    def request(self, *arguments, **options):
        asked.append(arguments or options)
        raise OSError("[Errno -2] Name or service not known")

    client = type(get_session())
    monkeypatch.setattr(client, "request", request)
    monkeypatch.setattr(client, "send", request)
    return asked


def test_a_hub_that_does_not_answer_is_asked_once_and_said_in_one_line(no_network, capfd, caplog):
    line = refusal(name="nobody/nothing-here")
    assert line.startswith("the hub cannot be reached and this model is not in its local cache")
    assert "did you mean" not in line
    assert len([call for call in no_network if "nobody/nothing-here" in str(call)]) == 1
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_near_name_is_suggested_also_where_the_hub_does_not_answer(no_network):
    assert "did you mean smollm2?" in refusal(name="smolm2")


def test_what_the_hubs_client_warns_of_is_hidden_and_its_errors_are_not(caplog):
    logger = logging.getLogger("huggingface_hub.utils._http")
    before = hub_logging.get_verbosity()
    with without_hub_warnings():
        logger.warning("Retrying in 1s [Retry 1/5].")
        logger.error("broken")
    assert [record.message for record in caplog.records] == ["broken"]
    assert hub_logging.get_verbosity() == before


def raised(kind):
    error = OSError("wrapped by transformers")
    error.__cause__ = kind.__new__(kind)
    return error


@pytest.mark.parametrize(
    ("error", "problem", "setting"),
    [
        (raised(hub.GatedRepoError), "access to this model must be granted", "model.name"),
        (raised(hub.RepositoryNotFoundError), "there is no such model", "model.name"),
        (raised(hub.RevisionNotFoundError), "this model has no such revision", "model.revision"),
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit into memory", "model.name"),
        (ImportError("requires `nothing`"), "a package is missing", "model.name"),
        (ValueError("odd\nlines"), "cannot be loaded (ValueError: odd)", "model.name"),
    ],
)
def test_what_libraries_raise_becomes_one_line(error, problem, setting):
    made = explain(error, ModelConfig(name="some/model"), "some/model")
    assert problem in str(made)
    assert made.setting == setting
    assert made.remedy


def test_a_device_that_is_not_there_is_refused(model_folder):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    line = refusal(name=str(model_folder), device="cuda")
    assert line == ("this device is not available here (model.device=cuda); choose one of cpu")


def test_a_chat_template_may_be_text_or_a_file(model_folder, tmp_path):
    text = "{% for m in messages %}{{ m['content'] }}{% endfor %}b"
    (tmp_path / "chat.jinja").write_text(text)
    for template in (text, str(tmp_path / "chat.jinja")):
        model = load_model(ModelConfig(name=str(model_folder), chat_template=template))
        assert model.encode("a") == model.encode([{"role": "user", "content": "a"}]) == [1, 2]
        assert model.encode("a", chat="never") == [1]
    assert "neither Jinja text nor a readable file" in refusal(
        name=str(model_folder), chat_template="nowhere.jinja"
    )


def test_a_broken_chat_template_is_named_with_its_line():
    line = refusal(name="./nowhere", chat_template="{{ messages }}\n{% for m in %}")
    assert line.startswith("the chat template is at fault, on its line 2: Expected an expression")
    assert "(model.chat_template=" in line


def test_messages_without_a_template_are_refused(tied_model):
    assert tied_model.encode("abc") == [1, 2, 3]
    for prompt, chat in (([{"role": "user", "content": "a"}], "auto"), ("a", "always")):
        with pytest.raises(UserError, match=r"no chat template \(model\.chat_template\)"):
            tied_model.encode(prompt, chat)


def make_slowly(folder, path, log):
    store.cache_folder = lambda: path
    made_once("thing", lambda draft: (time.sleep(0.3), (draft / "a").touch(), log.put(1)))


def test_two_processes_make_a_folder_once(tmp_path):
    context = multiprocessing.get_context("fork")
    log = context.Queue()
    both = [context.Process(target=make_slowly, args=("thing", tmp_path, log)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert (tmp_path / "models" / "thing" / "a").exists()
    assert log.get(timeout=5) == 1
    assert log.empty()


def test_an_interrupted_conversion_is_never_used(cache):
    def interrupted(draft):
        (draft / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once("thing", interrupted)
    killed = cache / "models" / ".thing.0123.tmp"
    killed.mkdir()
    folder = made_once("thing", lambda draft: (draft / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert not killed.exists()


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").touch()
    with pytest.raises(UserError, match=r"cannot be written .*\(FIVEFOLD_CACHE="):
        made_once("thing", lambda _: None)
