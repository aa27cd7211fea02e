"""VTK XML polydata (.vtp), read and written with VTK, whose messages are caught and checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from otreg.errors import InputError
from otreg.io.columns import LABEL_NAMES, decode_label_names, encode_label_names, free_name, plain_numbers
from otreg.io.formats import declared_frame
from otreg.io.polygons import join_cells
from otreg.surface import IntArray, Surface


@contextmanager
def collected_messages(*algorithms: Any) -> Iterator[list[str]]:
    """Collect VTK's complaints instead of letting it print them."""
    from vtkmodules.vtkCommonCore import vtkLogger, vtkOutputWindow, vtkStringOutputWindow

    messages: list[str] = []
    window, before = vtkStringOutputWindow(), vtkOutputWindow.GetInstance()
    verbosity = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    vtkOutputWindow.SetInstance(window)

    def keep(_source: Any, _event: str, text: str | None = None) -> None:
        messages.append(" ".join((text or "VTK reports an error").split()))

    keep.CallDataType = "string0"  # type: ignore[attr-defined]  # VTK's own way to hand over the text
    observers = [(item, item.AddObserver("ErrorEvent", keep)) for item in algorithms]
    try:
        yield messages
    finally:
        for item, tag in observers:
            item.RemoveObserver(tag)
        vtkOutputWindow.SetInstance(before)
        vtkLogger.SetStderrVerbosity(verbosity)
        messages += [
            " ".join(line.split()) for line in (window.GetOutput() or "").splitlines() if line.strip()
        ]


def read_vtp(data: bytes, path: Path) -> Surface:
    """Read an XML polydata file. ``path`` is read itself unless it is compressed."""
    if not re.search(rb"</VTKFile\s*>\s*$", data):
        raise InputError("truncated: the XML has no end; copy or export it again")
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    promised = [_promised(data, word) for word in ("Points", "Polys", "Strips")]
    if max(promised) > len(data):
        # Ask before VTK does: it would take the memory first. Compression cannot pay for that many.
        if promised[0] > 1000 * len(data):
            raise InputError(f"damaged: {promised[0]} points promised in {len(data)} bytes; export it again")
    reader = vtkXMLPolyDataReader()
    with TemporaryDirectory() as folder:
        source = path
        if path.read_bytes()[:2] == b"\x1f\x8b":
            source = Path(folder) / "decompressed.vtp"
            source.write_bytes(data)
        reader.SetFileName(str(source))
        with collected_messages(reader) as messages:
            reader.Update()
    output = reader.GetOutput()
    found = [output.GetNumberOfPoints(), output.GetNumberOfPolys(), output.GetNumberOfStrips()]
    if messages or found != promised:
        reason = messages[0][:150] if messages else f"{promised[0]} points promised, {found[0]} found"
        raise InputError(f"truncated or damaged ({reason}); copy or export it again")
    if not found[0]:
        raise InputError("no points; export the file again")
    ignored: list[str] = []
    for count, what in ((output.GetNumberOfLines(), "lines"), (output.GetNumberOfVerts(), "vertices")):
        if count and (what == "lines" or found[1] or found[2]):
            ignored.append(what)
    points = np.array(vtk_to_numpy(output.GetPoints().GetData()), np.float64)
    polygons = _cells(output.GetPolys(), vtk_to_numpy)
    strips = _cells(output.GetStrips(), vtk_to_numpy)
    point_data: dict[str, Any] = {}
    for values in _arrays(output.GetPointData()):
        name = values.GetName() or "data"
        if not hasattr(values, "GetTuple1"):
            ignored.append(f"text array {name!r}")
            continue
        point_data[free_name(name, point_data)] = np.array(vtk_to_numpy(values))
    ignored += [f"cell data {values.GetName()!r}" for values in _arrays(output.GetCellData())]
    names, frame = _field_data(output.GetFieldData(), vtk_to_numpy)
    return Surface(
        points,
        join_cells([polygons], [strips], len(points)),
        point_data,
        frame or declared_frame(data[:2000]),
        {key: table for key, table in names.items() if key in point_data},
        metadata={"ignored": ignored},
    )


def _promised(data: bytes, word: str) -> int:
    """Points, polygons … that all pieces together announce."""
    return sum(int(n) for n in re.findall(rb"""NumberOf%s\s*=\s*["']\s*(\d+)""" % word.encode(), data))


def _arrays(attributes: Any) -> list[Any]:
    return [attributes.GetAbstractArray(k) for k in range(attributes.GetNumberOfArrays())]


def _cells(cells: Any, vtk_to_numpy: Any) -> tuple[IntArray, IntArray]:
    if not cells.GetNumberOfCells():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    offsets = np.array(vtk_to_numpy(cells.GetOffsetsArray()), np.int64)
    corners = np.array(vtk_to_numpy(cells.GetConnectivityArray()), np.int64)
    if (np.diff(offsets) < 0).any() or offsets[-1] > len(corners):
        raise InputError("damaged: the offsets of the polygons do not fit; export the file again")
    return corners[: offsets[-1]], np.diff(offsets)


def _field_data(fields: Any, vtk_to_numpy: Any) -> tuple[dict[str, dict[int, str]], str | None]:
    """Label names and frame; all other field data is ignored."""
    names: dict[str, dict[int, str]] = {}
    frame = None
    for values in _arrays(fields):
        if values.GetName() == LABEL_NAMES and hasattr(values, "GetTuple1"):
            names = decode_label_names(vtk_to_numpy(values).astype(np.uint8).tobytes())
        elif values.GetName() == "SPACE" and values.GetNumberOfValues():
            frame = declared_frame(f"SPACE={values.GetVariantValue(0).ToString()}")
    return names, frame


def write_vtp(surface: Surface, path: Path) -> list[str]:
    """Write compressed XML, double coordinates; the frame goes where 3D Slicer keeps it (``SPACE``)."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints, vtkStringArray
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

    def array(values: Any, name: str) -> Any:
        converted = numpy_to_vtk(np.ascontiguousarray(values), deep=True)
        converted.SetName(name)
        return converted

    points, cells, polydata = vtkPoints(), vtkCellArray(), vtkPolyData()
    points.SetData(array(surface.points, "Points"))
    polydata.SetPoints(points)
    corners = surface.triangles if surface.has_triangles else np.arange(len(surface))[:, None]
    cells.SetData(
        corners.shape[1], numpy_to_vtkIdTypeArray(np.ascontiguousarray(corners.ravel(), np.int64), deep=True)
    )
    (polydata.SetPolys if surface.has_triangles else polydata.SetVerts)(cells)
    warnings = []
    for name, values in surface.point_data.items():
        plain = plain_numbers(values)
        if plain is None:
            warnings.append(f"point data {name!r} is not numeric and was left out")
        else:
            polydata.GetPointData().AddArray(array(plain.reshape(len(plain), -1), name))
    if surface.frame:
        space = vtkStringArray()
        space.SetName("SPACE")
        space.InsertNextValue(surface.frame)
        polydata.GetFieldData().AddArray(space)
    if surface.label_names:
        text = np.frombuffer(encode_label_names(surface.label_names), np.uint8)
        polydata.GetFieldData().AddArray(array(text, LABEL_NAMES))
    writer = vtkXMLPolyDataWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(polydata)
    with collected_messages(writer) as messages:
        done = writer.Write()
    if not done or messages:
        raise OSError(messages[0] if messages else "VTK could not write it")
    return warnings
