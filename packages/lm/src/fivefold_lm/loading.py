"""From a name to a model: the default one, a GGUF file, a local folder, or a hub id."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import torch
from fivefold import UserError, nearest
from fivefold.errors import near
from fivefold_kernels import UnsupportedError
from huggingface_hub import errors as hub
from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.utils._validators import validate_repo_id
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.chat_template_utils import _compile_jinja_template

from .config import ModelConfig
from .gguf_blocks import blocks_folder, load_blocks
from .gguf_file import converted, is_gguf
from .kernels import (
    OUR_FLOATS,
    Kernels,
    can_speed_up,
    choose_gpu_kernels,
    choose_kernels,
    hold_packed,
    speed_up,
)
from .models import LanguageModel
from .offload.loading import load_streamed, require_device
from .quiet import without_bars, without_hub_warnings
from .smollm2 import smollm2_blocks, smollm2_folder

HIDDEN = (".", "_")
WEIGHTS = (".safetensors", ".bin", ".gguf")
FETCHED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
"""Files of a hub model whose layers are streamed."""
DEFAULT = "smollm2"


class NoSuchModelError(UserError):
    """The name leads to no model here; its remedy says what else `model=` takes."""


def load(config: ModelConfig, say: Callable[[str], None]) -> LanguageModel:
    """Load the model that the settings name (see `load_model`)."""
    device = find_device(config)
    template = read_template(config.chat_template) if config.chat_template else ""
    if config.offload != "none":
        require_device(config, device)
    if config.weights == "file":
        return _load_blocks(config, device, template, say)
    if config.offload != "none":
        return _load_streamed(config, device, template, say)
    where, is_ours = locate(config, say)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    try:
        with without_bars(), without_hub_warnings():
            if not Path(where).is_dir():
                options |= _hub_options(config)
            module = _load_module(config, where, options)
            module.to(device)  # type: ignore[arg-type]
            kind = PreTrainedTokenizerFast if is_ours else AutoTokenizer
            tokenizer = kind.from_pretrained(where, **options)
    except UserError:
        raise
    except Exception as error:  # the many errors of two libraries, each made one line
        raise explain(error, config, where) from error
    if template:
        tokenizer.chat_template = template
    kernels = _kernels_of(module, config, say)
    if kernels is not None:
        try:
            speed_up(module, kernels, say)
        except UnsupportedError as error:
            raise UserError(
                f"the weights cannot be packed: {error}",
                setting="model.weights",
                value=config.weights,
                remedy="set model.weights=float, or choose another model",
            ) from error
    return LanguageModel.wrap(module, tokenizer, config.name)


def _kernels_of(
    module: PreTrainedModel, config: ModelConfig, say: Callable[[str], None]
) -> Kernels | None:
    """Return what a loaded model is to compute with; None: stock torch.

    Raises:
        UserError: kernels or weights that do not go with the device or the dtype.
    """
    is_cpu, is_other = module.device.type == "cpu", module.dtype not in OUR_FLOATS
    if can_speed_up(module) or (is_cpu and (is_other or config.kernels == "triton")):
        return choose_kernels(config.kernels, config.weights, module.dtype, say)
    if config.weights != "float":
        raise _only_on_cpu(config)
    if is_cpu:
        return None
    return choose_gpu_kernels(config.kernels, module.device, say)


def _load_blocks(
    config: ModelConfig, device: torch.device, template: str, say: Callable[[str], None]
) -> LanguageModel:
    """Load a GGUF file to be run from its own blocks.

    Raises:
        UserError: the model is no GGUF file, or the CPU kernels do not run here.
    """
    path = Path(config.name).expanduser()
    if config.name != DEFAULT and not path.is_file():
        raise UserError(
            "only a GGUF file has blocks of its own",
            setting="model.weights",
            value="file",
            remedy=f"set model.weights=int4, int8 or float for {config.name}",
        )
    dtype: torch.dtype = getattr(torch, config.dtype)
    kernels = None
    if device.type == "cpu":
        kernels = choose_kernels(config.kernels, config.weights, dtype, say)
    if kernels is None or kernels.library is None:
        raise _only_on_cpu(config)
    folder = smollm2_blocks(say) if config.name == DEFAULT else blocks_folder(path, say)
    try:
        if config.offload == "none":
            module = load_blocks(folder, dtype, kernels.library)
            hold_packed(module, kernels)
        else:
            module = load_streamed(config, folder, device, kernels, say)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except UserError:
        raise
    except Exception as error:  # as in `load`
        raise explain(error, config, str(folder)) from error
    if template:
        tokenizer.chat_template = template
    return LanguageModel.wrap(module, tokenizer, config.name)


def _load_streamed(
    config: ModelConfig, device: torch.device, template: str, say: Callable[[str], None]
) -> LanguageModel:
    """Load a model of float weights that need not all fit.

    Raises:
        UserError: as in `load`, or its layers cannot be streamed.
    """
    where, is_ours = locate(config, say)
    dtype: torch.dtype = getattr(torch, config.dtype)
    try:
        with without_bars(), without_hub_warnings():
            folder = Path(where) if Path(where).is_dir() else _fetched(config)
            _require_causal(AutoConfig.from_pretrained(folder), config)
            kind = PreTrainedTokenizerFast if is_ours else AutoTokenizer
            tokenizer = kind.from_pretrained(folder)
            kernels = None
            if device.type == "cpu":
                kernels = choose_kernels(config.kernels, config.weights, dtype, say)
            elif config.weights != "float":
                raise _only_on_cpu(config)
            elif config.kernels not in ("auto", "torch"):
                raise UserError(
                    "streamed layers run as torch's own modules on an accelerator",
                    setting="model.kernels",
                    value=config.kernels,
                    remedy="set model.kernels=auto, or model.offload=none",
                )
            module = load_streamed(config, folder, device, kernels, say)
    except UserError:
        raise
    except Exception as error:  # as in `load`
        raise explain(error, config, where) from error
    if template:
        tokenizer.chat_template = template
    return LanguageModel.wrap(module, tokenizer, config.name)


def _fetched(config: ModelConfig) -> Path:
    """Return the folder of a hub model's files, fetched if need be."""
    options = _hub_options(config)
    found: str = snapshot_download(config.name, allow_patterns=FETCHED, **options)
    return Path(found)


