"""`slim_hebbian`: BDH-SLIM learning by local rules alone.

The model is `slim_backprop`'s; `train.learning_rule: hebbian` in its section of params.yaml makes the difference.
Nothing is differentiated: hidden maps follow Oja's rule, the readout follows the delta rule, the embedding keeps its
random value (a rule for it one layer down, through the readout, would not be local). What such hidden maps are worth
is the distance to `slim_frozen`, whose hidden maps never learn.
"""

from bdh.models.slim_backprop import TINY, Config, Model

__all__ = ["TINY", "Config", "Model"]
