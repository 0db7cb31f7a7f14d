"""Measurements beside the peers; the README's table is made from their results.

Run ``python -m benchmarks`` for all of them, or one part alone: ``speed``,
``completeness``, ``faithfulness``; ``table`` makes the table of what is there.
"""
