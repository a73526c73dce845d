"""The data: checked as text, turned into token ids, graded."""
