from __future__ import annotations

from imagery.fixtures import world

__all__ = ["world"]
