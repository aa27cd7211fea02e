"""Registration: presets, stages, :func:`register`, its progress and its report."""

from otreg.registration.front import register
from otreg.registration.progress import ProgressEvent
from otreg.registration.result import Registration
from otreg.registration.run import write_run
from otreg.registration.settings import PRESETS, Settings

__all__ = ["PRESETS", "ProgressEvent", "Registration", "Settings", "register", "write_run"]
