"""Pairs whose truth is known: those of ``data/`` and those of a folder of anatomy laid out as listed.

A pair is found if its files are there; everything else in a folder is ignored.

phantoms/         NAME_moving.vtk with point data ``truth``, NAME_fixed.ply: vertices
(top)             cerebellum_{suit,mnisymc}.surf.gii with data ``patch``, _landmarks.csv: landmarks and Dice
mouse_skull/      {C57BL6_J,MRL_MPJ}.ply, .mrk.json: landmarks
knee_femur/       {1,2,3}_RIGHT_femur_Nov_02_2021.vtk with data ``Cartilage Region``: Dice
femur_landmarks/  VSD00{1,2}_femur.vtk, VSD00{1,2}-lm.csv: landmarks
left_atrium/      LA_{01,02}_groomed.vtk, LA_{01,02}_groomed_local.particles: landmarks
cortex/           pial_left.gii.gz, fsa5_lh_aparc.annot, S1200.L.pial_MSMAll.32k_fs_LR.surf.gii,
                  Desikan.32k.L.label.gii: Dice
and, where both surfaces share one topology, so that the truth is the fixed vertices,
heart_cycle/      patient1_{EPICARDIAL,LV_ENDOCARDIAL}_{000,010}.vtk
face_obj/         SIMPOP_0{1,2}.obj
face_stl/         0{1,2}.stl
femur_stl/        femur_{reference,target}.stl
cerebellum/       PIAL_{SUIT,FSL}.surf.gii
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measures import LabelTruth, LandmarkTruth, Truth, VertexTruth
from meshes import Array, Integers, Mesh

from otreg import io


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two meshes and what is known about them.

    ``same_topology``: both have the same triangles, so the fixed one must be remeshed before a tool sees it.
    """

    moving: Mesh
    fixed: Mesh
    truths: tuple[Truth, ...]
    same_topology: bool = False


@dataclasses.dataclass(frozen=True)
class Task:
    """A named pair, read when it is asked for."""

    name: str
    files: tuple[Path, ...]
    load: Callable[[], Pair]


def find_tasks(folder: Path) -> list[Task]:
    """Every task of a folder whose files are all there, in a fixed order."""
    return [task for task in _all_tasks(folder) if all(path.exists() for path in task.files)]


def _mesh(path: Path) -> Mesh:
    surface = io.read(path, repair=True)
    return Mesh(np.array(surface.points), np.array(surface.triangles))


def _points(path: Path) -> Array:
    return np.array(io.read_landmarks(path).points)


def _by_landmarks(name: str, moving: Path, fixed: Path, landmarks: tuple[Path, Path]) -> Task:
    def load() -> Pair:
        pair = (_points(landmarks[0]), _points(landmarks[1]))
        return Pair(_mesh(moving), _mesh(fixed), (LandmarkTruth(*pair),))

    return Task(name, (moving, fixed, *landmarks), load)


def _by_vertices(name: str, moving: Path, fixed: Path) -> Task:
    def load() -> Pair:
        meshes = _mesh(moving), _mesh(fixed)
        return Pair(*meshes, (VertexTruth(meshes[1].points),), same_topology=True)

    return Task(name, (moving, fixed), load)


def _phantom(folder: Path, name: str) -> Task:
    moving, fixed = folder / f"{name}_moving.vtk", folder / f"{name}_fixed.ply"

    def load() -> Pair:
        truth = np.asarray(io.read(moving).point_data["truth"], np.float64)
        return Pair(_mesh(moving), _mesh(fixed), (VertexTruth(truth),))

    return Task(f"phantom {name}", (moving, fixed), load)


def _cerebellum_here(folder: Path) -> Task:
    names = ("suit", "mnisymc")
    surfaces = [folder / f"cerebellum_{name}.surf.gii" for name in names]
    landmarks = [folder / f"cerebellum_{name}_landmarks.csv" for name in names]

    def load() -> Pair:
        moving, fixed = (io.read(path) for path in surfaces)
        labels = [np.asarray(shape.point_data["patch"], np.int64) for shape in (moving, fixed)]
        shared = sorted((set(labels[0].tolist()) & set(labels[1].tolist())) - {0})
        truths = (
            LandmarkTruth(_points(landmarks[0]), _points(landmarks[1])),
            LabelTruth(labels[0], labels[1], np.array(fixed.points), shared),
        )
        return Pair(_mesh(surfaces[0]), _mesh(surfaces[1]), truths)

    return Task("cerebellum SUIT>MNISymC", (*surfaces, *landmarks), load)


def _knee(folder: Path, first: int, second: int) -> Task:
    paths = [folder / f"{subject}_RIGHT_femur_Nov_02_2021.vtk" for subject in (first, second)]

    def load() -> Pair:
        moving, fixed = (io.read(path) for path in paths)
        labels = [np.asarray(shape.point_data["Cartilage Region"], np.int64) for shape in (moving, fixed)]
        truth = LabelTruth(labels[0], labels[1], np.array(fixed.points), range(11, 16))
        return Pair(_mesh(paths[0]), _mesh(paths[1]), (truth,))

    return Task(f"knee_femur {first}>{second}", tuple(paths), load)


def _cortex(folder: Path) -> Task:
    moving, annotation = folder / "pial_left.gii.gz", folder / "fsa5_lh_aparc.annot"
    fixed = folder / "S1200.L.pial_MSMAll.32k_fs_LR.surf.gii"
    label_file = folder / "Desikan.32k.L.label.gii"

    def load() -> Pair:
        import nibabel

        values, _, raw_names = nibabel.freesurfer.read_annot(str(annotation))
        ours = {key: _region(name.decode()) for key, name in enumerate(raw_names)}
        image = nibabel.gifti.GiftiImage.from_filename(str(label_file))
        theirs = {key: _region(name) for key, name in image.labeltable.get_labels_as_dict().items()}
        common = sorted((set(ours.values()) & set(theirs.values())) - {"unknown", "???", "corpuscallosum"})
        number = {name: k + 1 for k, name in enumerate(common)}

        def renumbered(keys: Integers, names: dict[int, str]) -> Integers:
            return np.array([number.get(names.get(int(key), ""), 0) for key in keys], np.int64)

        meshes = _mesh(moving), _mesh(fixed)
        labels = renumbered(values, ours), renumbered(image.darrays[0].data, theirs)
        return Pair(*meshes, (LabelTruth(*labels, meshes[1].points, sorted(number.values())),))

    return Task("cortex left", (moving, annotation, fixed, label_file), load)


def _region(name: str) -> str:
    """A Desikan region's name without side and prefix: the two files spell them differently."""
    name = name.split(".")[-1]
    return name.removeprefix("L_").removeprefix("R_").lower()


def _all_tasks(folder: Path) -> Iterator[Task]:
    for path in sorted((folder / "phantoms").glob("*_moving.vtk")):
        yield _phantom(path.parent, path.name.removesuffix("_moving.vtk"))
    yield _cerebellum_here(folder)

    skulls = folder / "mouse_skull"
    names = ("C57BL6_J", "MRL_MPJ")
    first, second = (skulls / f"{name}.ply" for name in names)
    marks = (skulls / f"{names[0]}.mrk.json", skulls / f"{names[1]}.mrk.json")
    yield _by_landmarks(f"mouse_skull {names[0]}>{names[1]}", first, second, marks)
    for subject in (2, 3):
        yield _knee(folder / "knee_femur", 1, subject)
    femurs = folder / "femur_landmarks"
    first, second = (femurs / f"VSD00{subject}_femur.vtk" for subject in (1, 2))
    marks = (femurs / "VSD001-lm.csv", femurs / "VSD002-lm.csv")
    yield _by_landmarks("femur_landmarks VSD001>VSD002", first, second, marks)
    atria = folder / "left_atrium"
    first, second = (atria / f"LA_{subject}_groomed.vtk" for subject in ("01", "02"))
    marks = (atria / "LA_01_groomed_local.particles", atria / "LA_02_groomed_local.particles")
    yield _by_landmarks("left_atrium 01>02", first, second, marks)
    yield _cortex(folder / "cortex")
    for part in ("EPICARDIAL", "LV_ENDOCARDIAL"):
        first, second = (folder / "heart_cycle" / f"patient1_{part}_{frame}.vtk" for frame in ("000", "010"))
        yield _by_vertices(f"heart {part} 000>010", first, second)
    faces, femurs, cerebella = folder / "face_obj", folder / "femur_stl", folder / "cerebellum"
    yield _by_vertices("face_obj 01>02", faces / "SIMPOP_01.obj", faces / "SIMPOP_02.obj")
    yield _by_vertices("face_stl 01>02", folder / "face_stl" / "01.stl", folder / "face_stl" / "02.stl")
    yield _by_vertices("femur_stl", femurs / "femur_reference.stl", femurs / "femur_target.stl")
    yield _by_vertices(
        "cerebellum SUIT>FSL", cerebella / "PIAL_SUIT.surf.gii", cerebella / "PIAL_FSL.surf.gii"
    )
