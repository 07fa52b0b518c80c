"""The language side of LLaVA-OneVision with Qwen2 in plain torch modules, for processes that answer once.

transformers takes as long to import as torch and the answer together. Modules and tensors are called here as
there, so that checkpoints, branches and `tofc.language.blocks` find what they look for; tests hold the two
together, token by token.

This is a second holder of the same weights, not a second way to run them: `tofc.language` runs either.
`tofc.language.load` stays the first, because what it builds can do more than answer: other architectures,
grids of tiles, adapters, accelerators and other precisions, training and decomposition, and `generate` with
settings. To do all of that here would be to write transformers again. Confidences of the two differ in their
last bits, so whoever compares runs should have both by the same one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tofc.config import CONFIG_NAME, Checkpoint
from tofc.hub import read_json, small_files
from tofc.language.load import fill, is_language_side

_TEMPLATE, _TOKENIZER, _TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"
_KNOWN = {"hidden_act": "silu", "use_sliding_window": False, "model_type": "qwen2"}


def read_plain(checkpoint: Checkpoint, num_layers: int | None) -> tuple[Any, Any, str] | None:
    """Language side, tokenizer and chat template of a checkpoint; None for one of another kind than these.

    `num_layers`: only so many first blocks are read. Everything is float32, on the CPU.
    """
    if checkpoint.adapters is not None or checkpoint.config.tiling != "base":
        return None
    folder = small_files(checkpoint.base)
    values = read_json(folder / CONFIG_NAME)
    text = values.get("text_config", {})
    rope = text.get("rope_parameters") or {}
    named = {_TEMPLATE, _TOKENIZER, _TOKENIZER_CONFIG}
    if not (
        all((folder / name).is_file() for name in named)
        and all(text.get(key) == value for key, value in _KNOWN.items())
        and rope.get("rope_type") == "default"
        and values.get("projector_hidden_act") == "gelu"
        and "head_dim" not in text
        and {"image_token_index", "image_grid_pinpoints", "tie_word_embeddings"} <= values.keys()
    ):
        return None
    template = (folder / _TEMPLATE).read_text(encoding="utf-8")
    settings = read_json(folder / _TOKENIZER_CONFIG)
    if "endgeneration" in template or settings.get("clean_up_tokenization_spaces"):
        return None
    config = _namespace(values)
    # As `load_base_config` reads it: the published 0.5B is tied by its text_config alone.
    config.tie_word_embeddings = bool(config.tie_word_embeddings or text.get("tie_word_embeddings"))
    if num_layers is not None:
        config.text_config.num_hidden_layers = num_layers
    with torch.device("meta"):
        model = LanguageSide(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    fill(model.eval(), checkpoint.base, tied, is_language_side, "cpu", torch.float32)
    return model, PlainTokenizer(folder, settings), template


class _Config(SimpleNamespace):
    """What config.json says, as attributes."""

    def get_text_config(self) -> Any:
        """What it says of the language model."""
        return self.text_config


def _namespace(values: Mapping[str, Any]) -> _Config:
    return _Config(**{k: _namespace(v) if isinstance(v, dict) else v for k, v in values.items()})


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Nothing: the checkpoint fills it, and torch imports sympy to draw what is on no device."""


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Nothing, likewise."""


class RmsNorm(nn.Module):
    """States over their root mean square, times a weight (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(width)), eps

    def forward(self, states: Tensor) -> Tensor:
        """States of any shape [..., D]."""
        wide = states.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(states.dtype)


