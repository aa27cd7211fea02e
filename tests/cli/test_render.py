"""``render``: a picture with something in it, made without a display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .support import bean, refused, smooth_map, succeed, write_ply


def read_png(path: Path) -> NDArray[np.uint8]:
    """Pixels (height, width, 3), by VTK's reader."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOImage import vtkPNGReader

    reader = vtkPNGReader()
    reader.SetFileName(str(path))
    reader.Update()
    image = reader.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[..., :3]


def test_surfaces_fill_a_picture_of_the_size_asked_for(tmp_path: Path) -> None:
    points, triangles = bean(2)
    first = write_ply(tmp_path / "first.ply", points, triangles)
    second = write_ply(tmp_path / "second.ply", smooth_map(points), triangles)
    picture = tmp_path / "both.png"
    out = succeed("render", first, second, "-o", picture, "--size", "640x480", fresh=True)
    assert out == f"{picture}\n"
    pixels = read_png(picture)
    assert pixels.shape == (480, 640, 3)
    assert (pixels < 240).any(axis=2).mean() > 0.05


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    surface = write_ply(tmp_path / "a.ply", *bean(1))
    assert "a.jpg" in refused("render", surface, "-o", tmp_path / "a.jpg")
    assert "none.ply" in refused("render", tmp_path / "none.ply", "-o", tmp_path / "a.png")
    assert "thickness" in refused("render", surface, "-o", tmp_path / "a.png", "--color-by", "thickness")
    assert "run" in refused("render", tmp_path, "-o", tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]


def test_a_surface_with_a_point_that_is_no_number_is_drawn_where_asked(tmp_path: Path) -> None:
    points, triangles = bean(2)
    points[3] = np.nan
    surface = write_ply(tmp_path / "nan.ply", points, triangles)
    assert "--repair" in refused("render", surface, "-o", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    succeed("render", surface, "-o", tmp_path / "a.png", "--repair", "--size", "320x240")
    assert (read_png(tmp_path / "a.png") < 240).any(axis=2).mean() > 0.05
