"""Data to run on; one DataModule a file."""

from runmodel_ext.data.diabetes import Diabetes
from runmodel_ext.data.digits import Digits
from runmodel_ext.data.image_folder import ImageFolder

__all__ = ["Diabetes", "Digits", "ImageFolder"]
