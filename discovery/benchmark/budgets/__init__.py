"""Schedules at short and long budgets, after the protocol of the REX paper (arXiv:2107.04197): `stepsmith evaluate --budgets`.

Each budget is a share of a workload's steps and has runs of its own, of which the schedule spans the whole. At each budget each
schedule gets a learning rate of its own, tuned in multiples of 3, and three trials. `cell.py` tunes one schedule at one budget,
`worker.py` does so in a process, `study.py` runs what its ledger lacks, `table.py` ranks the schedules.
"""
