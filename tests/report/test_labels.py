from __future__ import annotations

from ctrbench.report.labels import labels
from ctrbench.runs.record import Choice


def test_labels_show_only_settings_that_differ() -> None:
    choices = [
        Choice(name="adasparse", settings={"form": form, "r_min": 0.15}) for form in ("fusion", "scaling")
    ]
    shown = labels([*choices, Choice(name="plain"), Choice(name="maml", settings={"steps": 2})])
    assert list(shown.values()) == ["adasparse[form=fusion]", "adasparse[form=scaling]", "plain", "maml"]


def test_labels_write_settings_as_selectors_accept_them() -> None:
    choices = [Choice(name="m", settings={"w": [8, 4], "x": None, "y": True}), Choice(name="m")]
    assert "m[w=8-4,x=none,y=true]" in labels(choices).values()
