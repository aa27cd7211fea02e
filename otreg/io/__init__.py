"""Reading and writing surfaces, point clouds, landmarks and values on points."""

from otreg.io.describe import describe, describe_surface
from otreg.io.files import atomic_path
from otreg.io.formats import supported_suffixes
from otreg.io.landmarks import is_landmark_file, read_landmarks, write_landmarks
from otreg.io.surfaces import attach_point_data, check_writable, read, read_point_data, write

__all__ = [
    "atomic_path",
    "attach_point_data",
    "check_writable",
    "describe",
    "describe_surface",
    "is_landmark_file",
    "read",
    "read_landmarks",
    "read_point_data",
    "supported_suffixes",
    "write",
    "write_landmarks",
]
