"""Maps of space: linear maps, splines, diffeomorphisms, their composites and inverses, and the files that keep them.

A map moves POINTS of MOVING into the space of FIXED. Every kind keeps the contract of :class:`Deformation`.
"""

from otreg.deformations.affine import Affine
from otreg.deformations.base import Deformation
from otreg.deformations.composite import Composite, compose, split_pose
from otreg.deformations.diffeomorphism import Diffeomorphism, InverseFlow
from otreg.deformations.field import DisplacementField, FieldAccuracy, sample_field
from otreg.deformations.files import load_transform
from otreg.deformations.inverse import InverseDeformation, InverseReport
from otreg.deformations.itk import ItkTransform, itk_transform
from otreg.deformations.spline import Spline
from otreg.deformations.trajectory import Leg, legs, trajectory

__all__ = [
    "Affine",
    "Composite",
    "Deformation",
    "Diffeomorphism",
    "DisplacementField",
    "FieldAccuracy",
    "InverseDeformation",
    "InverseFlow",
    "InverseReport",
    "ItkTransform",
    "Leg",
    "Spline",
    "compose",
    "itk_transform",
    "legs",
    "load_transform",
    "sample_field",
    "split_pose",
    "trajectory",
]
