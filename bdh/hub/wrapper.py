"""What makes an architecture of this project a model of the `transformers` library; only exported folders run it.

`bdh export` writes this file and the source of one architecture into a single `modeling_hatchery.py`
(`bdh.hub.bundle`). The state of a stream lives in a `HatcheryCache`, which `generate` takes and hands on: a text is
read once, token by token. Of a model with a state of constant size the cache does not grow. One with a limit of
positions keeps its last tokens beside its cache; where that is full, the last half of them is read into a fresh one,
as `bdh.generation` does.

Letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from bdh.models.base import LanguageModel, State

CACHE = "cache" if "cache" in inspect.signature(CausalLMOutputWithPast).parameters else "past_key_values"
"""What this version of `transformers` calls the cache in outputs and arguments."""

IGNORED = -100
"""Label of a token that counts for nothing in the loss."""


class HatcheryConfig(PreTrainedConfig):
    """An architecture and its settings: `architecture` is a file of bdh/models, `settings` its Config."""

    model_type = "hatchery"

    def __init__(
        self,
        architecture: str = "",
        settings: dict[str, Any] | None = None,
        vocab_size: int = 1,
        max_position_embeddings: int | None = None,
        num_hidden_layers: int = 1,
        use_cache: bool = True,
        **more: Any,
    ) -> None:
        """`max_position_embeddings` is None for a model that reads any number of tokens."""
        super().__init__(**(more | {"tie_word_embeddings": False}))
        self.architecture, self.settings = architecture, dict(settings or {})
        self.vocab_size, self.num_hidden_layers = vocab_size, num_hidden_layers
        self.max_position_embeddings, self.use_cache = max_position_embeddings, use_cache


class HatcheryCache(Cache):
    """The state of B streams after `tokens_read` tokens; `recent_BT` are their last ones, of a model with a limit."""

    state: State | None = None
    tokens_read: int = 0
    recent_BT: Tensor | None = None
    is_compileable: ClassVar[bool] = False
    is_croppable: ClassVar[bool] = False

    def __init__(self) -> None:
        """A stream that has read nothing."""
        super().__init__(layers=[])

    def get_seq_length(self, layer_idx: int = 0, *unused: Any, **others: Any) -> int:
        """Tokens read so far, whatever the layer."""
        return self.tokens_read

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Stream i goes on as stream `beam_idx[i]`."""
        if self.state is not None:
            self.state = {name: part.index_select(0, beam_idx.to(part.device)) for name, part in self.state.items()}
        if self.recent_BT is not None:
            self.recent_BT = self.recent_BT.index_select(0, beam_idx.to(self.recent_BT.device))

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.tokens_read, self.recent_BT = None, 0, None

    def state_bytes(self) -> int:
        """Bytes of the state of all streams."""
        return sum(part.numel() * part.element_size() for part in (self.state or {}).values())


class HatcheryForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model of this project; a subclass names its `architecture` and the class of its `settings`."""

    config_class = HatcheryConfig
    base_model_prefix = "model"
    _is_stateful = True
    architecture: ClassVar[type[LanguageModel]]
    settings: ClassVar[type]

    def __init__(self, config: HatcheryConfig) -> None:
        """Build the architecture; every buffer is kept with the weights."""
        super().__init__(config)
        self.model = self.architecture(self.settings(**config.settings), config.vocab_size)
        for module in self.model.modules():
            module._non_persistent_buffers_set.clear()
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """The architecture has drawn its weights itself."""

    def get_input_embeddings(self) -> Any:
        """None: what turns tokens into vectors is the architecture's own business."""

    @classmethod
    def _supports_default_dynamic_cache(cls, *unused: Any) -> bool:
        return False

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: HatcheryCache | None = None,
        past_key_values: HatcheryCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> Any:
        """Logits (B,T,V) for the token after each of `input_ids` (B,T), which follow what `cache` has read.

        attention_mask: 0 at padding. labels: `input_ids`, -100 where nothing counts; the loss is the mean
        cross-entropy in nats of every label given the tokens before it. Raises ValueError for more tokens than the
        model has positions, and for padding that its cache cannot hold.
        """
        cache = past_key_values if cache is None else cache
        if cache is None and (not self.training and self.config.use_cache if use_cache is None else use_cache):
            cache = HatcheryCache()
        limit = self.model.max_positions()
        if limit is not None and input_ids.shape[1] > limit:
            raise ValueError(f"{input_ids.shape[1]} tokens are more than the {limit} positions of this model; cut them")
        starts_B = _padding(attention_mask, input_ids, keeps=cache is not None)
        logits_BTV = self._read(input_ids, cache) if starts_B is None else self._read_each(input_ids, starts_B, cache)
        loss = None
        if labels is not None:
            shifted_BT = labels[:, 1:].to(logits_BTV.device)
            loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), shifted_BT.flatten(), ignore_index=IGNORED)
        held: dict[str, Any] = {CACHE: cache}
        output = CausalLMOutputWithPast(loss=loss, logits=logits_BTV, **held)
        return output.to_tuple() if return_dict is False else output

    def _read(self, tokens_BT: Tensor, cache: HatcheryCache | None) -> Tensor:
        """Logits of `tokens_BT`; the cache holds the state behind them."""
        if cache is None:
            return self.model(tokens_BT).logits
        T, limit, unread_BT = tokens_BT.shape[1], self.model.max_positions(), tokens_BT
        if limit is not None:
            seen = [tokens_BT] if cache.recent_BT is None else [cache.recent_BT, tokens_BT]
            recent_BT = torch.cat(seen, dim=1)
            if recent_BT.shape[1] > limit:
                unread_BT = recent_BT = recent_BT[:, -max(T, limit // 2) :]
                cache.state = None
            cache.recent_BT = recent_BT
        state = self.model.initial_state(len(tokens_BT)) if cache.state is None else cache.state
        output = self.model(unread_BT, state=state)
        cache.state = output.state
        cache.tokens_read += T
        return output.logits[:, -T:]

    def _read_each(self, tokens_BT: Tensor, starts_B: list[int], cache: HatcheryCache | None) -> Tensor:
        """`_read` of texts that begin at `starts_B`, each by itself; logits of padding are 0."""
        if cache is not None and cache.tokens_read:
            raise ValueError("padding behind text that was read already; give the new tokens without any")
        logits_BTV = torch.zeros(*tokens_BT.shape, self.config.vocab_size, dtype=self.dtype, device=tokens_BT.device)
        states: list[State] = []
        for row, start in enumerate(starts_B):
            own = None if cache is None else HatcheryCache()
            logits_BTV[row, start:] = self._read(tokens_BT[row : row + 1, start:], own)[0].to(logits_BTV.dtype)
            if own is not None and own.state is not None:
                states.append(own.state)
        if cache is not None:
            if self.model.max_positions() is not None:
                raise ValueError("the cache of this model takes no padding; give one text at a time (batch_size 1)")
            cache.state = {name: torch.cat([state[name] for state in states]) for name in states[0]}
            cache.tokens_read = tokens_BT.shape[1]
        return logits_BTV

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = True,
        cache: HatcheryCache | None = None,
        past_key_values: HatcheryCache | None = None,
        **unused: Any,
    ) -> dict[str, Any]:
        """What is unread of `input_ids`: all of the text, or, where the mask is longer, the end of it."""
        cache = past_key_values if cache is None else cache
        total = input_ids.shape[1] if attention_mask is None else attention_mask.shape[1]
        unread = total - (0 if cache is None else cache.tokens_read)
        limit = self.model.max_positions()
        unread = max(1, unread if limit is None else min(unread, limit))
        mask = None if attention_mask is None else attention_mask[:, -unread:]
        given = {"input_ids": input_ids[:, -unread:], "attention_mask": mask, "use_cache": use_cache}
        return given | {CACHE: cache}

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: Any, *more: Any, **others: Any) -> Any:
        """As everywhere, and the cache goes on to the next step."""
        updated = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *more, **others)
        return updated | {CACHE: outputs[CACHE]} if CACHE in outputs else updated


def _padding(mask: Tensor | None, tokens_BT: Tensor, keeps: bool) -> list[int] | None:
    """Where the text of every stream begins, None where there is nothing to leave out.

    A causal model whose state is not kept may read padding behind a text like text.
    """
    if mask is None or bool(mask[:, -tokens_BT.shape[1] :].all()):
        return None
    mask_BT = mask[:, -tokens_BT.shape[1] :].bool()
    starts_B = mask_BT.int().argmax(dim=1)
    after_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device) >= starts_B[:, None]
    if keeps and not bool((mask_BT == after_BT).all()):
        raise ValueError("padding behind or inside a text cannot be left out of a state; pad on the left")
    return starts_B.tolist()
