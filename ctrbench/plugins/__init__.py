"""Methods and backbones: their base classes, selectors, scaffold and generated pages."""
