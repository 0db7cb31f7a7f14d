"""``captum-ehr demo``: two models trained, their patients explained, the files written.

The command runs :func:`captum_ehr.demo.run.run_demo`. Nothing is imported here: the
command line reads this package before it knows what is asked of it.
"""
