"""Measurements beside the peers; the README's tables and figures are made of them.

Run ``python -m benchmarks`` for all of them, or name parts: ``completeness``,
``speed``, ``scaling``, ``memory``, ``faithfulness``, ``stability``, ``mimic3``,
``captum-classes``; ``report`` makes tables and figures of what is there.
"""
