"""Judging answers in pairs: what a judge is asked, by whom it is answered, what is kept, and what becomes of it."""
