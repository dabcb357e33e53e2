"""`jepa study`: arms compared on the same seeds at an equal budget, from one file, with error bars.

settings        the file's settings            worker       claims cells and does them
plan            every cell, resolved           cell_run     one cell: train, score, outcome
budget, measure equal steps, time, FLOPs       ledger       claims and outcomes, what they are
store           the study's folder             file_ledger, database_ledger: where they are kept
statistics      paired by seed                 results      cells.csv, study.json
tables, charts, page, write: the report        search, launch, slurm: many cells, many processes
"""
