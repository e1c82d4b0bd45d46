"""Trains the small Llama model that ships with this project.

Needs torch (``pip install -e .[train]``; its CPU build is enough). The text is a list of stories
with ``<|endoftext|>`` between them. A run that was interrupted goes on from its last checkpoint;
``--export`` writes the best weights so far, also while another process trains.
"""

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

try:
    import torch
    import torch.nn.functional as nnf
    from safetensors.torch import save as serialise
    from torch import Tensor, nn
except ImportError as missing:
    raise SystemExit(f"train_tiny needs torch: pip install -e '.[train]' ({missing})") from None

from tokenloom.sim.perplexity import SEPARATOR

END = 0
"""Token that starts and ends every story."""

HELD_OUT = 20
"""One of so many stories is not trained on: their loss chooses the best weights."""

BRANCHES_OUT = ("o_proj.weight", "down_proj.weight")
"""Matrices that write to the residual stream."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """Dimensions: they fit the preset `mini`, and the block RAM of an ECP5-85K."""

    width: int = 64
    ffn: int = 192
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 512
    positions: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_size(self) -> int:
        """Values per head."""
        return self.width // self.heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; stored in every checkpoint, because a resumed run must not change it."""

    steps: int = 3000
    batch: int = 8
    """Stories per step."""
    rate: float = 3e-3
    """Highest learning rate, after `warmup`; a cosine takes it to a hundredth of it."""
    warmup: int = 100
    decay: float = 0.1
    """AdamW's weight decay of matrices."""
    dropout: float = 0.0
    split: float = 0.1
    """Probability of a token to appear as the two that BPE merged, an augmentation that ends
    after 80 % of the steps."""
    seed: int = 1


# Text


def train_tokenizer(stories: list[str], vocab: int) -> Tokenizer:
    """Byte-level BPE: any text survives encoding and decoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SEPARATOR} $A", special_tokens=[(SEPARATOR, END)]
    )
    return tokenizer


def parents(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Per token the two that BPE merged into it, or -1."""
    pairs = np.full((tokenizer.get_vocab_size(), 2), -1)
    for pair in json.loads(tokenizer.to_str())["model"]["merges"]:
        left, right = pair if isinstance(pair, list) else pair.split(" ")
        pairs[tokenizer.token_to_id(left + right)] = [
            tokenizer.token_to_id(left),
            tokenizer.token_to_id(right),
        ]
    return pairs


def split_some(
    ids: NDArray[np.int64], pairs: NDArray[np.int64], share: float, random: np.random.Generator
) -> NDArray[np.int64]:
    """Write a share of the tokens as the two tokens that they were merged from."""
    chosen = (random.random(len(ids)) < share) & (pairs[ids, 0] >= 0)
    spread = np.repeat(ids, 1 + chosen)
    at = np.flatnonzero(chosen) + np.arange(int(chosen.sum()))
    spread[at], spread[at + 1] = pairs[ids[chosen]].T
    return spread


def read_stories(path: Path) -> list[str]:
    """The stories of a file, without the white space around them."""
    stories = [story.strip() for story in path.read_text(encoding="utf-8").split(SEPARATOR)]
    return [story for story in stories if story]


def encode(tokenizer: Tokenizer, stories: list[str]) -> list[NDArray[np.int64]]:
    """Token ids of each story, from its start token to its end token."""
    return [np.array([*tokenizer.encode(story).ids, END]) for story in stories]


def rows(sequences: list[NDArray[np.int64]], longest: int) -> tuple[Tensor, Tensor]:
    """Stories as a batch: inputs, and targets with -100 where nothing is to be predicted."""
    cut = [sequence[: longest + 1] for sequence in sequences]
    size = max(len(sequence) for sequence in cut) - 1
    inputs = torch.full((len(cut), size), END)
    targets = torch.full((len(cut), size), -100)
    for row, sequence in enumerate(cut):
        tokens = torch.from_numpy(sequence)
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, : len(tokens) - 1] = tokens[1:]
    return inputs, targets


