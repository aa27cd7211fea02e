"""Pictures of shapes and registrations, drawn without a display."""

from otreg.visualize.pictures import render, render_registration, render_surfaces

__all__ = ["render", "render_registration", "render_surfaces"]
