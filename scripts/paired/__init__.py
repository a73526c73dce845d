"""Paired statistics for arms x training seeds x prompts: numpy, scipy, pandas, pyarrow and statsmodels only.

A score passes these stages, each once; `analysis` is the way itself:

plan         the analysis plan: metrics, contrasts, error rates, and what may be claimed
question     what a study asks: arms, contrasts, and the rule and the words of its answer, handed in as data
prompts      the prompts, with category, cluster and split
score_files  score tables on disk, every rule of the contract checked, errors that name file, column and key
pairwise_files  judgements of two answers on disk, read into one table and into scores by contrast
scores       one metric as dense arrays, and what a missing output counts as
estimate     the hypotheses, the paired differences of each, and what describes them
scopes       one hypothesis: both scopes of claim (checkpoint, method) from one array of paired differences
pooling      one seed variance for trained arms that vary alike
families     families, adjusted p-values, a verdict in one word
caveats      what limits the claims: seeds left out, failed outputs, metrics outside the plan
decision     the gates, and GO / HOLD / NO-GO / INVALID
words        verdict, answer and decision in sentences
variation    shares of prompts, seeds and samples, and what one more of each would buy
tables       everything as tables with fixed columns

The methods that they use:

signflip     the test: exact, saddlepoint or Monte Carlo sign-flip on cluster sums; Wilcoxon for the curious
intervals    cluster-robust (CR2) and seed-aware (MOVER) variances, intervals, one- and two-sided p
proportions  one-seed binary data: Tango, Newcombe, odds ratio
adjust       Holm, Benjamini-Hochberg, Benjamini-Yekutieli, false coverage rate
effects      effect sizes, heterogeneity over categories
power        detectable differences, required prompts and seeds, projections
forecast     the chance of each decision before a study runs
pilot        what a pilot's scores tell about those of another study
rule         the numbers of the rule
pairwise     bias of position and length, Bradley-Terry strengths

And the command `paired`: power (`prospects`, from guesses or a `pilot`), which plans a study; compare (with `inputs`,
which reads logs of evaluation tools and tables, and `summary`); and freeze, which puts a plan on record. What is
computed, and why: docs/statistics.md.
"""
