"""BDH trained with the two penalties of the two-stage protocol: the model is `bdh`, the objective differs.

`train.l1` weighs the mean activity of x_sparse, `train.l21` the group norms of encoder, encoder_v and decoder
(`variant.bdh_structured.train` in params.yaml: 2e-3 and 1e-4). Both have a gradient. In the public code of that
protocol the activations are detached first, so there the L1 term trains nothing.
"""

from bdh.models.bdh import TINY, Config, Model

__all__ = ["TINY", "Config", "Model"]
