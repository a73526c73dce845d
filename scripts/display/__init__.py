"""What a reader sees: the figures and the parts of the report, and the words and numbers that both share.

words       names, units, differences, intervals, p-values, verdicts
frames      the tables of the statistics, read and in the order in which everything shows them
style       colours and look of every figure; writing it as SVG and PNG
forest      paired differences with both intervals, also for comparisons outside the workflow
figures     arms, seeds, categories, power, training
tables      rows of contrasts, arms and categories, for the page
examples    answers of every arm to the same prompts
checklist   what may go wrong, where it is prevented, which test shows it: docs/checklist.md
standing    how each of its items stands in a study
provenance  data audits, versions, devices and what had to shrink, for the page

Only this package and the programs `plot` and `report` know matplotlib and jinja2.
"""
