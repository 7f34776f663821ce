"""Plug-ins: their base classes, how they are found, the scaffold and the generated pages."""
