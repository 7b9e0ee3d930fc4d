"""`slim_backprop`: BDH-SLIM learning by back-propagation alone."""

from bdh.models.slim import TINY, Config, Model

__all__ = ["TINY", "Config", "Model"]
