from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    n_layer: int = 6
    n_embd: int = 256
    n_head: int = 4
    mlp_internal_dim_multiplier: int = 128
    dropout: float = 0.1
