"""A scene as JSON for the viewer of web pages: its arrays in one packed block (zlib, base64), each stored once."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otreg.errors import InputError
from otreg.surface import FloatArray, IntArray
from otreg.visualize import colours
from otreg.visualize.decimate import Thinned, decimate, thin_points
from otreg.visualize.draw import cameras
from otreg.visualize.scene import Layer, Panel, Scene
from otreg.visualize.view import VIEWS, View, axes_of

_SHADES = 64
"""Colours of a map that the page holds; it blends between them."""
_QUANTA = 65535


def scene_json(scene: Scene, numbers: Mapping[str, IntArray] | None = None) -> str:
    """What the viewer needs of a scene, as JSON that may stand inside a ``<script>`` element.

    Layers that are called the same, in several panels, come once: the first. Positions are float32 relative to
    the middle of the scene, motion is 16-bit within its bounding box, so that an error is below 1/65,000 of that.
    Meshes and clouds above the budgets of :mod:`otreg.visualize.decimate` are thinned.

    ``numbers``: by name of a layer, what its points (N,) are called where they are read; default their rows.
    """
    layers, notes = light_layers(scene)
    for place, (layer, rows) in enumerate(layers):
        called = (numbers or {}).get(layer.name)
        if called is not None:
            layers[place] = (layer, called if rows is None else called[rows])
    return dump(_Payload(scene, layers, [*scene.notes, *notes]).made())


def dump(value: Any) -> str:
    """JSON without the characters that could end or open an HTML element; the same value gives the same text."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def light_layers(scene: Scene) -> tuple[list[tuple[Layer, IntArray | None]], list[str]]:
    """The layers of all panels, each name once, finite and thinned where a browser needs it.

    Layers with the same triangles keep the same vertices, so that a vertex is the same one in all of them.

    Returns
    -------
    layers : list of (layer, rows)
        ``rows`` (n,) of the vertices that are left, or None where these are all.
    notes : list of str
        A sentence for each layer that was thinned, with both counts.

    Raises
    ------
    InputError
        If there is nothing to show.
    """
    named: dict[str, Layer] = {}
    for layer in scene.layers:
        named.setdefault(layer.name, layer)
    layers: list[tuple[Layer, IntArray | None]] = []
    notes: list[str] = []
    done: list[tuple[Layer, Thinned]] = []
    for layer in named.values():
        light, rows = _finite(layer), None
        vertices = np.arange(len(light.points))
        cells = light.cells
        if light.kind == "surface":
            alike = [thinned for known, thinned in done if _same_mesh(known, light)]
            thinned = alike[0] if alike else decimate(light.points, light.cells)
            done.append((light, thinned))
            vertices, cells = thinned
        elif light.kind == "points":
            rows = np.flatnonzero(np.isfinite(layer.points).all(axis=1))
            rows = rows if len(rows) < len(layer.points) else None
            vertices = thin_points(light.points)
        if len(vertices) < len(light.points):
            notes.append(_thinned(light, len(vertices), len(cells)))
            rows = vertices if rows is None else rows[vertices]
            light = _part(light, vertices, cells)
        layers.append((light, rows))
    if not any(len(layer.points) for layer, _ in layers):
        raise InputError("there are no points to draw")
    return layers, notes


def _same_mesh(first: Layer, second: Layer) -> bool:
    return len(first.points) == len(second.points) and np.array_equal(first.cells, second.cells)


def _finite(layer: Layer) -> Layer:
    """The layer without points that are not finite: cells with such corners are left out, too."""
    known: NDArray[np.bool_] = np.asarray(np.isfinite(layer.points).all(axis=1))
    if layer.motion is not None:
        known &= np.isfinite(layer.motion).all(axis=(0, 2))
    if layer.vectors is not None:
        known &= np.isfinite(layer.vectors).all(axis=1)
    if known.all():
        return layer
    if layer.kind in ("points", "arrows"):
        return _part(layer, np.flatnonzero(known), layer.cells)
    # Vertices stay, in any place, so that their numbers do; nothing refers to them.
    place = layer.points[known].mean(axis=0) if known.any() else np.zeros(3)
    return dataclasses.replace(
        layer,
        points=np.where(known[:, None], layer.points, place),
        cells=layer.cells[known[layer.cells].all(axis=1)],
        motion=None if layer.motion is None else np.where(known[None, :, None], layer.motion, place),
    )


def _thinned(layer: Layer, points: int, triangles: int) -> str:
    if layer.kind == "points":
        return f"{layer.name}: shown with {points:,} of its {len(layer.points):,} points."
    return (
        f"{layer.name}: shown with {triangles:,} of its {len(layer.cells):,} triangles, between {points:,} of its "
        f"{len(layer.points):,} vertices."
    )


def _part(layer: Layer, vertices: IntArray, cells: IntArray) -> Layer:
    return dataclasses.replace(
        layer,
        points=layer.points[vertices],
        cells=cells,
        vectors=None if layer.vectors is None else layer.vectors[vertices],
        values=None if layer.values is None else layer.values[vertices],
        motion=None if layer.motion is None else layer.motion[:, vertices],
    )


class _Payload:
    """Collects a scene's arrays and what is said of them."""

    def __init__(self, scene: Scene, layers: list[tuple[Layer, IntArray | None]], notes: list[str]) -> None:
        self._scene, self._layers, self._notes = scene, layers, notes
        self._places: dict[bytes, int] = {}
        self._size = 0
        self._view = _first_view(scene, [layer for layer, _ in layers])
        self._centre = self._view.centre

    def made(self) -> dict[str, Any]:
        scene = self._scene
        return {
            "title": scene.title or "",
            "unit": scene.unit,
            "notes": self._notes,
            "centre": self._centre.tolist(),
            "first": np.round(self._view.axes, 7).tolist(),
            "views": {name: np.round(axes_of(name, scene.frame), 7).tolist() for name in VIEWS},
            "background": None if scene.background == (1.0, 1.0, 1.0) else list(scene.background),
            "colouring": self._colouring(),
            "layers": [self._layer(layer, rows) for layer, rows in self._layers],
            "packed": self._packed(),
        }

    def _layer(self, layer: Layer, rows: IntArray | None) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": layer.name,
            "kind": layer.kind,
            "colour": [round(float(part), 4) for part in layer.colour],
            "opacity": layer.opacity,
            "ghost": layer.ghost,
            "outline": layer.outline,
            "visible": layer.visible,
            "width": layer.width,
            "points": self._floats(layer.points - self._centre),
        }
        if rows is not None:
            found["rows"] = self._store("u4", rows.astype("<u4"))
        if layer.kind in ("surface", "lines"):
            found["cells"] = self._whole(layer.cells)
        if layer.vectors is not None:
            found["vectors"] = self._floats(layer.vectors)
        if layer.values is not None and self._scene.colouring is not None:
            found["values"] = self._floats(np.asarray(layer.values, dtype=np.float64))
        if layer.motion is not None and len(layer.motion) > 1:
            found["motion"] = self._motion(layer.motion - self._centre)
        return found

    def _motion(self, motion: FloatArray) -> dict[str, Any]:
        flat = motion.reshape(-1, 3)
        low, high = (flat.min(axis=0), flat.max(axis=0)) if len(flat) else (np.zeros(3), np.zeros(3))
        step = np.maximum((high - low) / _QUANTA, 1e-30)
        quanta = np.rint((motion - low) / step).clip(0, _QUANTA).astype("<u2")
        return {
            "times": len(motion),
            "low": low.tolist(),
            "step": step.tolist(),
            # from one time to the next, modulo 2^16: small numbers pack well
            **self._store("u2", np.diff(quanta, axis=0, prepend=np.zeros_like(quanta[:1]))),
        }

    def _colouring(self) -> dict[str, Any] | None:
        colouring = self._scene.colouring
        if colouring is None:
            return None
        found: dict[str, Any] = {
            "title": colouring.title,
            "kind": colouring.kind,
            "unit": colouring.unit,
            "unknown": _bytes(np.asarray(colours.UNKNOWN)),
        }
        if colouring.kind == "categorical":
            return {
                **found,
                "codes": colouring.codes.tolist(),
                "names": list(colouring.names),
                "colours": _bytes(colouring.label_colours),
            }
        low, high = (float(limit) for limit in colouring.limits)
        return {
            **found,
            "limits": [low, high],
            "ticks": colours.ticks(low, high) if high > low else [low],
            "colours": _bytes(colouring.table(_SHADES)),
        }

    def _floats(self, values: FloatArray) -> dict[str, Any]:
        return self._store("f4", np.asarray(values).astype("<f4"))

    def _whole(self, values: IntArray) -> dict[str, Any]:
        small = values.size == 0 or int(values.max()) <= _QUANTA
        return self._store("u2", values.astype("<u2")) if small else self._store("u4", values.astype("<u4"))

    def _store(self, kind: str, values: NDArray[Any]) -> dict[str, Any]:
        """Keep an array's bytes, once; first bytes of all numbers, then second ones, …, which packs better."""
        planes = np.ascontiguousarray(values).view(np.uint8).reshape(values.size, -1).T.tobytes()
        if planes not in self._places:
            self._places[planes] = self._size
            self._size += len(planes)
        return {"type": kind, "at": self._places[planes], "count": values.size}

    def _packed(self) -> str:
        return base64.b64encode(zlib.compress(b"".join(self._places), 9)).decode("ascii")


def _first_view(scene: Scene, layers: list[Layer]) -> View:
    """How the page looks at the scene at first: as a picture would, at what is visible."""
    shown = [layer for layer in layers if layer.visible] or layers
    still = [layer.at(1.0) if layer.motion is not None else layer for layer in shown]
    still = [dataclasses.replace(layer, motion=None) for layer in still]
    whole = dataclasses.replace(scene, views=scene.views[:1])
    return cameras(whole, [Panel("", still)], 1.5)[0][0]


def _bytes(rgb: FloatArray) -> list[Any]:
    found: list[Any] = np.rint(255.0 * np.asarray(rgb)).astype(int).tolist()
    return found
