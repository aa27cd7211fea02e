"""Pictures, animations and pages of shapes and registrations, drawn without a display."""

from otreg.visualize.build import scene
from otreg.visualize.colouring import Colouring
from otreg.visualize.pictures import render, render_registration, render_surfaces
from otreg.visualize.report import report_html, write_report
from otreg.visualize.scene import Layer, Panel, Scene

__all__ = [
    "Colouring",
    "Layer",
    "Panel",
    "Scene",
    "render",
    "render_registration",
    "render_surfaces",
    "report_html",
    "scene",
    "write_report",
]
