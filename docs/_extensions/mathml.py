"""Formulas as MathML, made while building: every browser draws it, offline."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

#: A named function, ln or tanh, before an argument without brackets.
FUNCTION = re.compile(r"<mi>([a-z]{2,})</mi>(?=<m(?!o))")
SPACE = '<mspace width="0.167em" />'


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_formula(node, "inline"))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_formula(node, "block")}</div>')
    raise nodes.SkipNode


def _formula(node: nodes.math | nodes.math_block, display: str) -> str:
    """The formula; what cannot be drawn is warned of, which fails ``make docs``."""
    formula = convert(node.astext(), display=display)
    if "\\" in formula:
        logger.warning("no MathML for a command in %r", node.astext(), location=node)
    # A macron is an accent of letters; fonts draw the overline as wide as a symbol.
    formula = formula.replace("&#x000AF;", "&#x0203E;")
    return FUNCTION.sub(rf"{SPACE}<mi>\1</mi>{SPACE}", formula)


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx draw formulas by this renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
