"""What Hydra and OmegaConf refuse, in the words of the user who wrote it."""

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)
from yaml import YAMLError

from .errors import UserError, nearest, quoted
from .override import Override
from .schema import TaskSchema, how_to_give, is_list_of_text

_MERGED = re.compile(r"Error merging override (.*)", re.DOTALL)
_LONGEST_EXAMPLE = 80
_IN_QUOTES = re.compile(r"'([^']*)'")


@contextmanager
def refusing(
    schema: TaskSchema | None = None, written: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Turn the composer's exceptions into `UserError`.

    Args:
        schema: what can be set, for the remedies.
        written: the overrides as Hydra read them, and as the user wrote them.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise _user_error(error, schema, written or {}) from error


def _user_error(
    error: Exception, schema: TaskSchema | None, written: Mapping[str, str]
) -> UserError:
    if isinstance(error, OverrideParseException):
        override = Override.read(written.get(error.override, error.override))
        types = schema.types_of(override.key) if schema else []
        return _unparsable(override, types[0] if types else None)
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, OmegaConfBaseException):
        return _refused_value(cause, _override_in(error, written), schema)
    return UserError(_first_lines(error), remedy="see `--info` for what was composed")


def _unparsable(override: Override, annotation: Any) -> UserError:
    remedy = 'numbers, true, false, [a,b] and {a:b} can stand here; quote other items: ["a b\'s"]'
    if is_list_of_text(annotation):
        remedy = f"quote its items: {_with_quotes(override)}"
    return UserError(
        "this value cannot be read", setting=override.key, value=override.value, remedy=remedy
    )


def _with_quotes(override: Override) -> str:
    """Return a list of text as it can be typed: its items in quotes, and all for the shell."""
    words = [item.strip(" '\"") for item in override.value.strip("[] ").split(",")]
    items = ",".join(quoted(word) for word in words if word)
    is_short = 0 < len(items) <= _LONGEST_EXAMPLE
    return shlex.quote(f"{override.key}=[{items if is_short else quoted('a b')}]")


def _missing_file(error: MissingConfigException) -> UserError:
    group, _, name = str(error.missing_cfg_file or "").rpartition("/")
    problem = f"no such {group}" if group else _first_lines(error)
    remedy = nearest(name, error.options or [])
    return UserError(problem, setting=group, value=name, remedy=remedy)


def _refused_value(
    cause: OmegaConfBaseException, override: Override | None, schema: TaskSchema | None
) -> UserError:
    key = override.key if override else str(cause.full_key or "")
    types = schema.types_of(key) if schema and key else []
    problem, remedy = _first_lines(cause), ""
    if key.startswith("hydra."):
        remedy = "see what Hydra has with `--cfg hydra`"
    elif isinstance(cause, ConfigKeyError | ConfigAttributeError):
        problem, remedy = "no such setting", schema.remedy(key) if schema else ""
    elif isinstance(cause, InterpolationResolutionError):
        remedy = "mend the ${…} that it is made of"
    elif types:
        problem, remedy = "this value does not fit", how_to_give(key, types[0])
    if override is None:
        return UserError(problem, setting=key, remedy=remedy)
    return UserError(problem, setting=key, value=override.value, remedy=remedy)


def _override_in(error: Exception, written: Mapping[str, str]) -> Override | None:
    """Return the override that an error of Hydra's quotes, as the user wrote it."""
    message = str(error)
    merged = _MERGED.match(message)
    if merged:
        return Override.read(written.get(merged[1], merged[1]))
    named = _IN_QUOTES.search(message)
    for line in written:
        if named and named[1] in (line, Override.read(line).key):
            return Override.read(written[line])
    return None


def _first_lines(error: Exception) -> str:
    """Return what an exception says, without OmegaConf's footer and Hydra's search path."""
    kept = []
    for line in str(error).splitlines():
        if re.match(r"\s*(full_key|object_type|reference_type|Config search path)\b", line):
            break
        kept.append(line.strip())
    return " ".join(filter(None, kept)) or type(error).__name__
