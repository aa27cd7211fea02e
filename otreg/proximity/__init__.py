"""Closest points on surfaces."""

from otreg.proximity.index import Closest, SurfaceIndex, closest_points

__all__ = ["Closest", "SurfaceIndex", "closest_points"]
