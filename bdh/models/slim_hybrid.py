"""`slim_hybrid`: BDH-SLIM learning by back-propagation and local rules, in that order, at every step.

The model is `slim_backprop`'s; `train.learning_rule: hybrid` in its section of params.yaml makes the difference.
"""

from bdh.models.slim import TINY, Config, Model

__all__ = ["TINY", "Config", "Model"]
