"""An explanation as the last line of a notebook cell: a compact piece of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from captum_ehr.explanation.words import answer, remarks
from captum_ehr.visualization.colors import STOPS, ColorScale
from captum_ehr.visualization.layout import (
    Item,
    PatientView,
    number,
    patient_view,
    shorten,
    signed,
    strongest,
    total_of,
    visit_rows,
)

if TYPE_CHECKING:
    from captum_ehr.explanation import Explanation

_PATIENTS, _VISITS, _CHIPS = 3, 6, 8
_MUTED = "color:#5c6670"


def to_html(explanation: Explanation) -> str:
    """Some patients' visits as coloured chips, self-contained, all data escaped.

    Args:
        explanation: The explanation; the first few patients are shown.

    Returns:
        HTML with inline styles alone.
    """
    from captum_ehr.explanation import completeness, summary

    account = "".join(
        f"<div>{escape(line)}</div>" for line in completeness(explanation)
    )
    messages = "".join(
        f'<div style="color:#8a6100">! {escape(message)}</div>'
        for message in remarks(explanation)
    )
    shown = range(min(len(explanation), _PATIENTS))
    patients = "".join(_patient(patient_view(explanation, i)) for i in shown)
    rest = len(explanation) - len(shown)
    more = f'<div style="{_MUTED}">+{rest} more patients</div>' if rest else ""
    # Dark text on white, also in notebooks with a dark theme: chips are coloured.
    return (
        '<div style="background:#fff;color:#1b1f24;padding:8px 12px;font-size:13px;'
        f'line-height:1.5"><b>{escape(" · ".join(summary(explanation)))}</b>'
        f"{account}{messages}{patients}{more}</div>"
    )


def _patient(view: PatientView) -> str:
    """One patient: f(x0) → f(x), the strongest visits in order, the values."""
    rows = visit_rows(view)
    ranked = sorted(range(len(rows)), key=lambda i: -rows[i].strength)
    lines = [
        _line(rows[i].label, strongest(_flat(rows[i].groups)), view.scale)
        for i in sorted(ranked[:_VISITS])
    ]
    if len(rows) > _VISITS:
        total = signed(sum(rows[i].total for i in ranked[_VISITS:]), 3)
        text = f"+{len(rows) - _VISITS} more visits, together {total}"
        lines.append(_row("", f'<span style="{_MUTED}">{text}</span>'))
    for band in view.bands:
        if band.kind != "codes":
            items = [item for step in band.steps for item in step.items]
            lines.append(_line(band.feature, strongest(items), view.scale))
    head = (
        f"<b>{escape(view.patient_id)}</b> · {escape(view.target)} · f(x0) "
        f"{answer(view.f_baseline)} → f(x) <b>{answer(view.f_input)}</b> "
    )
    return (
        f'<div style="margin-top:8px;border-top:1px solid #d9dee3;padding-top:6px">'
        f"{head}{_legend(view.scale)}</div>"
        '<table style="border-collapse:collapse;font-size:13px">'
        f"{''.join(lines)}</table>"
    )


def _flat(groups: Sequence[tuple[str, tuple[Item, ...]]]) -> list[Item]:
    return [item for _, items in groups for item in items]


def _legend(scale: ColorScale) -> str:
    limit, colors = number(scale.limit), ",".join(STOPS)
    return (
        f'<span style="{_MUTED};margin-left:12px">lowers −{limit} '
        '<span style="display:inline-block;width:90px;height:10px;border:1px solid '
        f'#aaa;background:linear-gradient(90deg,{colors})"></span> +{limit} raises'
        "</span>"
    )


def _row(label: str, content: str) -> str:
    cell = "text-align:left;vertical-align:top;padding:2px 10px 2px 0;background:#fff"
    return (
        f'<tr><td style="{cell};{_MUTED};white-space:nowrap">'
        f'{escape(shorten(label, 30))}</td><td style="{cell}">{content}</td></tr>'
    )


def _line(label: str, items: Sequence[Item], scale: ColorScale) -> str:
    """A row of chips, and how many are not shown."""
    chips = "".join(_chip(item, scale) for item in items[:_CHIPS])
    hidden = items[_CHIPS:]
    if hidden:
        text = f"+{len(hidden)} more, together {signed(total_of(hidden), 3)}"
        chips += f'<span style="{_MUTED}">{text}</span>'
    return _row(label, chips)


def _chip(item: Item, scale: ColorScale) -> str:
    text = escape(shorten(item.code, 40))
    if item.value == item.value:
        text += f" = {number(item.value)}"
    elif item.is_named:
        text += f' <span style="opacity:.85">{escape(shorten(item.name, 26))}</span>'
    about = f"{item.feature}: {item.code}, {item.name}, attribution {item.attribution}"
    look = (
        "display:inline-block;margin:1px 4px 1px 0;padding:0 7px;border-radius:9px;"
        f"border:1px solid rgba(0,0,0,.22);color:{scale.text(item.attribution)};"
        f"background:{scale.color(item.attribution)}"
    )
    amount = f"<small>{signed(item.attribution)}</small>"
    return f'<span title="{escape(about)}" style="{look}">{text} {amount}</span>'
