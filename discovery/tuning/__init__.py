"""The numbers of one program, tuned as a last stage: `constants.py` says which, `tune.py` moves them, `command.py` is `stepsmith tune`."""
