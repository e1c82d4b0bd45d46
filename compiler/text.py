"""Text to token ids and back, and chat templates."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.gguf_file import GgufTokenizer, gguf_tokenizer
from tokenloom.compiler.hf_dir import read_json

__all__ = ["StreamDecoder", "Text", "gguf_text", "hf_text"]

_INCOMPLETE = "\ufffd"
"""What decoders put in place of bytes that are not, or not yet, a character."""

_CONTROL, _USER_DEFINED = 3, 4
"""GGUF token types that are recognised in the text before BPE."""

_LLAMA3_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_DIGIT_PRES = ("smollm", "starcoder")
"""GGUF pre-tokenizers that cut digits one by one, then words as GPT-2 does."""

_PRES = (*_DIGIT_PRES, "gpt-2", "llama-bpe")


class Text:
    """A model's tokenizer and chat template.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Vocabulary and rules.
    bos : int or None
        Token that every text starts with; None if texts of this model start without one.
    eos : tuple of int
        Tokens that end a text or a turn.
    template : str or None
        Chat template in the Jinja language.
    bos_text, eos_text : str
        The special tokens as a template writes them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        bos: int | None,
        eos: tuple[int, ...],
        template: str | None = None,
        bos_text: str = "",
        eos_text: str = "",
    ) -> None:
        self._tokenizer = tokenizer
        self._bos = bos
        self._eos = eos
        self._template = template
        self._names = {"bos_token": bos_text, "eos_token": eos_text}
        self._special = frozenset(
            token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special
        )

    @property
    def bos(self) -> int | None:
        """Token that every text starts with, or None."""
        return self._bos

    @property
    def eos(self) -> tuple[int, ...]:
        """Tokens that end a text or a turn."""
        return self._eos

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Return the token ids of a text.

        Parameters
        ----------
        text : str
            Special tokens written out in it are recognised.
        bos : bool
            Start with the model's start token, if its texts have one. False for the output of
            `chat`, whose template writes it itself.

        Returns
        -------
        list of int
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [self._bos, *ids] if bos and self._bos is not None else ids

    def unknown(self, text: str) -> list[str]:
        """Characters of a text that have no token, in their order, each once.

        Such a one becomes the unknown token if the tokenizer has one, and otherwise disappears.
        """
        mark = getattr(self._tokenizer.model, "unk_token", None)
        token = None if mark is None else self._tokenizer.token_to_id(mark)

        def known(character: str) -> bool:
            ids = self._tokenizer.encode(character, add_special_tokens=False).ids
            return bool(ids) and token not in ids

        return [character for character in dict.fromkeys(text) if not known(character)]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of token ids.

        Parameters
        ----------
        ids : sequence of int
        special : bool
            Write special tokens out instead of leaving them out.

        Returns
        -------
        str
            Bytes that are no valid UTF-8 appear as U+FFFD.
        """
        # The library's own skipping overlooks special tokens that are marked as normalised.
        kept = [token for token in ids if special or token not in self._special]
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))

    def is_special(self, token: int) -> bool:
        """Whether a token is a mark and not text."""
        return token in self._special

    def decoder(self, prompt: Sequence[int] = ()) -> "StreamDecoder":
        """Return a decoder for tokens that follow a prompt and arrive one by one.

        Parameters
        ----------
        prompt : sequence of int
            What came before; it decides whether the first token keeps its leading space.

        Returns
        -------
        StreamDecoder
        """
        return StreamDecoder(self, prompt)

    def chat(
        self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True
    ) -> str | None:
        """Write a conversation as the model was trained to see it.

        Parameters
        ----------
        messages : sequence of dict
            Each with the keys ``role`` and ``content``.
        add_generation_prompt : bool
            End with the start of the assistant's turn.

        Returns
        -------
        str or None
            None if the model has no chat template.

        Raises
        ------
        ModelError
            If the template refuses the messages or is broken.
        """
        if self._template is None:
            return None
        # A template comes with a model, from anywhere: it must not reach Python's internals.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        environment.filters["tojson"] = _to_json
        try:
            return environment.from_string(self._template).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **self._names,
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise ModelError(f"the model's chat template failed: {error}") from error


class StreamDecoder:
    """Turns tokens that arrive one by one into text, whole characters at a time.

    Parameters
    ----------
    text : Text
        The tokenizer.
    prompt : sequence of int
        Tokens before the first one; their text is not emitted.
    """

    def __init__(self, text: Text, prompt: Sequence[int] = ()) -> None:
        self._text = text
        # The end of the prompt is context enough: no decoder looks further back.
        self._ids = [token for token in prompt[-8:] if not text.is_special(token)]
        self._done = text.decode(self._ids)
        self._kept = len(self._ids)

    def push(self, token: int) -> str:
        """Take a token and return the text that is certain now.

        Parameters
        ----------
        token : int

        Returns
        -------
        str
            Empty for special tokens and while a character is incomplete.
        """
        if self._text.is_special(token):
            return ""
        self._ids.append(token)
        whole = self._text.decode(self._ids)
        if whole.endswith(_INCOMPLETE):
            return ""
        return self._emit(whole)

    def finish(self) -> str:
        """Return what is left, with U+FFFD for a character that never became complete."""
        return self._emit(self._text.decode(self._ids))

    def _emit(self, whole: str) -> str:
        fresh = whole[len(self._done) :]
        # Only the tokens since the last emission stay as context, so a step's cost is constant.
        self._ids = self._ids[self._kept :] or self._ids
        self._kept = len(self._ids)
        self._done = self._text.decode(self._ids)
        return fresh


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # Jinja's own escapes HTML


def hf_text(path: str | Path, eos: tuple[int, ...] = ()) -> Text:
    """Read ``tokenizer.json`` and ``tokenizer_config.json`` from a folder.

    Parameters
    ----------
    path : str or Path
        The model's folder.
    eos : tuple of int
        Tokens that end a text; the tokenizer config's own is added.

    Returns
    -------
    Text

    Raises
    ------
    ModelError
        If a file is missing or broken.
    """
    folder = Path(path)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"{folder}: needs tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"{file}: not a tokenizer ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    bos_text, eos_text = (_token_text(config.get(key)) for key in ("bos_token", "eos_token"))

    start = tokenizer.encode("", add_special_tokens=True).ids
    bos = start[0] if start and start[0] not in eos[:1] else None
    if config.get("add_bos_token") is not None:
        bos = tokenizer.token_to_id(bos_text) if config["add_bos_token"] else None
    end = tokenizer.token_to_id(eos_text) if eos_text else None
    ends = tuple(dict.fromkeys((*eos, *(() if end is None else (end,)))))
    return Text(
        tokenizer,
        bos=bos,
        eos=ends,
        template=_template(folder, config),
        bos_text=bos_text,
        eos_text=eos_text,
    )


def _token_text(entry: Any) -> str:
    """Return a special token's text; configs write it as a string or as an object."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else ""


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def gguf_text(path: str | Path) -> Text:
    """Build the tokenizer that a GGUF file describes.

    Parameters
    ----------
    path : str or Path
        A ``.gguf`` file with a byte-level BPE ("gpt2") or SentencePiece ("llama") tokenizer.

    Returns
    -------
    Text

    Raises
    ------
    ModelError
        If the file is broken or its kind of tokenizer is not supported.
    """
    data = gguf_tokenizer(path)
    try:
        match data.model:
            case "gpt2":
                tokenizer, default_bos = _byte_level(data, path), data.pre == "llama-bpe"
            case "llama":
                tokenizer, default_bos = _sentencepiece(data, path), True
            case _:
                raise ModelError(
                    f"{path}: the tokenizer {data.model!r} is not supported; allowed are 'gpt2' "
                    "and 'llama'"
                )
        tokenizer.add_tokens(
            [
                AddedToken(token, special=kind == _CONTROL, normalized=False)
                for token, kind in zip(data.tokens, data.types, strict=True)
                if kind in (_CONTROL, _USER_DEFINED)
            ]
        )
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: its tokenizer is broken ({error})") from error
    names = [
        "" if token is None or token >= len(data.tokens) else data.tokens[token]
        for token in (data.bos, data.eos[0] if data.eos else None)
    ]
    add_bos = default_bos if data.add_bos is None else data.add_bos
    return Text(
        tokenizer,
        bos=data.bos if add_bos else None,
        eos=data.eos,
        template=data.chat_template,
        bos_text=names[0],
        eos_text=names[1],
    )


