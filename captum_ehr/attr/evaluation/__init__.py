"""Whether an explanation can be believed: what is measured, on the user's own model.

:mod:`.game` makes the model a function of which players are there, :mod:`.shapley` and
:mod:`.measures` ask it, :mod:`.contenders` are whose attributions are asked about,
:mod:`.randomised` gives them a model that has learnt nothing, :mod:`.evaluating` puts
it all together within a budget.
"""
