"""`slim_hebbian`: BDH-SLIM learning by local rules alone.

The model is `slim_backprop`'s; `train.learning_rule: hebbian` in its section of params.yaml makes the difference.
Nothing is differentiated: hidden maps follow Oja's rule, the readout follows the delta rule, the embedding keeps its
random value (a rule for it one layer down, through the readout, would not be local). What such hidden maps are worth
is the distance to `slim_frozen`, whose hidden maps never learn.

Left alone, Oja's rule turns every neuron of a map into the same first principal component, at unit length; their sum
drowns the embedding in the stream, and the readout is left with little more than the unigram distribution. Homeostasis
holds that growth at `target_activity` if it is the faster of the two: per step Oja's rule grows a neuron by at most
hebbian_lr * n_embd (the squared length of a normalised input), homeostasis shrinks it by at most a tenth.
"""

from bdh.models.slim import TINY, Config, Model

__all__ = ["TINY", "Config", "Model"]