def _only_on_cpu(config: ModelConfig) -> UserError:
    return UserError(
        f"only the CPU kernels hold {config.weights} weights",
        setting="model.weights",
        value=config.weights,
        remedy="set model.device=cpu with model.dtype=float32 or bfloat16, or weights=float",
    )


def locate(config: ModelConfig, say: Callable[[str], None]) -> tuple[str, bool]:
    """Say where a model lies: a folder or a hub id, and whether we wrote the folder ourselves.

    Raises:
        UserError: the name is neither, or the folder or file cannot hold a model.
    """
    if config.name == DEFAULT:
        return str(smollm2_folder(say)), True
    path = Path(config.name).expanduser()
    if path.is_file():
        return str(converted(path, say)), True
    if path.is_dir():
        _require_model_in(path, config)
        return str(path), False
    if _looks_like_path(config.name):
        raise NoSuchModelError(
            "there is no such file or folder",
            setting="model.name",
            value=config.name,
            remedy=f"give an existing folder or GGUF file, a hub id, or {DEFAULT}",
        )
    try:
        validate_repo_id(config.name)
    except hub.HFValidationError as error:
        raise _unknown(config) from error
    return config.name, False


def find_device(config: ModelConfig) -> torch.device:
    """Return the device asked for.

    Raises:
        UserError: this machine, or this build of torch, does not have it.
    """
    if config.device == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found if found is not None and found.type in ("cuda", "xpu") else torch.device("cpu")
    device = torch.device(config.device)
    if device.type == "cpu":
        return device
    backend = torch.get_device_module(device.type)
    count = backend.device_count() if backend.is_available() else 0
    if (device.index or 0) >= count:
        have = [f"{device.type}:{i}" for i in range(count)]
        raise UserError(
            "this device is not available here",
            setting="model.device",
            value=config.device,
            remedy=f"choose one of {', '.join(['cpu', *have])}",
        )
    return device


def read_template(template: str) -> str:
    """Return a chat template given as text or as a file.

    Raises:
        UserError: it is neither Jinja text nor a readable file, or cannot be parsed.
    """
    text = template if "{" in template else _template_in(template)
    try:
        _compile_jinja_template(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"the chat template is at fault, on its line {error.lineno}: {error.message}",
            setting="model.chat_template",
            value=template,
            remedy="mend the template, or leave it out for the model's own",
        ) from error
    return text


def _template_in(template: str) -> str:
    try:
        return Path(template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "the chat template is neither Jinja text nor a readable file",
            setting="model.chat_template",
            value=template,
            remedy="give a file that exists, or text with {{ ... }} in it",
        ) from error


