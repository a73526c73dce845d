"""Paired statistics for arms x training seeds x prompts: numpy, scipy, pandas, pyarrow and statsmodels only.

contract     the plan and the score tables, every rule checked, errors that name file, column and key
signflip     the test: exact, saddlepoint or Monte Carlo sign-flip on cluster sums; Wilcoxon for the curious
intervals    cluster-robust (CR2) and seed-aware (MOVER) variances, intervals, one- and two-sided p
proportions  one-seed binary data: McNemar, Tango, Newcombe, odds ratio
adjust       Holm, Benjamini-Hochberg, Benjamini-Yekutieli, false coverage rate
effects      effect sizes, heterogeneity over categories
power        detectable differences, required prompts and seeds, projections
inference    one hypothesis: both scopes of claim from one array of paired differences
contrasts    the whole study: families, rows, tables
verdict      verdicts, sentences, and the GO / HOLD / NO-GO / INVALID decision
"""
