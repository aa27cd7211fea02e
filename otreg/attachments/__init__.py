"""How far two shapes are apart, differentiable in the moving points: what a registration makes small."""

from otreg.attachments.base import Attachment
from otreg.attachments.combined import Combined
from otreg.attachments.diracs import Diracs
from otreg.attachments.geometry import Shape
from otreg.attachments.landmarks import LandmarkDistance
from otreg.attachments.metrics import MMD, Current, KernelAttachment, Varifold
from otreg.attachments.transport import Transport

__all__ = [
    "MMD",
    "Attachment",
    "Combined",
    "Current",
    "Diracs",
    "KernelAttachment",
    "LandmarkDistance",
    "Shape",
    "Transport",
    "Varifold",
]