def epoch_batches(
    stories: list[NDArray[np.int64]],
    pairs: NDArray[np.int64],
    recipe: Recipe,
    epoch: int,
    share: float,
    longest: int,
) -> list[tuple[Tensor, Tensor]]:
    """The batches of an epoch, a function of seed and epoch alone; stories of a batch have about
    the same length.
    """
    random = np.random.default_rng([recipe.seed, epoch])
    order = random.permutation(len(stories))
    lengths = np.array([len(stories[index]) for index in order])
    order = order[np.argsort(lengths + random.normal(0, 20, len(order)), kind="stable")]
    cuts = [order[at : at + recipe.batch] for at in range(0, len(order), recipe.batch)]
    batches = []
    for at in random.permutation(len(cuts)):
        chosen = [split_some(stories[index], pairs, share, random) for index in cuts[at]]
        batches.append(rows(chosen, longest))
    return batches


# Model


class Layer(nn.Module):
    """Attention and feed-forward network with their norms, names as in Hugging Face's files."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.shape, self.dropout = shape, nn.Dropout(dropout)
        queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        self.input_layernorm = nn.RMSNorm(shape.width, eps=shape.eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(shape.width, queries, bias=False),
                "k_proj": nn.Linear(shape.width, keys, bias=False),
                "v_proj": nn.Linear(shape.width, keys, bias=False),
                "o_proj": nn.Linear(queries, shape.width, bias=False),
            }
        )
        self.post_attention_layernorm = nn.RMSNorm(shape.width, eps=shape.eps)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(shape.width, shape.ffn, bias=False),
                "up_proj": nn.Linear(shape.width, shape.ffn, bias=False),
                "down_proj": nn.Linear(shape.ffn, shape.width, bias=False),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape, attention, mlp = self.shape, self.self_attn, self.mlp
        batch, size, _ = x.shape

        def heads(name: str, count: int) -> Tensor:
            return attention[name](norm).view(batch, size, count, shape.head_size).transpose(1, 2)

        def rotate(y: Tensor) -> Tensor:
            low, high = y.chunk(2, dim=-1)
            return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)

        norm = self.input_layernorm(x)
        group = shape.heads // shape.kv_heads
        mixed = nnf.scaled_dot_product_attention(
            rotate(heads("q_proj", shape.heads)),
            rotate(heads("k_proj", shape.kv_heads)).repeat_interleave(group, dim=1),
            heads("v_proj", shape.kv_heads).repeat_interleave(group, dim=1),
            is_causal=True,
        )
        x = x + self.dropout(attention["o_proj"](mixed.transpose(1, 2).flatten(2)))
        norm = self.post_attention_layernorm(x)
        hidden = nnf.silu(mlp["gate_proj"](norm)) * mlp["up_proj"](norm)
        return x + self.dropout(mlp["down_proj"](hidden))


class Llama(nn.Module):
    """The model; the head is the embedding."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.eps)
        self.dropout = nn.Dropout(dropout)
        rates = shape.theta ** -(torch.arange(0, shape.head_size, 2) / shape.head_size)
        phase = torch.arange(shape.positions)[:, None] * rates
        self.register_buffer("cos", phase.cos(), persistent=False)
        self.register_buffer("sin", phase.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                spread = 0.05 if name.startswith("embed") else weight.shape[1] ** -0.5
                if name.endswith(BRANCHES_OUT):
                    spread /= math.sqrt(2 * shape.layers)
                nn.init.normal_(weight, std=spread)

    def forward(self, ids: Tensor) -> Tensor:
        size = ids.shape[1]
        x = self.dropout(self.embed_tokens(ids))
        for layer in self.layers:
            x = layer(x, self.cos[:size], self.sin[:size])
        return nnf.linear(self.norm(x), self.embed_tokens.weight)


def story_loss(model: Llama, stories: list[NDArray[np.int64]], longest: int) -> tuple[float, int]:
    """Nats and number of the predicted tokens; the token that ends a story is not scored."""
    model.eval()
    nats, count = 0.0, 0
    with torch.no_grad():
        for story in stories:
            inputs, targets = rows([story[:-1]], longest)
            nats += float(nnf.cross_entropy(model(inputs)[0], targets[0], reduction="sum"))
            count += targets.shape[1]
    model.train()
    return nats, count


def measure(
    model: Llama, tokenizer: Tokenizer, stories: list[str], longest: int
) -> dict[str, float]:
    """Loss in nats per token, and bits per byte of the text that was scored."""
    ids = encode(tokenizer, stories)
    nats, count = story_loss(model, ids, longest)
    scored = sum(len(tokenizer.decode(each[1 : longest + 1].tolist()).encode()) for each in ids)
    return {"loss": nats / count, "bits_per_byte": nats / math.log(2) / scored}


# Training


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear to the highest rate, then a cosine."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def save(state: dict[str, Any], path: Path) -> None:
    """Write a file that is either whole or not there."""
    scratch = path.with_suffix(".part")
    torch.save(state, scratch)
    scratch.replace(path)


def describe(recipe: Recipe, shape: Shape) -> dict[str, Any]:
    """What a checkpoint says about itself."""
    return {"recipe": dataclasses.asdict(recipe), "shape": dataclasses.asdict(shape)}


def train(
    text: Path,
    work: Path,
    recipe: Recipe,
    shape: Shape,
    *,
    every: int = 100,
    stop: int | None = None,
) -> None:
    """Train, or go on; leaves tokenizer.json, last.pt and best.pt in `work`.

    Every `every` steps the held-out loss is measured and a checkpoint written; `stop` interrupts
    the run after that step.
    """
    work.mkdir(parents=True, exist_ok=True)
    stories = read_stories(text)
    held = stories[::HELD_OUT]
    kept = [story for index, story in enumerate(stories) if index % HELD_OUT]
    tokenizer = train_tokenizer(kept, shape.vocab)
    tokenizer.save(str(work / "tokenizer.json"))
    pairs, ids = parents(tokenizer), encode(tokenizer, kept)
    torch.manual_seed(recipe.seed)
    model = Llama(shape, recipe.dropout)
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    gains = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.99))
    start, best = 0, math.inf
    if (work / "last.pt").is_file():
        state = torch.load(work / "last.pt", weights_only=True)
        if {key: state[key] for key in ("recipe", "shape")} != describe(recipe, shape):
            raise SystemExit(
                f"{work / 'last.pt'} was begun with {state['recipe']} and {state['shape']}: use "
                "the same settings, or another --work"
            )
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        start, best = state["step"], state["best"]
    parameters = sum(weight.numel() for weight in model.parameters())
    print(
        f"{parameters:,} parameters, {len(ids)} stories, {sum(map(len, ids)):,} tokens; "
        f"beginning at step {start}",
        flush=True,
    )

    per_epoch = -(-len(ids) // recipe.batch)
    began, shown, epoch = time.monotonic(), math.nan, -1
    batches: list[tuple[Tensor, Tensor]] = []
    for step in range(start, min(recipe.steps, stop or recipe.steps)):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            share = recipe.split if epoch * per_epoch < 0.8 * recipe.steps else 0.0
            batches = epoch_batches(ids, pairs, recipe, epoch, share, shape.positions)
        inputs, targets = batches[step % per_epoch]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = nnf.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        latest = loss.item()
        shown = latest if math.isnan(shown) else 0.98 * shown + 0.02 * latest
        done = step + 1
        if done % every and done != recipe.steps:
            continue
        measured = measure(model, tokenizer, held, shape.positions)
        state = {"model": model.state_dict(), "step": done, **measured, **describe(recipe, shape)}
        if measured["loss"] < best:
            best = measured["loss"]
            save(state, work / "best.pt")
        rest = {"optimiser": optimiser.state_dict(), "random": torch.get_rng_state(), "best": best}
        save({**state, **rest}, work / "last.pt")
        left = (time.monotonic() - began) / (done - start) * (recipe.steps - done)
        print(
            f"step {done}/{recipe.steps}, epoch {epoch}: train {shown:.3f}, held out "
            f"{measured['loss']:.4f} ({measured['bits_per_byte']:.4f} bits per byte), best "
            f"{best:.4f}, {left / 60:.0f} min left",
            flush=True,
        )


# Export


def export(work: Path, out: Path, text: Path, evaluation: Path | None = None) -> dict[str, Any]:
    """Write the best weights so far in Hugging Face layout; returns what the card says."""
    state = torch.load(work / "best.pt", weights_only=True)
    shape, recipe = Shape(**state["shape"]), Recipe(**state["recipe"])
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    rounded = {name: weight.to(torch.bfloat16) for name, weight in state["model"].items()}
    model = Llama(shape, 0.0)
    model.load_state_dict(rounded)
    stories = read_stories(text)
    figures = {
        "parameters": sum(weight.numel() for weight in rounded.values()),
        "step": state["step"],
        "held-out": measure(model, tokenizer, stories[::HELD_OUT], shape.positions),
    }
    if evaluation is not None:
        figures["evaluation"] = measure(model, tokenizer, read_stories(evaluation), shape.positions)
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": weight.contiguous() for name, weight in rounded.items()}
    # Written as bytes, because the library's own file is readable by its owner only.
    (out / "model.safetensors").write_bytes(serialise(weights, metadata={"format": "pt"}))
    # One line: the indented form is four times as long.
    (out / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")
    special = {"bos_token_id": END, "eos_token_id": END}
    files = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": shape.width,
            "intermediate_size": shape.ffn,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_size,
            "vocab_size": shape.vocab,
            "max_position_embeddings": shape.positions,
            "rms_norm_eps": shape.eps,
            "rope_theta": shape.theta,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            **special,
        },
        "generation_config.json": special,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SEPARATOR,
            "eos_token": SEPARATOR,
            "add_bos_token": True,
            "model_max_length": shape.positions,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(shape, recipe, figures, text, evaluation), encoding="utf-8")
    return figures


