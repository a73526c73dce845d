"""The base model and its adapters: fetched, checked, described, loaded."""
