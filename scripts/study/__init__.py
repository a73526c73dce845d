"""What the study is: its configuration, its runs, its words, and what decides each of its jobs.

The lowest package: plain Python that loads in milliseconds and imports neither `arms` nor `paired`. The rules import
all of it; programs import `runs` and `vocabulary`.
"""