def card(
    shape: Shape, recipe: Recipe, figures: dict[str, Any], text: Path, evaluation: Path | None
) -> str:
    """The model card."""
    changed = "".join(
        f" --{field.name} {getattr(recipe, field.name)}"
        for field in dataclasses.fields(Recipe)
        if getattr(recipe, field.name) != field.default
    )
    lines = [
        "---",
        "license: apache-2.0",
        "language: en",
        "pipeline_tag: text-generation",
        "---",
        "",
        "# tiny",
        "",
        f"A Llama model of {figures['parameters']:,} parameters that continues children's stories "
        "in simple English, and can do nothing else. It is there to test an inference chip with "
        "a model that fits in an FPGA's block RAM.",
        "",
        f"* Width {shape.width}, {shape.layers} layers, {shape.heads} heads of {shape.head_size} "
        f"({shape.kv_heads} KV heads), feed-forward {shape.ffn}, byte-level BPE of {shape.vocab} "
        f"tokens, {shape.positions} positions, tied embedding, bf16.",
        f"* Data: `{text.name}` ({text.stat().st_size:,} bytes), an excerpt of TinyStories "
        "(Hugging Face: roneneldan/TinyStories, CDLA-Sharing-1.0).",
        f"* Command: `python scripts/train_tiny.py {text.name}{changed}`; one CPU thread. These "
        f"are the best weights by held-out loss, after step {figures['step']} of {recipe.steps} "
        f"({recipe.batch} stories each); the schedule, the seed and all other settings are the "
        "script's defaults.",
        "",
        "| text | nats per token | bits per byte |",
        "|---|---|---|",
    ]
    texts = {"held-out": f"one of {HELD_OUT} stories of the data, not trained on"}
    if evaluation is not None:
        texts["evaluation"] = f"`{evaluation.name}`, other stories"
    for key, name in texts.items():
        figure = figures[key]
        lines.append(f"| {name} | {figure['loss']:.4f} | {figure['bits_per_byte']:.4f} |")
    lines += ["", f"Each story is scored for itself behind `{SEPARATOR}`, in float32.", ""]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path, help="the stories")
    parser.add_argument("--work", type=Path, default=Path("build/tiny"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=Path("models/tiny"), help="the model's folder")
    parser.add_argument("--evaluate", type=Path, help="other stories, scored for the model card")
    parser.add_argument(
        "--export", action="store_true", help="write the best so far, train no more"
    )
    parser.add_argument("--threads", type=int, default=1, help="other counts give other bits")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.export:
        recipe = Recipe(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe)})
        train(args.text, args.work, recipe, Shape())
    print(json.dumps(export(args.work, args.out, args.text, args.evaluate), indent=2))


if __name__ == "__main__":
    main()
