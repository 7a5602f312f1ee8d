"""A task trained with a rule and a schedule of any origin: `stepsmith train` and `stepsmith schedules`.

Start with `train.py`, which `command.py` calls; `rules.py` and `schedule_sources.py` find what a user names, `modules.py` functions
of a user's own files. `online.py` and `schedule_loop.py` are AutoLRS on a task, `population_training.py` and `population_loop.py`
population-based training; `schedule_listing.py` draws the schedules.
"""
