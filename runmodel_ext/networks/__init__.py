"""Networks, for those who bring none of their own."""

from runmodel_ext.networks.small import CNN, MLP

__all__ = ["CNN", "MLP"]