def _vocabulary(data: GgufTokenizer, path: str | Path) -> dict[str, int]:
    vocabulary = {token: index for index, token in enumerate(data.tokens)}
    if len(vocabulary) != len(data.tokens):
        raise ModelError(f"{path}: its tokenizer lists a token twice")
    return vocabulary


def _byte_level(data: GgufTokenizer, path: str | Path) -> Tokenizer:
    """Byte-level BPE, with the cut into words that the file names."""
    if data.pre not in _PRES:
        raise ModelError(
            f"{path}: the pre-tokenizer {data.pre!r} is not supported; allowed are "
            + ", ".join(_PRES)
        )
    merges: list[tuple[str, str]] = []
    for merge in data.merges:
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise ModelError(f"{path}: its tokenizer has a broken merge {merge!r}")
        merges.append((left, right))
    llama3 = data.pre == "llama-bpe"
    tokenizer = Tokenizer(BPE(vocab=_vocabulary(data, path), merges=merges, ignore_merges=llama3))
    first: list[Any] = []
    if llama3:
        first = [pre_tokenizers.Split(Regex(_LLAMA3_CUT), behavior="isolated")]
    elif data.pre in _DIGIT_PRES:
        first = [pre_tokenizers.Digits(individual_digits=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not llama3)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(data: GgufTokenizer, path: str | Path) -> Tokenizer:
    """SentencePiece BPE: a merge is any pair of tokens whose union is a token, by its score."""
    if len(data.scores) != len(data.tokens):
        raise ModelError(f"{path}: {len(data.tokens)} tokens, but {len(data.scores)} scores")
    vocabulary = _vocabulary(data, path)
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, score, kind in zip(data.tokens, data.scores, data.types, strict=True):
        if kind != 1:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-score, vocabulary[left], vocabulary[right], (left, right)))
    ranked.sort()
    unknown = data.tokens[data.types.index(2)] if 2 in data.types else None
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=[pair for *_, pair in ranked],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prepend = [normalizers.Prepend("▁")] if data.add_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if data.add_space_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer
