"""Pictures, animations and pages of shapes and registrations, drawn without a display."""

from otreg.visualize.animate import Animation, animate
from otreg.visualize.build import scene
from otreg.visualize.colouring import Colouring
from otreg.visualize.pictures import render, render_registration, render_surfaces
from otreg.visualize.report import report_html, write_report
from otreg.visualize.scene import Layer, Panel, Scene

__all__ = [
    "Animation",
    "Colouring",
    "Layer",
    "Panel",
    "Scene",
    "animate",
    "render",
    "render_registration",
    "render_surfaces",
    "report_html",
    "scene",
    "write_report",
]
