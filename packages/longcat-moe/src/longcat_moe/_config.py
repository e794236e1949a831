"""The shape of a LongCat-Flash model: `config.json`, checked whole when it is built.

Field names are those of the released `config.json`; derived numbers are properties.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._config_json import MODEL_TYPES, read_fields, read_json
from ._rotary import YarnScaling
from ._sparse import SparseAttention, Window

_MAY_BE_ZERO = (
    "zero_expert_num", "bos_token_id", "eos_token_id", "ngram_vocab_size_ratio",
    "num_nextn_predict_layers",
)  # fmt: skip

_MOST = {
    "vocab_size": 1 << 26, "hidden_size": 1 << 18, "num_layers": 1 << 10,
    "num_attention_heads": 1 << 12, "q_lora_rank": 1 << 18, "kv_lora_rank": 1 << 18,
    "qk_nope_head_dim": 1 << 16, "qk_rope_head_dim": 1 << 16, "v_head_dim": 1 << 16,
    "ffn_hidden_size": 1 << 20, "expert_ffn_hidden_size": 1 << 20, "n_routed_experts": 1 << 16,
    "zero_expert_num": 1 << 16, "max_position_embeddings": 1 << 40, "emb_neighbor_num": 64,
    "emb_split_num": 64, "ngram_vocab_size_ratio": 1e6, "routed_scaling_factor": 1e6,
    "bos_token_id": 1 << 26, "eos_token_id": 1 << 26, "rope_theta": 1e30,
    "initializer_range": 1e3, "rms_norm_eps": 1.0,
}  # fmt: skip
"""Far beyond any model there is: a slip of the pen ends here, not in memory that nobody has."""

NORMS = ("pre", "post", "deep", "span", "mix", "hybrid", "peri")
"""See `_norms.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongcatConfig:
    """Sizes of a LongCat-Flash model. The defaults are those of the released 560B model.

    Example:
        >>> LongcatConfig().num_active_ffn_experts
        8.0

    Raises:
        ValueError: A size is not positive, or `moe_topk` exceeds the number of experts.
    """

    vocab_size: int = 131072
    hidden_size: int = 6144
    num_layers: int = 28
    """Each holds two attentions, two dense FFNs and one shortcut MoE."""
    num_attention_heads: int = 64
    q_lora_rank: int = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    ffn_hidden_size: int = 12288
    expert_ffn_hidden_size: int = 2048
    n_routed_experts: int = 512
    zero_expert_num: int = 256
    moe_topk: int = 12
    routed_scaling_factor: float = 6.0
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000_000.0
    rope_scaling: YarnScaling | None = None
    """YaRN, in models that were trained on longer contexts later."""
    max_position_embeddings: int = 131072
    initializer_range: float = 0.02
    bos_token_id: int = 1
    eos_token_id: int = 2
    ngram_vocab_size_ratio: float = 0.0
    """Rows of an n-gram table over `vocab_size`; 0 for no n-gram embeddings."""
    emb_neighbor_num: int = 4
    """The longest n-gram, the token itself included."""
    emb_split_num: int = 4
    """Tables per length of n-gram."""
    emb_amplify: bool = False
    """Multiply what is embedded by sqrt(hidden_size), so that attention does not drown it."""
    num_nextn_predict_layers: int = 0
    """1 for a multi-token prediction head."""
    sparse_attention: SparseAttention | None = None
    """Which attentions see a window alone, in ZigZag models."""
    norm: str = "pre"
    """Where norms stand: see `NORMS`. Released models are `pre`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_number(field.name, str(field.type), getattr(self, field.name))
        if self.moe_topk > self.num_experts:
            raise ValueError(
                f"moe_topk={self.moe_topk} must not exceed n_routed_experts + zero_expert_num = "
                f"{self.num_experts}"
            )
        if self.num_nextn_predict_layers > 1:
            raise ValueError(
                f"num_nextn_predict_layers must be 0 or 1, got {self.num_nextn_predict_layers}"
            )
        if self.rope_scaling is not None and self.rope_theta <= 1:
            raise ValueError(f"rope_theta must be above 1 with YaRN, got {self.rope_theta}")
        if self.emb_amplify and not self.has_ngrams:
            raise ValueError("emb_amplify needs n-gram embeddings: ngram_vocab_size_ratio above 0")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        sparse = self.sparse_attention
        if sparse is not None and len(sparse.layer_type) != self.num_attentions:
            raise ValueError(
                f"layer_type must have a digit for each of {self.num_attentions} attentions, got "
                f"{len(sparse.layer_type)}"
            )
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim={self.qk_rope_head_dim} must be even")
        num_tables = (self.emb_neighbor_num - 1) * self.emb_split_num
        if self.has_ngrams and (num_tables < 1 or self.hidden_size % num_tables):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be divisible by the number of n-gram tables, "
                f"(emb_neighbor_num - 1) * emb_split_num = {num_tables}"
            )

    @property
    def num_experts(self) -> int:
        """FFN experts plus identity experts: the width of the router."""
        return self.n_routed_experts + self.zero_expert_num

    @property
    def num_attentions(self) -> int:
        """Two per layer; the cache slot of attention `i` in layer `l` is `2 * l + i`."""
        return 2 * self.num_layers

    @property
    def qk_head_dim(self) -> int:
        """Width of one query or key head, content part plus rotary part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """What the cache holds per token and attention: `kv_lora_rank + qk_rope_head_dim`."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def window_of(self, attention: int) -> Window | None:
        """What an attention sees, if not all; the prediction head's is the last, and sparse too."""
        sparse = self.sparse_attention
        if sparse is None or sparse.layer_type[attention : attention + 1] == "0":
            return None
        return sparse.window

    @property
    def has_ngrams(self) -> bool:
        """Whether tokens are embedded together with those before them."""
        return self.ngram_vocab_size_ratio > 0

    @property
    def model_type(self) -> str:
        """As in `config.json`."""
        return "longcat_flash_ngram" if self.has_ngrams else "longcat_flash"

    @property
    def num_active_ffn_experts(self) -> float:
        """The target K_e: `moe_topk` times the FFN share of all experts (8 in the 560B model)."""
        return self.moe_topk * self.n_routed_experts / self.num_experts

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LongcatConfig:
        """Build from the content of a `config.json`; keys that change nothing here are ignored.

        Raises:
            ValueError: A key asks for a computation that is not implemented here, or is not known.
        """
        return cls(**read_fields(values, [field.name for field in dataclasses.fields(cls)]))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LongcatConfig:
        """Read `config.json` of a checkpoint folder."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"a checkpoint folder must hold config.json, none at {path}")
        return cls.from_dict(read_json(path))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `config.json`, as transformers and vLLM read it."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        theta, yarn = own.pop("rope_theta"), own.pop("rope_scaling")
        sparse = own.pop("sparse_attention")
        if sparse is not None:
            own["streaming_sparse_attention"] = sparse.to_dict()
        if not self.has_ngrams:
            for name in [name for name in own if name.startswith(("ngram_", "emb_"))]:
                del own[name]
        for name, default in (("num_nextn_predict_layers", 0), ("norm", "pre")):
            if own[name] == default:
                del own[name]
        rope: dict[str, Any] = {"rope_theta": theta, "rope_type": "default"}
        if yarn is not None:
            rope |= {"rope_type": "yarn", **yarn.to_dict()}
        return {
            "architectures": [MODEL_TYPES[self.model_type]],
            "model_type": self.model_type,
            **own,
            "attention_bias": False,
            "attention_method": "MLA",
            "head_dim": self.qk_rope_head_dim,
            "hidden_act": "silu",
            "mla_scale_kv_lora": True,
            "mla_scale_q_lora": True,
            "norm_topk_prob": False,
            "num_hidden_layers": self.num_attentions,
            "rope_parameters": rope,
            "rope_theta": theta,
            "router_bias": False,
            "tie_word_embeddings": False,
            "zero_expert_type": "identity",
        }


def _check_number(name: str, kind: str, value: Any) -> None:
    """Check one field by what it is declared as."""
    if kind == "bool":
        if type(value) is not bool:
            raise ValueError(f"{name} must be true or false, got {value!r}")
    elif kind in ("int", "float"):
        allowed = int if kind == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value):
            what = "a whole number" if kind == "int" else "a number"
            raise ValueError(f"{name} must be {what}, got {value!r}")
        if value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            raise ValueError(f"{name} must be positive, got {value}")
        if value > _MOST.get(name, math.inf):
            raise ValueError(f"{name} must be at most {_MOST[name]:g}, got {value}")
