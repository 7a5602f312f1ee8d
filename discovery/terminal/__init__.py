"""How the command line reads and prints.

`usage.py` and `options.py` read arguments, `output.py` and `table.py` print results, `view.py` shows work under way.
"""
