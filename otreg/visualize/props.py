"""Layers of a scene as things VTK can draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from otreg.surface import FloatArray, Surface
from otreg.visualize.colouring import Colouring
from otreg.visualize.scene import Layer
from otreg.visualize.view import View

if TYPE_CHECKING:
    from vtkmodules.vtkCommonDataModel import vtkPolyData
    from vtkmodules.vtkRenderingCore import vtkActor

_TIP = 0.30
"""Length of an arrow's head, as a share of the arrow."""


def actor_of(
    layer: Layer, colouring: Colouring | None, view: View, *, pixel: float, point: float
) -> vtkActor:
    """An actor of a layer.

    Parameters
    ----------
    layer : Layer
    colouring : Colouring, optional
        Turns the layer's values into colours; without it, or without values, the layer has its own colour.
    view : View
        Ghosts are clear where they face the viewer.
    pixel : float
        Size of a drawn pixel in length units: it sets the size of a cloud's points.
    point : float
        Drawn pixels in a point (1/72 inch), for the width of lines.
    """
    # Before any mapper is made: it registers the ones that can draw.
    import vtkmodules.vtkRenderingOpenGL2  # noqa: F401

    painted = colours_of(layer, colouring)
    if layer.kind == "lines":
        return _line_actor(layer, painted, point)
    if layer.kind == "arrows":
        return _arrow_actor(layer, painted)
    if layer.ghost and layer.kind == "surface":
        return _ghost_actor(layer, painted, view)
    actor = _actor(_poly_data(layer, painted), layer)
    look = actor.GetProperty()
    _shade(look)
    look.SetOpacity(layer.opacity * (0.35 if layer.ghost else 1.0))
    if layer.kind == "points":
        look.RenderPointsAsSpheresOn()
        look.SetPointSize(float(np.clip(0.9 * _spacing(layer.points) / pixel, 4.0, 24.0)))
    return actor


def colours_of(layer: Layer, colouring: Colouring | None) -> NDArray[np.uint8] | None:
    """Colours (N, 3) of a layer's points, None where it has one colour."""
    if colouring is None or layer.values is None:
        return None
    return colouring.colours(layer.values)


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


def _actor(data: vtkPolyData, layer: Layer) -> vtkActor:
    from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper

    mapper = vtkPolyDataMapper()
    mapper.SetInputData(data)
    mapper.SetScalarVisibility(data.GetPointData().GetScalars() is not None)
    mapper.SetColorModeToDirectScalars()
    actor = vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*layer.colour)
    return actor


def _shade(look: object) -> None:
    """Soft relief with a little gloss."""
    look.SetInterpolationToPhong()  # type: ignore[attr-defined]
    look.SetAmbient(0.16)  # type: ignore[attr-defined]
    look.SetDiffuse(0.84)  # type: ignore[attr-defined]
    look.SetSpecular(0.10)  # type: ignore[attr-defined]
    look.SetSpecularPower(18.0)  # type: ignore[attr-defined]


def _ghost_actor(layer: Layer, painted: NDArray[np.uint8] | None, view: View) -> vtkActor:
    """A translucent actor, clear where it faces the viewer, with an outline where it turns away."""
    facing = np.abs(Surface(layer.points, layer.cells).normals @ view.towards_viewer)
    alpha = layer.opacity * (0.05 + 0.75 * (1.0 - facing) ** 3)
    rgba = np.empty((len(layer.points), 4), np.uint8)
    rgba[:, :3] = np.rint(255 * np.array(layer.colour)) if painted is None else painted
    rgba[:, 3] = np.rint(255 * np.clip(alpha, 0.0, 1.0))
    actor: vtkActor = _actor(_poly_data(layer, rgba), layer)
    actor.ForceTranslucentOn()
    actor.GetProperty().LightingOff()
    return actor


def _line_actor(layer: Layer, painted: NDArray[np.uint8] | None, point: float) -> vtkActor:
    actor = _actor(_poly_data(layer, painted), layer)
    # Lines that lie on a surface, contours say, are drawn in front of it.
    mapper = actor.GetMapper()
    mapper.SetResolveCoincidentTopologyToPolygonOffset()
    mapper.SetRelativeCoincidentTopologyLineOffsetParameters(0.0, -8.0)
    look = actor.GetProperty()
    look.LightingOff()
    look.SetOpacity(layer.opacity)
    look.SetLineWidth(max(layer.width * point, 1.0))
    return actor


def _arrow_actor(layer: Layer, painted: NDArray[np.uint8] | None) -> vtkActor:
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkPolyData
    from vtkmodules.vtkFiltersCore import vtkGlyph3D
    from vtkmodules.vtkFiltersSources import vtkArrowSource

    vectors = np.zeros_like(layer.points) if layer.vectors is None else layer.vectors
    length = np.linalg.norm(vectors, axis=1)
    known = np.isfinite(layer.points).all(axis=1) & np.isfinite(length) & (length > 0)
    points = vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(layer.points[known], dtype=np.float64), deep=1))
    data = vtkPolyData()
    data.SetPoints(points)
    heads = numpy_to_vtk(np.ascontiguousarray(vectors[known], dtype=np.float64), deep=1)
    heads.SetName("vectors")
    data.GetPointData().SetVectors(heads)
    if painted is not None:
        data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(painted[known]), deep=1))
    source = vtkArrowSource()
    source.SetTipLength(_TIP)
    source.SetTipRadius(0.10)
    source.SetShaftRadius(0.035)
    source.SetTipResolution(24)
    source.SetShaftResolution(16)
    glyphs = vtkGlyph3D()
    glyphs.SetInputData(data)
    glyphs.SetSourceConnection(source.GetOutputPort())
    glyphs.SetVectorModeToUseVector()
    glyphs.SetScaleModeToScaleByVector()
    glyphs.SetColorModeToColorByScalar()
    glyphs.Update()
    output = glyphs.GetOutput()
    if painted is None:
        output.GetPointData().SetScalars(None)
    actor = _actor(output, layer)
    _shade(actor.GetProperty())
    actor.GetProperty().SetOpacity(layer.opacity)
    return actor


def _poly_data(layer: Layer, colours: NDArray[np.uint8] | None) -> vtkPolyData:
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
    from vtkmodules.vtkFiltersCore import vtkPolyDataNormals

    known = np.all(np.isfinite(layer.points), axis=1)
    points = vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(np.nan_to_num(layer.points), dtype=np.float64), deep=1))
    data = vtkPolyData()
    data.SetPoints(points)
    cells = np.flatnonzero(known)[:, None]
    if layer.kind in ("surface", "lines"):
        cells = layer.cells[np.all(known[layer.cells], axis=1)]
    array = vtkCellArray()
    array.SetData(
        cells.shape[1], numpy_to_vtkIdTypeArray(np.ascontiguousarray(cells.ravel(), dtype=np.int64), deep=1)
    )
    if colours is not None:
        data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(colours), deep=1))
    if layer.kind == "lines":
        data.SetLines(array)
        return data
    if layer.kind != "surface":
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
