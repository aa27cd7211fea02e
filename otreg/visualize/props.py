"""Surfaces and clouds as things VTK can draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from otreg.surface import FloatArray, Surface
from otreg.visualize.view import View

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData
    from vtkmodules.vtkRenderingCore import vtkActor


def solid(
    shape: Surface,
    colour: tuple[float, float, float],
    colours: NDArray[np.uint8] | None = None,
    *,
    pixel: float = 1.0,
    opacity: float = 1.0,
) -> vtkActor:
    """An actor of a shape in one colour, or in the given colours (N, 3 or 4) per point.

    ``pixel`` is the size of a drawn pixel in length units: it sets the size of a cloud's points.
    """
    # Before any mapper is made: it registers the ones that can draw.
    import vtkmodules.vtkRenderingOpenGL2  # noqa: F401
    from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper

    mapper = vtkPolyDataMapper()
    data = _poly_data(shape, colours)
    mapper.SetInputData(data)
    mapper.SetScalarVisibility(colours is not None)
    mapper.SetColorModeToDirectScalars()
    actor = vtkActor()
    actor.SetMapper(mapper)
    look = actor.GetProperty()
    look.SetColor(*colour)
    look.SetInterpolationToPhong()
    look.SetAmbient(0.16)
    look.SetDiffuse(0.84)
    look.SetSpecular(0.10)
    look.SetSpecularPower(18.0)
    look.SetOpacity(opacity)
    if not shape.has_triangles:
        look.RenderPointsAsSpheresOn()
        look.SetPointSize(float(np.clip(0.9 * _spacing(shape.points) / pixel, 4.0, 24.0)))
    return actor


def ghost(shape: Surface, colour: tuple[float, float, float], view: View, *, pixel: float) -> vtkActor:
    """A translucent actor, clear where it faces the viewer, with an outline where it turns away."""
    if not shape.has_triangles:
        return solid(shape, colour, pixel=pixel, opacity=0.35)
    facing = np.abs(shape.normals @ view.towards_viewer)
    alpha = 0.05 + 0.75 * (1.0 - facing) ** 3
    rgba = np.empty((len(shape), 4), np.uint8)
    rgba[:, :3] = np.rint(255 * np.array(colour))
    rgba[:, 3] = np.rint(255 * alpha)
    actor: vtkActor = solid(shape, colour, rgba, pixel=pixel)
    actor.ForceTranslucentOn()
    actor.GetProperty().LightingOff()
    return actor


def shadow(actor: vtkActor) -> vtkActor:
    """The same thing in flat black: what it covers of a picture."""
    from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper

    mapper = vtkPolyDataMapper()
    mapper.SetInputData(actor.GetMapper().GetInput())
    mapper.ScalarVisibilityOff()
    flat = vtkActor()
    flat.SetMapper(mapper)
    look = flat.GetProperty()
    look.DeepCopy(actor.GetProperty())
    look.SetColor(0.0, 0.0, 0.0)
    look.SetOpacity(1.0)
    look.LightingOff()
    return flat


def _poly_data(shape: Surface, colours: NDArray[np.uint8] | None) -> vtkPolyData:
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
    from vtkmodules.vtkFiltersCore import vtkPolyDataNormals

    known = np.all(np.isfinite(shape.points), axis=1)
    points = vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(np.nan_to_num(shape.points), dtype=np.float64), deep=1))
    data = vtkPolyData()
    data.SetPoints(points)
    if shape.has_triangles:
        cells, corners = shape.triangles[np.all(known[shape.triangles], axis=1)], 3
    else:
        cells, corners = np.flatnonzero(known)[:, None], 1
    array = vtkCellArray()
    array.SetData(
        corners, numpy_to_vtkIdTypeArray(np.ascontiguousarray(cells.ravel(), dtype=np.int64), deep=1)
    )
    if colours is not None:
        data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(colours), deep=1))
    if not shape.has_triangles:
        data.SetVerts(array)
        return data
    data.SetPolys(array)
    # Smooth shading: one normal per vertex, once triangles that disagree about the outside are turned over.
    normals = vtkPolyDataNormals()
    normals.SetInputData(data)
    normals.SplittingOff()
    normals.ConsistencyOn()
    normals.Update()
    return normals.GetOutput()


def _spacing(points: FloatArray) -> float:
    """Median distance to the nearest neighbour, over at most 2,000 points."""
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2:
        return 0.0
    some = points[:: max(len(points) // 2000, 1)]
    return float(np.median(cKDTree(points).query(some, k=2)[0][:, 1]))