def explain(error: BaseException, config: ModelConfig, where: str) -> UserError:
    """Turn what transformers or the hub raised into one line: problem, setting, remedy."""
    text = str(error)
    causes = list(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    def say(problem: str, remedy: str, setting: str = "name") -> UserError:
        value = getattr(config, setting)
        return UserError(problem, setting=f"model.{setting}", value=value, remedy=remedy)

    if caused_by(hub.GatedRepoError):
        return say(
            "access to this model must be granted first",
            "accept its licence on the hub, then set model.token or run `hf auth login`",
        )
    if caused_by(hub.RevisionNotFoundError):
        return say("this model has no such revision", "give a branch, tag or commit", "revision")
    if caused_by(hub.RepositoryNotFoundError):
        return _unknown(config)
    if caused_by(hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError, OSError) and (
        "connect" in text.lower() or "offline" in text.lower() or "resolve" in text.lower()
    ):
        return _unreachable(config)
    if "trust_remote_code" in text:
        return say(
            "this model runs Python code of its own",
            "read that code, then set model.trust_remote_code=true, or choose another model",
            "trust_remote_code",
        )
    if caused_by(torch.OutOfMemoryError, MemoryError) or "can't allocate memory" in text:
        return say(
            "the model does not fit into memory", "set model.dtype=bfloat16, or a smaller model"
        )
    if caused_by(ImportError):
        return say(f"a package is missing ({text})", "install it, or choose another model")
    if caused_by(SafetensorError, EOFError):
        return say(
            f"its weights are damaged ({text})",
            f"fetch the model again (it is in {where}); one that Fivefold made is made anew after "
            "fivefold cache clear entry=models",
        )
    if "model type" in text or "Unrecognized" in text:
        return say(
            "its architecture is unknown to the installed transformers",
            "upgrade transformers, or choose another model",
        )
    return say(
        f"the model cannot be loaded ({type(error).__name__}: {_first_sentence(text)})",
        f"check that {where} holds config, weights and tokenizer of a causal language model",
    )


def _hub_options(config: ModelConfig) -> dict[str, Any]:
    """Return what a hub id is loaded with; from the local cache alone where no hub answers.

    Without the question, each file would be asked for six times, over half a minute.
    """
    revision, token = config.revision or "main", config.token or None
    options: dict[str, Any] = {"revision": revision, "token": token}
    try:
        get_hf_file_metadata(hf_hub_url(config.name, "config.json", revision=revision), token=token)
    except hub.HfHubHTTPError:
        pass  # it answers, and says the same again to the libraries that can explain it
    except Exception:  # no name, no route, no answer: the client's network library is private
        options["local_files_only"] = True
    return options


def _load_module(config: ModelConfig, where: str, options: dict[str, Any]) -> PreTrainedModel:
    settings = AutoConfig.from_pretrained(where, **options)
    _require_causal(settings, config)
    auto: Any = AutoModelForCausalLM
    module, found = auto.from_pretrained(
        where,
        config=settings,
        dtype=getattr(torch, config.dtype),
        output_loading_info=True,
        **options,
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise UserError(
            f"{len(missing)} of its weights are missing, {missing[0]} for one",
            setting="model.name",
            value=config.name,
            remedy="fetch the model again; its config and weights do not belong together",
        )
    ready: PreTrainedModel = module.eval().requires_grad_(False)
    return ready


def _require_causal(settings: Any, config: ModelConfig) -> None:
    """Refuse a model that does not write one token after the other.

    Raises:
        UserError: an encoder-decoder, or an encoder such as BERT.
    """
    made_for = getattr(settings, "architectures", None) or []
    masked = [name for name in made_for if "MaskedLM" in name]
    known = settings.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    custom = "AutoModelForCausalLM" in (getattr(settings, "auto_map", None) or {})
    if settings.is_encoder_decoder:
        problem = f"{settings.model_type} is an encoder-decoder, not a causal language model"
    elif masked or not (known or custom):
        problem = f"{(made_for or [settings.model_type])[0]} is no causal language model"
    else:
        return
    raise UserError(
        problem,
        setting="model.name",
        value=config.name,
        remedy="choose a decoder such as Llama, Qwen, Mistral or Gemma",
    )


def _require_model_in(folder: Path, config: ModelConfig) -> None:
    """Refuse a folder that cannot be a model.

    Raises:
        UserError: it is empty, or has no config or no weights.
    """
    names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(HIDDEN)]
    weights = [name for name in names if name.endswith(WEIGHTS)]
    gguf = next((name for name in names if is_gguf(folder / name)), None)
    remedy = "give a folder with config.json, weights and tokenizer"
    if not names:
        problem = "this model folder is empty"
    elif "config.json" not in names:
        problem = "this folder holds no config.json"
        remedy = f"give the file itself: model={folder / gguf}" if gguf else remedy
    elif not weights:
        problem = "this folder holds no weights"
    else:
        return
    raise UserError(problem, setting="model.name", value=config.name, remedy=remedy)


def _unknown(config: ModelConfig) -> UserError:
    return NoSuchModelError(
        "there is no such model on the hub, or it is private",
        setting="model.name",
        value=config.name,
        remedy=f"check its spelling, set model.token, or {nearest(config.name, [DEFAULT])}",
    )


def _unreachable(config: ModelConfig) -> UserError:
    ways = "load it once while online, give a local folder or a GGUF file, or use"
    guess = f"did you mean {DEFAULT}? else " if near(config.name, [DEFAULT]) else ""
    return NoSuchModelError(
        "the hub cannot be reached and this model is not in its local cache",
        setting="model.name",
        value=config.name,
        remedy=f"{guess}{ways} model={DEFAULT}",
    )


def _looks_like_path(name: str) -> bool:
    marked = name.startswith((".", "~", os.sep)) or name.endswith(".gguf")
    return marked or name.count("/") > 1 or "\\" in name


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_sentence(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    return line if len(line) <= 160 else line[:159] + "…"
