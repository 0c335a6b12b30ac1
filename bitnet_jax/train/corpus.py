"""Text to train on: what every machine with Python has, and what a user brings.

The built-in corpus is the Python standard library: its sources (with their
docstrings), the language reference that `help()` prints, and the docstrings of
the modules written in C. Which documents are held out depends on their name
alone, so that a file added or removed moves no other. Knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet_jax.core.errors import BadData, NoInput, few
from bitnet_jax.core.paths import os_failure

# Folders that hold no text worth learning: tests repeat literals, `encodings` are
# tables of code points, the others are not the library's own.
SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"}
)
# Modules written in C: their docstrings stand in no source file.
C_MODULES = ("builtins", "itertools", "math", "cmath", "time", "sys", "gc", "errno", "_struct")
HELDOUT_ONE_IN = 20
TEXT_SUFFIXES = (".txt", ".md", ".py", ".jsonl")  # of a folder's files, those that are text
MIN_FILE_BYTES = 200


@dataclass(frozen=True)
class Document:
    """One text and the name it goes by (a relative path, or `file:line`)."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order; `train` and `heldout` share none.

    Attributes:
      train, heldout: the documents.
      source: where they came from, for the record.
      skipped: files left out, and why (binary, too small, over the budget are not errors).
    """

    train: tuple[Document, ...]
    heldout: tuple[Document, ...]
    source: str
    skipped: tuple[str, ...] = ()

    def report(self) -> dict:
        """Returns files, bytes and SHA-256 of both parts (names and texts, in order)."""
        return {
            "source": self.source,
            "train": _summary(self.train),
            "heldout": _summary(self.heldout),
            "skipped": len(self.skipped),
        }


def _summary(documents: Sequence[Document]) -> dict:
    digest = hashlib.sha256()
    total = 0
    for document in documents:
        data = document.text.encode()
        total += len(data)
        for part in (document.name.encode(), data):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return {"files": len(documents), "bytes": total, "sha256": digest.hexdigest()}


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def is_heldout(name: str, one_in: int = HELDOUT_ONE_IN) -> bool:
    """Returns whether a document is held out; a function of its name alone."""
    # Another hash than the order's, else the held-out files would be the first ones.
    return _rank("heldout/" + name) % one_in == 0


def python_corpus(max_bytes: int = 16_000_000) -> Corpus:
    """Returns the corpus of this machine's Python standard library.

    As long as `max_bytes` (of source text) is not reached every file is taken; with
    less, a fixed pseudo-random choice of them.

    Raises:
      NoInput: this Python has no library sources (a zipped or stripped build).
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped: list[str] = []
    documents = [*_library_sources(root, skipped), *_help_topics(), *_c_docstrings()]
    if sum(len(d.text) for d in documents) < 200_000:
        raise NoInput(
            "train.corpus_missing",
            f"`{root}` holds too few Python sources to train on",
            "use a Python with its standard library as files, or give your own text as data",
        )
    chosen, total = [], 0
    for document in sorted(documents, key=lambda d: (_rank(d.name), d.name)):
        size = len(document.text.encode())
        if total + size > max_bytes:
            skipped.append(f"{document.name}: over the budget of {max_bytes} bytes")
            continue
        total += size
        chosen.append(document)
    return _split(chosen, "python standard library", skipped)


def read_files(paths: Iterable[str | Path], text_key: str = "text") -> Corpus:
    """Returns the corpus in a user's files.

    A file is one document; each line of a `.jsonl` one is a document, its text
    under `text_key`. A folder gives every `.txt`, `.md`, `.py` and `.jsonl` in it.

    Raises:
      NoInput: a path does not exist.
      BadData: not UTF-8, a broken line of JSON, or too little text to hold some out.
    """
    asked = list(paths)
    documents = [d for path in asked for file in _expand(Path(path)) for d in _read(file, text_key)]
    if not documents:
        names = few([str(path) for path in asked])
        raise BadData("train.data_empty", f"there is no text in {names}", "give files with text")
    corpus = _split(documents, "files", ())
    # Few documents: no name may happen to be chosen. The last twentieth of the
    # last document is then held out.
    return corpus if corpus.heldout and corpus.train else _split_by_length(documents)


def _library_sources(root: Path, skipped: list[str]) -> Iterator[Document]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(
            name
            for name in subfolders
            if name not in SKIPPED_FOLDERS and not name.startswith("config-")
        )
        for file in sorted(files):
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            # `_sysconfigdata*` is one machine's build flags, `topics.py` comes below as prose.
            if path.suffix != ".py" or file.startswith("_sysconfigdata") or file == "topics.py":
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError) as error:
                skipped.append(f"{name}: {error}")
                continue
            if len(text) < MIN_FILE_BYTES:
                skipped.append(f"{name}: too small")
                continue
            yield Document(name, text)


def _help_topics() -> Iterator[Document]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # Stripped builds lack it; the report's byte count shows it.
        return
    for name in sorted(topics):
        yield Document(f"help/{name}", topics[name].strip() + "\n")


def _c_docstrings() -> Iterator[Document]:
    for name in C_MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:  # Which modules are built in differs between builds.
            continue
        text = "\n\n".join(_docstrings(name, module))
        if len(text) >= MIN_FILE_BYTES:
            yield Document(f"docstrings/{name}", text + "\n")


def _docstrings(module_name: str, module: object) -> Iterator[str]:
    for name, value in sorted(vars(module).items()):
        # Only what the module itself defines: `sys.modules` and the like hold others' text.
        if name.startswith("_") or not (isinstance(value, type) or callable(value)):
            continue
        if isinstance(value.__doc__, str):
            yield f"{module_name}.{name}\n\n{value.__doc__.strip()}"
        for attribute, member in sorted(vars(value).items()) if isinstance(value, type) else ():
            doc = getattr(member, "__doc__", None)
            if not attribute.startswith("_") and isinstance(doc, str):
                yield f"{module_name}.{name}.{attribute}\n\n{doc.strip()}"


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES and p.is_file())
    return [path]


def _read(path: Path, text_key: str) -> Iterator[Document]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadData(
            "train.data_not_text", f"`{path}` is not UTF-8 text: {error}", "convert it to UTF-8"
        ) from error
    except OSError as error:
        raise os_failure(error, "read", path) from error
    if path.suffix != ".jsonl":
        if text:
            yield Document(path.name, text)
        return
    # Not splitlines(): it also breaks at U+2028, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise BadData(
                "train.data_json", f"`{where}` is not JSON: {error}", "one JSON object a line"
            ) from error
        if not isinstance(value, dict) or not isinstance(value.get(text_key), str):
            raise BadData(
                "train.data_key",
                f"`{where}` has no string under `{text_key}`",
                f'each line must be an object like {{"{text_key}": "..."}}',
            )
        yield Document(where, value[text_key])


def _split(documents: Sequence[Document], source: str, skipped: Sequence[str]) -> Corpus:
    return Corpus(
        train=tuple(d for d in documents if not is_heldout(d.name)),
        heldout=tuple(d for d in documents if is_heldout(d.name)),
        source=source,
        skipped=tuple(skipped),
    )


def _split_by_length(documents: Sequence[Document]) -> Corpus:
    *rest, last = documents
    cut = len(last.text) - max(1, len(last.text) // HELDOUT_ONE_IN)
    return Corpus(
        train=(*rest, Document(last.name, last.text[:cut])),
        heldout=(Document(f"{last.name}#tail", last.text[cut:]),),
        source="files",
    )
