"""`data=debian`: the graph of Debian's packages, made of this machine's own package lists.

A vertex is a binary package, an edge a dependency or recommendation, the label the package's
section, the features the hashed words of its one-line description. Nothing is fetched: the lists
are those of `apt`, or a `Packages` file. `name`, `source`, `maintainer` and the like are no
features, since they give the section away.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from fivefold import UserError
from fivefold.cache import cache_folder

from ..._words import DebianSplit, Direction
from ...config import DataConfig
from ..graph import GraphData, clean_edges, hashed_masks
from .hashed_words import dense, hashed_words

RELATIONS = ("Depends", "Pre-Depends", "Recommends", "Suggests", "Enhances")
"""The fields that make edges; of several that name the same pair the first counts."""
_MOST_PROVIDERS = 8
_KEPT = frozenset(
    (*RELATIONS, "Package", "Filename", "Section", "Description", "Source", "Provides")
)
_MADE = "1"
"""Version of the definition; a cached graph of another is not used."""


@dataclass
class Packages:
    """What is read of a package list; lists are sorted by package name."""

    names: list[str]
    sources: list[str]
    sections: list[str]
    descriptions: list[str]
    relations: list[dict[str, list[str]]]
    """Of each package, the names in each field of `RELATIONS`."""
    provides: dict[str, list[str]] = field(default_factory=dict)
    """Of a virtual name, the packages that provide it, by name."""


def debian_graph(config: DataConfig) -> GraphData:
    """Return the graph of the machine's package lists, or of the `Packages` file in `data.path`.

    Raises:
        UserError: no lists, or a file that is no package list.
    """
    text = _read_lists(config.path)
    digest = sha256(text).hexdigest()
    settings = f"{_MADE}:{config.features}:{config.min_class}:{config.split}:{config.direction}"
    key = sha256(f"{digest}:{settings}".encode()).hexdigest()[:24]
    cached = cache_folder() / "graphs" / f"debian-{key}.npz"
    arrays = _load(cached)
    if arrays is None:
        arrays = _arrays(parse_packages(text.decode("utf-8", "replace")), config)
        _save(cached, arrays)
    return _graph(arrays, config, digest)


def parse_packages(text: str) -> Packages:
    """Read a package list.

    The first stanza of a name wins; stanzas without `Filename` (installed here only) are dropped.
    Lines that begin with a space continue a field and are ignored.

    Raises:
        UserError: the text holds no stanza.
    """
    stanzas: dict[str, dict[str, str]] = {}
    for stanza in _stanzas(text):
        if "Package" in stanza and "Filename" in stanza:
            stanzas.setdefault(stanza["Package"], stanza)
    if not stanzas:
        raise UserError(
            "no package is described there",
            setting="data.path",
            remedy="run `apt-get update`, or give data.path=FILE, a Debian `Packages` file",
        )
    names = sorted(stanzas, key=lambda name: name.encode())
    provides: dict[str, list[str]] = {}
    for name in names:
        for virtual in _names_in(stanzas[name].get("Provides", "")):
            provides.setdefault(virtual, []).append(name)
    return Packages(
        names,
        [stanzas[n].get("Source", n).partition(" ")[0] for n in names],
        [stanzas[n].get("Section", "").rpartition("/")[2] for n in names],
        [stanzas[n].get("Description", "") for n in names],
        [{key: _names_in(stanzas[n].get(key, "")) for key in RELATIONS} for n in names],
        provides,
    )


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    stanza: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip():
            if stanza:
                yield stanza
            stanza = {}
        elif not line[0].isspace():
            key, colon, value = line.partition(":")
            if colon and key in _KEPT:
                stanza.setdefault(key, value.strip())
    if stanza:
        yield stanza


def _names_in(relation: str) -> list[str]:
    """Return every name in a relation: all alternatives, without versions and architectures."""
    found = []
    for alternative in re.split(r"[,|]", relation):
        name = re.split(r"[\s(:\[<]", alternative.strip(), maxsplit=1)[0]
        if name:
            found.append(name)
    return found


# ------------------------------------------------------------------------------------ the arrays


def _arrays(packages: Packages, config: DataConfig) -> dict[str, np.ndarray]:
    edges, unresolved = _edges(packages)
    directed = config.direction is not Direction.UNDIRECTED
    ends = torch.from_numpy(edges[::-1].copy() if config.direction is Direction.OUT else edges)
    kept, _ = clean_edges(ends, len(packages.names), undirected=not directed)
    labels, classes = _labels(packages.sections, config.min_class)
    indptr, indices, values = hashed_words(packages.descriptions, config.features)
    is_by_source = config.split is DebianSplit.SOURCE
    masks = hashed_masks(
        [n.encode() for n in (packages.sources if is_by_source else packages.names)]
    )
    return {
        "edge_index": kept.numpy().astype(np.int32),
        "x_indptr": indptr,
        "x_indices": indices,
        "x_data": values,
        "y": labels,
        "place": np.select([mask.numpy() for mask in masks], [0, 1, 2]).astype(np.int8),
        "classes": np.array(classes),
        "counts": np.array([edges.shape[1], unresolved]),
    }


def _edges(packages: Packages) -> tuple[np.ndarray, int]:
    """Return directed edges package → what it names, and how many names resolve to nothing."""
    place = {name: index for index, name in enumerate(packages.names)}
    found: dict[tuple[int, int], None] = {}
    unresolved = 0
    for index, relations in enumerate(packages.relations):
        for key in RELATIONS:
            for name in relations[key]:
                targets = [name] if name in place else packages.provides.get(name, [])
                unresolved += not targets
                for target in targets[:_MOST_PROVIDERS]:
                    if place[target] != index:
                        found[(index, place[target])] = None
    return np.array(list(found), dtype=np.int64).reshape(-1, 2).T, unresolved


def _labels(sections: list[str], min_class: int) -> tuple[np.ndarray, list[str]]:
    names, counts = np.unique(np.array(sections), return_counts=True)
    classes = [str(n) for n, c in zip(names, counts, strict=True) if c >= min_class and n]
    if not classes:
        raise UserError(
            f"no section holds {min_class} packages",
            setting="data.min_class",
            value=min_class,
            remedy="lower it",
        )
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number.get(section, -1) for section in sections]), classes


def _graph(arrays: dict[str, np.ndarray], config: DataConfig, digest: str) -> GraphData:
    place = torch.from_numpy(arrays["place"])
    labels = torch.from_numpy(arrays["y"].astype(np.int64))
    known = labels >= 0
    directed, unresolved = (int(count) for count in arrays["counts"])
    return GraphData(
        x=dense(arrays["x_indptr"], arrays["x_indices"], arrays["x_data"], config.features),
        edge_index=torch.from_numpy(arrays["edge_index"].astype(np.int64)),
        y=labels,
        train_mask=(place == 0) & known,
        val_mask=(place == 1) & known,
        test_mask=(place == 2) & known,
        num_classes=len(arrays["classes"]),
        name="debian",
        facts={
            "input_sha256": digest,
            "dependencies": directed,
            "unresolved_names": unresolved,
            "classes": [str(name) for name in arrays["classes"]],
        },
    )


# -------------------------------------------------------------------------------- lists and cache


def _read_lists(path: str) -> bytes:
    if path:
        return _read_file(Path(path))
    remedy = "run `apt-get update`, or give data.path=FILE, a Debian `Packages` file"
    apt = shutil.which("apt-cache")
    if apt is None:
        raise UserError("this machine has no apt-cache", setting="data.path", remedy=remedy)
    done = subprocess.run([apt, "dumpavail"], capture_output=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise UserError("this machine has no package lists", setting="data.path", remedy=remedy)
    return done.stdout


def _read_file(path: Path) -> bytes:
    """Return a file's text, unpacked if it begins as a packed file does."""
    try:
        raw = path.read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            return gzip.decompress(raw)
        if raw.startswith(b"\xfd7zXZ"):
            return lzma.decompress(raw)
        if raw.startswith(b"BZh"):
            return bz2.decompress(raw)
        if raw.startswith(b"\x04\x22\x4d\x18"):
            unpacked: bytes = import_module("lz4.frame").decompress(raw)
            return unpacked
    except ImportError as error:
        remedy = "pip install lz4, or unpack it first"
        raise UserError(
            "this file is packed with lz4", setting="data.path", value=str(path), remedy=remedy
        ) from error
    except (OSError, EOFError, RuntimeError, lzma.LZMAError, zlib.error) as error:
        raise UserError(
            f"the package list cannot be read: {error}",
            setting="data.path",
            value=str(path),
            remedy="give a Debian `Packages` file, plain or packed",
        ) from error
    return raw


def _load(file: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(file, allow_pickle=False) as held:
            return dict(held)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Keep arrays in the cache: to a temporary name, then renamed; a full disk is no error."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.partial")  # several ranks may write
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(file)
    except OSError:
        return