class Attention(nn.Module):
    """The projections of grouped-query attention; `tofc.language.blocks` attends."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, heads, shared = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.num_key_value_groups = width // heads, heads // shared
        self.scaling = self.head_dim**-0.5
        self.q_proj = _Linear(width, heads * self.head_dim, bias=True)
        self.k_proj = _Linear(width, shared * self.head_dim, bias=True)
        self.v_proj = _Linear(width, shared * self.head_dim, bias=True)
        self.o_proj = _Linear(heads * self.head_dim, width, bias=False)


class GatedMlp(nn.Module):
    """A gated linear unit with SiLU (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = _Linear(width, inner, bias=False)
        self.up_proj = _Linear(width, inner, bias=False)
        self.down_proj = _Linear(inner, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """States [..., D]."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))
        return out


class Qwen2DecoderLayer(nn.Module):
    """A block, which `tofc.language.blocks.CachedBlock` knows by this name and runs."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(config), GatedMlp(config)
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class RotaryTables(nn.Module):
    """Cosines and sines of rotary positions (Su et al., arXiv 2104.09864)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.hidden_size // config.num_attention_heads
        steps = torch.arange(0, size, 2, dtype=torch.int64, device="cpu").to(dtype=torch.float)
        self.frequencies = 1.0 / (config.rope_parameters.rope_theta ** (steps / size))

    def forward(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Tables [B, n, d] for positions [B, n], in the type of `like`."""
        angles = (self.frequencies[None, :, None] @ positions[:, None].float()).transpose(1, 2)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class _Text(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = _Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Qwen2DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryTables(config)


class _Projector(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        inputs, width = config.vision_config.hidden_size, config.text_config.hidden_size
        bias = getattr(config, "multimodal_projector_bias", True)
        self.linear_1 = _Linear(inputs, width, bias=bias)
        self.linear_2 = _Linear(width, width, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.linear_2(functional.gelu(self.linear_1(features)))
        return out


class _Body(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.language_model = _Text(config.text_config)
        self.multi_modal_projector = _Projector(config)
        self.image_newline = nn.Parameter(torch.empty(config.text_config.hidden_size))

    def pack_image_features(
        self, pictures: Sequence[Tensor], sizes: Any, image_newline: Tensor, **_: Any
    ) -> tuple[list[Tensor], None]:
        """One tile [1, N, D] a picture, and a newline behind it."""
        return [torch.cat([tile, image_newline[None]]) for (tile,) in pictures], None


class LanguageSide(nn.Module):
    """Projector, newline embedding and language model of a LLaVA-OneVision with Qwen2."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.model = config, _Body(config)
        text = config.text_config
        self.lm_head = _Linear(text.hidden_size, text.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.lm_head.weight.device

    def get_input_embeddings(self) -> nn.Module:
        """Embeddings of tokens."""
        return self.model.language_model.embed_tokens

    def tie_weights(self) -> None:
        """Lets the head share the embeddings' weight, where the config says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.language_model.embed_tokens.weight


class PlainTokenizer:
    """The tokenizer of a checkpoint by the library `tokenizers` alone, with its chat template."""

    chat_template = None  # stands beside it

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))  # transformers' name for it
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        given = {name: settings.get(name) for name in names}
        self._special = {n: t["content"] if isinstance(t, dict) else t for n, t in given.items() if t}

    def __call__(self, text: str) -> dict[str, list[int]]:
        """The ids of a text."""
        return {"input_ids": self.backend_tokenizer.encode(text).ids}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a token, None for none."""
        found: int | None = self.backend_tokenizer.token_to_id(token)
        return found

    @property
    def eos_token_id(self) -> int | None:
        """What ends a sequence."""
        return self._id_of("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        """What stands for what is not known."""
        return self._id_of("unk_token")

    @property
    def pad_token_id(self) -> int | None:
        """What fills up rows."""
        return self._id_of("pad_token")

    def _id_of(self, name: str) -> int | None:
        return self.convert_tokens_to_ids(self._special[name]) if name in self._special else None

    def apply_chat_template(self, turns: Any, chat_template: str, **options: Any) -> str:
        """A conversation as the template writes it, in the sandbox that transformers uses."""
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        sandbox = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        prompt = options["add_generation_prompt"]
        template = sandbox.from_string(chat_template)
        return template.render(messages=copy.copy(turns), add_generation_prompt=prompt, **self._special)
